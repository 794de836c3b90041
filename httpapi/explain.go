package httpapi

import (
	"net/http"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
)

type explainRequest struct {
	Policy *string `json:"policy"`
	Key    *string `json:"key"`
	Cost   *int64  `json:"cost"`
}

// explain tells why a take is decided as it is. It is a peek that asks about the
// take's cost, and what this node's catalog says about the key.
func (e *edge) explain(w http.ResponseWriter, r *http.Request) error {
	stay, err := noForward(r)
	if err != nil {
		return err
	}
	var req explainRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	cost := int64(1)
	if req.Cost != nil {
		cost = *req.Cost
	}
	if err := api.CheckCost(cost); err != nil {
		return err
	}
	t := takeRequest{Policy: req.Policy, Key: req.Key, Cost: &cost}
	a, err := e.one(r.Context(), api.Peek, &t, limiter.Options{NoForward: stay})
	if err != nil {
		return err
	}
	doc, err := e.Policies.Get(*req.Policy)
	if err != nil {
		return err
	}
	override, found, err := e.Overrides.Matching(*req.Policy, *req.Key)
	if err != nil {
		return err
	}
	cluster, err := e.Switch.Enforcement()
	if err != nil {
		return err
	}
	tightest := a.set.Tightest()
	never := tightest >= 0 && cost > a.set.Limits[tightest].Burst // and nothing is refused, so it is let pass
	if never {
		a.res.Binding = tightest
	}
	x := api.Explanation{
		State: a.state(true), Cost: cost, Binding: a.set.Limits[a.res.Binding].Name,
		PolicyEnforcement: doc.Enforcement, ClusterEnforcement: cluster.Enforcement,
		Enforcement: api.Milder(doc.Enforcement, cluster.Enforcement),
		Slot:        api.Slot(*req.Key), Shard: a.res.Commit.Shard,
	}
	x.Passes = x.RetryAfterMS == 0 && !never
	if found {
		x.Override = &override
	}
	for _, s := range e.Cluster().Shards {
		if s.ID == x.Shard {
			x.Leader = s.Leader
		}
	}
	respond(w, http.StatusOK, api.MediaJSON, x)
	return nil
}
