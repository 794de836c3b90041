package httpapi

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// maxPage bounds the overrides of one answer. With limits of usual length it is
// well below what clients read of an answer.
const maxPage = 1000

func (e *edge) overrideList(w http.ResponseWriter, r *http.Request) error {
	name, err := policyName(r)
	if err != nil {
		return err
	}
	after, err := parameter(r, "after")
	if err != nil {
		return err
	}
	limit := maxPage
	if text, err := parameter(r, "limit"); err != nil {
		return err
	} else if text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return api.NewProblem(api.InvalidRequest, "limit: it takes 1 to %d, not %.40q", maxPage, text)
		}
	}
	list, err := e.Overrides.Overrides(name, after, limit)
	if err != nil {
		return err
	}
	w.Header()["ETag"] = []string{etag(list.Revision)}
	respond(w, http.StatusOK, api.MediaJSON, list)
	return nil
}

func (e *edge) overridePut(w http.ResponseWriter, r *http.Request) error {
	name, conds, noForward, err := policyEdit(r)
	if err != nil {
		return err
	}
	who, err := author(r)
	if err != nil {
		return err
	}
	if err := documentType(r); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	o, wrong := policy.ParseOverride(body)
	if len(wrong) > 0 {
		return policy.Problem(wrong)
	}
	var res OverrideResult
	err = firstThat(conds, func(c Condition) (err error) {
		res, err = e.Overrides.PutOverride(r.Context(), name, o, c, who, noForward)
		return err
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if res.Created {
		status = http.StatusCreated
	}
	w.Header()["ETag"] = []string{etag(res.PolicyRevision)}
	respond(w, status, api.MediaJSON, res.Override)
	return nil
}

func (e *edge) overrideDelete(w http.ResponseWriter, r *http.Request) error {
	name, conds, noForward, err := policyEdit(r)
	if err != nil {
		return err
	}
	why, err := note(r)
	if err != nil {
		return err
	}
	key, err := parameter(r, "key")
	if err != nil {
		return err
	}
	if key == "" {
		return api.NewProblem(api.InvalidRequest, "key: the parameter is missing; it names the override to remove, as in ?key=vip:*")
	}
	if err := api.CheckKey(key); err != nil {
		return err
	}
	var revision uint64
	err = firstThat(conds, func(c Condition) (err error) {
		revision, err = e.Overrides.DeleteOverride(r.Context(), name, key, c, why, noForward)
		return err
	})
	if err != nil {
		return err
	}
	w.Header()["ETag"] = []string{etag(revision)}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// policyEdit reads what an edit of a policy that exists is about: its name, what
// guards it, and whether it may be forwarded.
func policyEdit(r *http.Request) (name string, conds []Condition, noForward bool, err error) {
	if name, err = policyName(r); err != nil {
		return "", nil, false, err
	}
	if conds, noForward, err = editHeaders(r); err != nil {
		return "", nil, false, err
	}
	if slices.ContainsFunc(conds, func(c Condition) bool { return c.NoneMatch }) {
		err = api.NewProblem(api.InvalidRequest, "If-None-Match means nothing for a %s here; If-Match guards it", r.Method)
	}
	return name, conds, noForward, err
}
