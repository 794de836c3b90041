package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// A client trusts no answer: what a node, or whatever stands at its address,
// says wrongly becomes an error or a doubt, and never a panic, nor a take that
// counts as allowed without being told so.

// lonely returns a client that reaches nobody and knows one node, which leads
// its one shard.
func lonely(t testing.TB) *Client {
	transport := transportFunc(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
	c, err := New([]string{"http://n1:8101"}, WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	n1 := "n1"
	if err := c.dir.adopt(&api.Cluster{
		NodeID: n1, SlotMap: api.EvenSlotMap(1),
		Nodes:  []api.ClusterNode{{ID: n1, HTTP: "http://n1:8101"}},
		Shards: []api.ShardStatus{{ID: 1, Leader: &n1, Term: 1}},
	}, "n1"); err != nil {
		t.Fatal(err)
	}
	return c
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzReply gives any bytes as the reply to a repeated batch of one operation of
// each kind, by a caller each, but for two takes by one.
func FuzzReply(f *testing.F) {
	c := lonely(f)
	l := c.dir.now.Load().lane(&item{key: "k"})
	to := c.dir.target(l.shard)
	kinds := []api.Kind{api.Take, api.Take, api.Peek, api.Refund, api.Reset}
	places := []int{0, 1, 0, 0, 0} // in the operations' calls

	set := api.AppendSetInfo(nil, &api.SetInfo{Policy: "p", Revision: 3, Limits: []api.LimitInfo{
		{Name: "a", Rate: 1, Per: 1e9, Burst: 10}, {Name: "b", Rate: 1, Per: 1e9, Burst: 20},
	}})
	reply := func(results ...api.Result) []byte {
		b := api.BeginReply(nil, len(results), api.Commit{Shard: 1, Index: 7})
		for _, r := range results {
			b = api.AppendResult(b, &r)
		}
		return api.FinishReply(b, 0, [][]byte{set})
	}
	two := make([]api.LimitValues, 2)
	allowed := api.Result{Status: api.StatusAllowed, Limits: two}
	f.Add(reply(allowed, api.Result{Status: api.StatusDenied, Limits: two}, api.Result{Status: api.StatusState, Limits: two},
		api.Result{Status: api.StatusRefunded, Limits: two, Refunded: 2}, api.Result{Status: api.StatusReset}))
	f.Add(reply(api.Result{Status: api.StatusReset}, allowed, allowed, allowed, allowed))
	f.Add(reply(allowed, api.Result{Status: api.StatusError, Code: api.SessionStale}, api.Result{Status: api.StatusError, Code: api.NoLeader},
		api.Result{Status: api.StatusError, Code: api.OutcomeUnknown}, api.Result{Status: api.StatusError, Code: api.InvalidPolicy, Detail: "x"}))
	f.Add(reply(allowed))

	f.Fuzz(func(t *testing.T, answer []byte) {
		b := &batch{lane: l, live: len(kinds), sealed: true, applied: true, session: api.Session{ID: l.session, Seq: 1}}
		both := c.newCall(t.Context(), 2)
		calls := make([]*call, len(kinds))
		for i, k := range kinds {
			calls[i] = both
			if places[i] == 0 && i > 0 {
				calls[i] = c.newCall(t.Context(), 1)
			}
			calls[i].where[places[i]] = b
			b.items = append(b.items, item{call: calls[i], at: places[i], kind: k, policy: "p", key: "k", cost: 1})
		}
		r := &response{}
		r.reply, r.err = api.DecodeReply(answer)
		said := statuses(answer)
		next, _ := l.settle(t.Context(), to, &attempt{b: b, before: true, read: true}, r)
		to.node.shunned.Store(0)
		open := 0
		for i := range b.items {
			w, at := calls[i], places[i]
			if w.where[at] != answered {
				open++
				continue
			}
			if i >= len(said) {
				t.Fatalf("operation %d has an answer that the reply does not hold", i)
			}
			d := w.out[at]
			if d.Err == nil && (d.Key != "k" || d.Remaining < 0 || d.RetryAfter < 0 || d.ResetAfter < 0) {
				t.Errorf("operation %d: %+v", i, d)
			}
			if d.Allowed != (said[i] == api.StatusAllowed) || (d.Err != nil) != (said[i] == api.StatusError) {
				t.Errorf("operation %d has the status %d, and is answered %+v", i, said[i], d)
			}
		}
		if (open == 0) != (next == finished) || open != b.live && next != finished {
			t.Fatalf("%d operations are open, %d count as live, and the next step is %d", open, b.live, next)
		}
	})
}

// statuses is the results' statuses, as far as they can be read.
func statuses(reply []byte) (list []api.Status) {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return nil
	}
	var res api.Result
	for {
		if ok, err := r.Next(&res); !ok || err != nil {
			return list
		}
		list = append(list, res.Status)
	}
}

// FuzzProblem: whatever an answer that is no success holds, it has a code and an
// outcome, and is an error of this package.
func FuzzProblem(f *testing.F) {
	add := func(status int, media string, p *api.Problem) {
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(status, media, b)
	}
	add(421, api.MediaProblem, api.NewProblem(api.NotLeader, "elsewhere"))
	add(503, api.MediaProblem+"; charset=utf-8", &api.Problem{Code: "a-new-one", Outcome: "maybe"})
	add(404, "text/html", &api.Problem{Code: api.UnknownPolicy})
	f.Add(504, api.MediaProblem, []byte(`{"code":"outcome-unknown","status":"504"}`))
	at := &http.Request{URL: &url.URL{Scheme: "http", Host: "n1:8101"}}
	f.Fuzz(func(t *testing.T, status int, media string, body []byte) {
		p := problemOf(&http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}, "Retry-After": {media}}, Request: at}, body)
		if p.Code == "" || p.Outcome != api.NotApplied && p.Outcome != api.Unknown || p.RetryAfter < 0 {
			t.Fatalf("%d %s %q is the problem %+v", status, media, body, p)
		}
		if foreign := !strings.HasPrefix(strings.ToLower(strings.TrimSpace(media)), api.MediaProblem); foreign && status >= 500 && p.Outcome != api.Unknown {
			t.Fatalf("%d of something else counts as %+v", status, p)
		}
		err := refuse(p)
		var f *failure
		if !errors.As(err, &f) || f.kind == nil || err.Error() == "" {
			t.Fatalf("%v is no error of this package", err)
		}
	})
}

// FuzzCluster: whatever is told of the cluster, the client keeps the nodes that
// it was given, and knows a lane for every key or nothing at all.
func FuzzCluster(f *testing.F) {
	c := lonely(f)
	n2 := "n2"
	good, err := json.Marshal(api.Cluster{
		ClusterID: "c", NodeID: "n1", SlotMap: api.EvenSlotMap(2),
		Nodes:  []api.ClusterNode{{ID: "n1", HTTP: "http://n1:8101"}, {ID: n2, HTTP: "https://n2/x/", Reachable: true}},
		Shards: []api.ShardStatus{{ID: 1, Leader: &n2, Term: 5}, {ID: 2}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"node_id":"n1","slot_map":{"version":1,"ranges":[{"from":0,"to":65535,"shard":1}]}}`))
	f.Add([]byte(`{"node_id":"n1","nodes":[{"id":"n1","http":"http://[::1"}],"slot_map":{"version":1,"ranges":[{"from":0,"to":4095,"shard":4294967295}]},"shards":[{"id":4294967295,"leader":"n1","term":18446744073709551615}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var cluster api.Cluster
		if json.Unmarshal(body, &cluster) != nil {
			return
		}
		d, err := newDirectory(c, []string{"http://n1:8101"})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.adopt(&cluster, "n1"); err != nil {
			if d.now.Load() != nil {
				t.Fatalf("adopted in spite of %v", err)
			}
			return
		}
		r := d.now.Load()
		for _, key := range []string{"k", "{tag}k", ""} {
			if l := r.lane(&item{key: key}); l == nil || l.shard == 0 || d.target(l.shard).node == nil {
				t.Fatalf("key %q goes nowhere", key)
			}
		}
		if len(d.all()) == 0 || d.nodes["http://n1:8101"] == nil || len(d.nodes) != len(d.order) {
			t.Fatalf("nodes %v, order of %d", d.nodes, len(d.order))
		}
		if err := d.adopt(&cluster, "n1"); err != nil {
			t.Fatalf("the same a second time: %v", err)
		}
	})
}
