package httpapi

import (
	"net/http"

	"github.com/rlstore/rlstore/api"
)

func (e *edge) policyRevisions(w http.ResponseWriter, r *http.Request) error {
	name, err := policyName(r)
	if err != nil {
		return err
	}
	list, err := e.Policies.Revisions(name)
	if err != nil {
		return err
	}
	w.Header()["ETag"] = []string{etag(list.Revision)}
	respond(w, http.StatusOK, api.MediaJSON, list)
	return nil
}

type revertRequest struct {
	Revision *int64 `json:"revision"`
}

func (e *edge) policyRevert(w http.ResponseWriter, r *http.Request) error {
	name, conds, noForward, err := policyEdit(r)
	if err != nil {
		return err
	}
	why, err := note(r)
	if err != nil {
		return err
	}
	var req revertRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	switch {
	case req.Revision == nil:
		return api.NewProblem(api.InvalidRequest, "revision: the field is missing")
	case *req.Revision < 1:
		return api.NewProblem(api.InvalidRequest, "revision: it is %d; it needs to be 1 or more", *req.Revision)
	}
	var res PutResult
	err = firstThat(conds, func(c Condition) (err error) {
		res, err = e.Policies.Revert(r.Context(), name, uint64(*req.Revision), c, why, noForward)
		return err
	})
	if err != nil {
		return err
	}
	w.Header()["ETag"] = []string{etag(res.Policy.Revision)}
	respond(w, http.StatusOK, api.MediaJSON, res.Policy)
	return nil
}

func (e *edge) enforcementGet(w http.ResponseWriter, _ *http.Request) error {
	now, err := e.Switch.Enforcement()
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, now)
	return nil
}

type enforcementRequest struct {
	Enforcement *string `json:"enforcement"`
}

func (e *edge) enforcementPut(w http.ResponseWriter, r *http.Request) error {
	stay, err := noForward(r)
	if err != nil {
		return err
	}
	why, err := note(r)
	if err != nil {
		return err
	}
	var req enforcementRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Enforcement == nil {
		return api.NewProblem(api.InvalidRequest, "enforcement: the field is missing; it takes enforce, shadow or off")
	}
	now, err := e.Switch.SetEnforcement(r.Context(), *req.Enforcement, why, stay)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, now)
	return nil
}
