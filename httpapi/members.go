package httpapi

import (
	"net/http"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/rlstore/rlstore/api"
)

type transferRequest struct {
	To *string `json:"to"`
}

func (e *edge) leaderTransfer(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["id"]
	shard, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return api.NewProblem(api.NotFound, "there is no shard %.40q; a shard is a number, and 0 is the catalog", id)
	}
	stay, err := noForward(r)
	if err != nil {
		return err
	}
	var req transferRequest
	if r.ContentLength != 0 { // without a body there is no wish
		if err := readJSON(r, &req); err != nil {
			return err
		}
	}
	to := ""
	if req.To != nil {
		if to = *req.To; to == "" {
			return api.NewProblem(api.InvalidRequest, "to: it is empty; give a node's id, or leave the field out")
		}
	}
	leader, err := e.Members.Transfer(r.Context(), uint32(shard), to, stay)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.TransferResponse{Shard: uint32(shard), Leader: leader})
	return nil
}

type memberRequest struct {
	ID   *string `json:"id"`
	Raft *string `json:"raft"`
	HTTP *string `json:"http"`
}

func (e *edge) memberAdd(w http.ResponseWriter, r *http.Request) error {
	var req memberRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	missing := ""
	switch {
	case req.ID == nil:
		missing = "id"
	case req.Raft == nil:
		missing = "raft"
	case req.HTTP == nil:
		missing = "http"
	}
	if missing != "" {
		return api.NewProblem(api.InvalidRequest, "%s: the field is missing", missing)
	}
	m := api.MemberRequest{ID: *req.ID, Raft: *req.Raft, HTTP: *req.HTTP}
	if err := m.Check(); err != nil {
		return err
	}
	if err := e.Members.AddMember(r.Context(), m.ID, m.Raft, m.HTTP); err != nil {
		return err
	}
	return e.cluster(w, r)
}

func (e *edge) memberRemove(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["id"]
	if err := api.CheckNodeID(id); err != nil {
		return err
	}
	if err := e.Members.RemoveMember(r.Context(), id); err != nil {
		return err
	}
	return e.cluster(w, r)
}

func (e *edge) nodeDrain(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength != 0 { // without a body there is nothing to read
		if err := readJSON(r, &struct{}{}); err != nil {
			return err
		}
	}
	if err := e.Members.StandDown(r.Context()); err != nil {
		return err
	}
	return e.cluster(w, r)
}

// readJSON reads a body that is JSON only into v; see decodeJSON.
func readJSON(r *http.Request, v any) error {
	if _, err := mediaType(r, api.MediaJSON); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	return decodeJSON(body, v)
}
