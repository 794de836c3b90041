package httpapi

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

func (e *edge) policyList(w http.ResponseWriter, r *http.Request) error {
	list, err := e.Policies.List()
	if err != nil {
		return err
	}
	if answeredUnchanged(w, r, list.Revision) {
		return nil
	}
	if list.Policies == nil {
		list.Policies = []api.Policy{}
	}
	respond(w, http.StatusOK, api.MediaJSON, list)
	return nil
}

func (e *edge) policyGet(w http.ResponseWriter, r *http.Request) error {
	name, err := policyName(r)
	if err != nil {
		return err
	}
	p, err := e.Policies.Get(name)
	if err != nil {
		return err
	}
	if answeredUnchanged(w, r, p.Revision) {
		return nil
	}
	respond(w, http.StatusOK, api.MediaJSON, p)
	return nil
}

// policyPost is policyPut for a document that brings its name along.
func (e *edge) policyPost(w http.ResponseWriter, r *http.Request) error {
	return e.storePolicy(w, r, "")
}

func (e *edge) policyPut(w http.ResponseWriter, r *http.Request) error {
	name, err := policyName(r)
	if err != nil {
		return err
	}
	return e.storePolicy(w, r, name)
}

// storePolicy stores the document in the body. name is the one in the address, or
// "", and then the answer tells the address of a new policy.
func (e *edge) storePolicy(w http.ResponseWriter, r *http.Request, name string) error {
	conds, noForward, err := editHeaders(r)
	if err != nil {
		return err
	}
	if err := documentType(r); err != nil {
		return err
	}
	why, err := note(r)
	if err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	p, wrong := policy.Parse(body, name)
	if len(wrong) > 0 {
		return policy.Problem(wrong)
	}
	var res PutResult
	err = firstThat(conds, func(c Condition) (err error) {
		res, err = e.Policies.Put(r.Context(), p, c, why, noForward)
		return err
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if res.Created {
		status = http.StatusCreated
		if name == "" {
			w.Header().Set("Location", "/v1/policies/"+res.Policy.Name) // of a name nothing needs escaping
		}
	}
	w.Header()["ETag"] = []string{etag(res.Policy.Revision)}
	respond(w, status, api.MediaJSON, res.Policy)
	return nil
}

func (e *edge) policyDelete(w http.ResponseWriter, r *http.Request) error {
	name, conds, noForward, err := policyEdit(r)
	if err != nil {
		return err
	}
	err = firstThat(conds, func(c Condition) error { return e.Policies.Delete(r.Context(), name, c, noForward) })
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// editHeaders reads what guards an edit, and whether it may be forwarded.
func editHeaders(r *http.Request) (conds []Condition, forbidden bool, err error) {
	if conds, err = conditions(r); err != nil {
		return nil, false, err
	}
	forbidden, err = noForward(r)
	return conds, forbidden, err
}

// documentType checks that the body is JSON or YAML.
func documentType(r *http.Request) error {
	_, err := mediaType(r, api.MediaJSON, api.MediaYAML, "text/yaml", "application/x-yaml")
	return err
}

// note reads who edits, from the header, and why, from the address.
func note(r *http.Request) (n Note, err error) {
	if n.Author, err = author(r); err != nil {
		return n, err
	}
	n.Reason, err = parameter(r, "reason")
	if err == nil {
		err = api.CheckNote("reason", n.Reason)
	}
	return n, err
}

func author(r *http.Request) (string, error) {
	a := r.Header.Get(api.HeaderAuthor)
	return a, api.CheckNote("header "+api.HeaderAuthor, a)
}

// parameter is the value of one query parameter, or "" without it.
func parameter(r *http.Request, name string) (string, error) {
	if r.URL.RawQuery == "" {
		return "", nil
	}
	switch v := r.URL.Query()[name]; len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	default:
		return "", api.NewProblem(api.InvalidRequest, "%s: it is given %d times; give it once", name, len(v))
	}
}

// policyName is the name in the path.
func policyName(r *http.Request) (string, error) {
	name := mux.Vars(r)["name"]
	return name, policy.CheckName(name)
}
