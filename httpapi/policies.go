package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

func (e *edge) policyList(w http.ResponseWriter, _ *http.Request) error {
	list, err := e.Policies.List()
	if err != nil {
		return err
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
	tag := etag(p.Revision)
	w.Header()["ETag"] = []string{tag}
	if unchanged(r, tag) {
		w.WriteHeader(http.StatusNotModified)
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
	if _, err = mediaType(r, api.MediaJSON, api.MediaYAML, "text/yaml", "application/x-yaml"); err != nil {
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
		res, err = e.Policies.Put(r.Context(), p, c, noForward)
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
	name, err := policyName(r)
	if err != nil {
		return err
	}
	conds, noForward, err := editHeaders(r)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(conds, func(c Condition) bool { return c.NoneMatch }) {
		return api.NewProblem(api.InvalidRequest, "If-None-Match means nothing for a DELETE; If-Match guards it")
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

// policyName is the name in the path. What would be the overrides of a policy
// is not taken for a policy of that name.
func policyName(r *http.Request) (string, error) {
	name := mux.Vars(r)["name"]
	if strings.HasSuffix(name, "/overrides") {
		return "", api.NewProblem(api.NotFound, "overrides are not supported in this version")
	}
	if err := policy.CheckName(name); err != nil {
		return "", err
	}
	return name, nil
}
