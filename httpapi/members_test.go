package httpapi

import (
	"context"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// worldMembers is a cluster of n1, n2 and two shards, whose leaders move at once.
type worldMembers struct{ *world }

func (w worldMembers) Transfer(_ context.Context, shard uint32, to string, noForward bool) (string, error) {
	if err := (worldPolicies(w)).elsewhere(noForward); err != nil {
		return "", err
	}
	switch {
	case shard > 2:
		return "", api.NewProblem(api.NotFound, "there is no shard %d", shard)
	case to == "":
		return "n2", nil
	case to != "n1" && to != "n2":
		return "", api.NewProblem(api.InvalidRequest, "to: there is no node %q", to)
	}
	return to, nil
}

func (w worldMembers) AddMember(_ context.Context, id, raft, http string) error {
	if id == "n4" && raft == "h4:9101" && http == "http://h4:8101" {
		return nil
	}
	return api.NewProblem(api.Conflict, "no node answers at %s", raft)
}

func TestANodeIsAddedAsItAnnouncesItself(t *testing.T) {
	w := newWorld(t)
	good := `{"id":"n4","raft":"h4:9101","http":"http://h4:8101"}`
	if r := w.post("/v1/cluster/members", good); r.StatusCode != 200 || r.body != w.do("GET", "/v1/cluster", "").body {
		t.Errorf("%s %s, want what the cluster is now", r.Status, r.body)
	}
	for _, tc := range []struct {
		name, old, with string
		code            api.Code
		says            string
	}{
		{"nobody there", "h4:9101", "h5:9101", api.Conflict, "h5:9101"},
		{"no id", `"id":"n4",`, ``, api.InvalidRequest, "id: the field is missing"},
		{"no raft", `"raft":"h4:9101",`, ``, api.InvalidRequest, "raft: the field is missing"},
		{"no http", `,"http":"http://h4:8101"`, ``, api.InvalidRequest, "http: the field is missing"},
		{"empty id", `"n4"`, `""`, api.InvalidRequest, `"" is not a node id`},
		{"bad id", `"n4"`, `"n/4"`, api.InvalidRequest, "not a node id"},
		{"null id", `"n4"`, `null`, api.InvalidRequest, "id: null"},
		{"id of another type", `"n4"`, `4`, api.InvalidRequest, "id: it needs to be a string"},
		{"unknown field", `{`, `{"voter":true,`, api.InvalidRequest, "voter: there is no such field"},
		{"no port", "h4:9101", "h4", api.InvalidRequest, `raft: "h4" is not host:port`},
		{"no host", "h4:9101", ":9101", api.InvalidRequest, "raft:"},
		{"port 0", "h4:9101", "h4:0", api.InvalidRequest, "raft:"},
		{"a port by name", "h4:9101", "h4:raft", api.InvalidRequest, "raft:"},
		{"no scheme", "http://h4:8101", "h4:8101", api.InvalidRequest, "http:"},
		{"another scheme", "http://h4:8101", "ftp://h4:8101", api.InvalidRequest, "http:"},
		{"a path", "http://h4:8101", "http://h4:8101/v1", api.InvalidRequest, "http:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantProblem(t, w.post("/v1/cluster/members", strings.Replace(good, tc.old, tc.with, 1)), tc.code, tc.says)
		})
	}
	wantProblem(t, w.post("/v1/cluster/members", ""), api.InvalidRequest, "empty")
}

func (w worldMembers) RemoveMember(_ context.Context, id string) error {
	switch id {
	case "n2":
		return nil
	case "n1":
		return api.NewProblem(api.Conflict, "node n1 is the only voter")
	}
	return api.NewProblem(api.NotFound, "there is no node %s", id)
}

func TestAMemberIsRemovedByItsID(t *testing.T) {
	w := newWorld(t)
	if r := w.do("DELETE", "/v1/cluster/members/n2", ""); r.StatusCode != 200 || r.body != w.do("GET", "/v1/cluster", "").body {
		t.Errorf("%s %s, want what the cluster is now", r.Status, r.body)
	}
	wantProblem(t, w.do("DELETE", "/v1/cluster/members/n1", ""), api.Conflict, "only voter")
	wantProblem(t, w.do("DELETE", "/v1/cluster/members/n9", ""), api.NotFound, "n9")
	wantProblem(t, w.do("DELETE", "/v1/cluster/members/n%201", ""), api.InvalidRequest, "not a node id")
	wantProblem(t, w.do("DELETE", "/v1/cluster/members/"+strings.Repeat("n", 65), ""), api.InvalidRequest, "1 to 64")
	wantProblem(t, w.do("DELETE", "/v1/cluster/members/n1/n2", ""), api.NotFound, "")
}

func (w worldMembers) StandDown(context.Context) error {
	if w.leader.Local {
		return nil
	}
	return api.NewProblem(api.Conflict, "nobody could lead the catalog")
}

func TestANodeIsDrainedByRequest(t *testing.T) {
	w := newWorld(t)
	cluster := w.do("GET", "/v1/cluster", "").body
	for _, r := range []response{w.do("POST", "/v1/node/drain", ""), w.post("/v1/node/drain", "{}")} {
		if r.StatusCode != 200 || r.body != cluster {
			t.Errorf("%s %s, want what the cluster is now", r.Status, r.body)
		}
	}
	wantProblem(t, w.post("/v1/node/drain", `{"node":"n2"}`), api.InvalidRequest, "node: there is no such field")
	w.set(func() { w.leader.Local = false })
	wantProblem(t, w.do("POST", "/v1/node/drain", ""), api.Conflict, "nobody could lead")
}

func TestALeaderMovesByRequest(t *testing.T) {
	w := newWorld(t)
	same(t, w.post("/v1/cluster/shards/1/transfer", `{"to":"n1"}`).body, `{"shard":1,"leader":"n1"}`)
	same(t, w.post("/v1/cluster/shards/0/transfer", `{}`).body, `{"shard":0,"leader":"n2"}`)
	same(t, w.do("POST", "/v1/cluster/shards/2/transfer", "").body, `{"shard":2,"leader":"n2"}`)

	for _, tc := range []struct {
		name, shard, body string
		code              api.Code
		says              string
	}{
		{"unknown shard", "3", `{}`, api.NotFound, "no shard 3"},
		{"a shard that is no number", "catalog", `{}`, api.NotFound, `"catalog"`},
		{"a negative shard", "-1", `{}`, api.NotFound, `"-1"`},
		{"a shard beyond 32 bits", "4294967296", `{}`, api.NotFound, "4294967296"},
		{"unknown node", "1", `{"to":"n9"}`, api.InvalidRequest, "n9"},
		{"empty node", "1", `{"to":""}`, api.InvalidRequest, "to: it is empty"},
		{"node of another type", "1", `{"to":2}`, api.InvalidRequest, "to: it needs to be a string"},
		{"null node", "1", `{"to":null}`, api.InvalidRequest, "to: null"},
		{"unknown field", "1", `{"from":"n1"}`, api.InvalidRequest, "from: there is no such field"},
		{"not JSON", "1", `n1`, api.InvalidRequest, "not valid JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantProblem(t, w.post("/v1/cluster/shards/"+tc.shard+"/transfer", tc.body), tc.code, tc.says)
		})
	}
	wantProblem(t, w.do("POST", "/v1/cluster/shards/1/transfer", `{"to":"n1"}`, "Content-Type: text/plain"), api.UnsupportedMediaType, "text/plain")
	w.set(func() { w.leader.Local = false })
	wantProblem(t, w.post("/v1/cluster/shards/1/transfer", `{"to":"n1"}`, "X-Rlstore-Forward: never"), api.NotLeader, "")
}
