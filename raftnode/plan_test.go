package raftnode

import (
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// TestWhatNoClusterCanBeIsRefused: who believed such a plan would open a billion
// groups, or never start again.
func TestWhatNoClusterCanBeIsRefused(t *testing.T) {
	id := strings.Repeat("0a", 16)
	some := []Member{{ID: "n1", Raft: "h:1"}}
	good := plan{ClusterID: id, Shards: api.Slots, Members: some}
	if err := good.check(); err != nil {
		t.Fatalf("a good plan: %v", err)
	}
	for name, p := range map[string]plan{
		"nothing":             {},
		"no members":          {ClusterID: id, Shards: 1},
		"no id":               {Shards: 1, Members: some},
		"a short id":          {ClusterID: id[:30], Shards: 1, Members: some},
		"an id of no digits":  {ClusterID: strings.Repeat("xy", 16), Shards: 1, Members: some},
		"no shards":           {ClusterID: id, Members: some},
		"negative shards":     {ClusterID: id, Shards: -1, Members: some},
		"more than slots":     {ClusterID: id, Shards: api.Slots + 1, Members: some},
		"a member without id": {ClusterID: id, Shards: 1, Members: []Member{{Raft: "h:1"}}},
		"one without address": {ClusterID: id, Shards: 1, Members: []Member{{ID: "n1"}}},
		"one with a long id":  {ClusterID: id, Shards: 1, Members: []Member{{ID: strings.Repeat("x", maxNodeID+1), Raft: "h:1"}}},
		"one member twice":    {ClusterID: id, Shards: 1, Members: append(some, some...)},
	} {
		if p.check() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestAProblemWithoutAnOutcomeIsNoAnswer: to take it for one would be to guess
// whether the call had an effect.
func TestAProblemWithoutAnOutcomeIsNoAnswer(t *testing.T) {
	for _, payload := range []string{`null`, `{}`, `{"code":"no-leader"}`, `{"code":"no-leader","outcome":"maybe"}`, `[`} {
		r := result("peer", frame{status: replyProblem, payload: []byte(payload)})
		if r.err == nil || api.AsProblem(r.err).Outcome != api.Unknown {
			t.Errorf("%s: %+v", payload, r)
		}
	}
	r := result("peer", frame{status: replyProblem, payload: []byte(`{"code":"no-leader","outcome":"not_applied"}`)})
	if api.AsProblem(r.err).Code != api.NoLeader {
		t.Errorf("a problem as it should be: %+v", r)
	}
}
