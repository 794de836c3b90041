package server

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func TestEventsOfAClusterAreWhatHasChanged(t *testing.T) {
	n1, n2 := "n1", "n2"
	a := api.Cluster{
		Nodes:  []api.ClusterNode{{ID: "n1", Reachable: true}, {ID: "n2", Reachable: true, Draining: true}, {ID: "n3", Reachable: true}},
		Shards: []api.ShardStatus{{ID: 0, Leader: &n1, Term: 1}, {ID: 1, Leader: &n1, Term: 1}, {ID: 2, Leader: &n2, Term: 1}},
	}
	b := api.Cluster{
		Nodes:  []api.ClusterNode{{ID: "n1", Reachable: true, Draining: true}, {ID: "n2", Reachable: true}, {ID: "n4"}},
		Shards: []api.ShardStatus{{ID: 0, Leader: &n2, Term: 2}, {ID: 1, Term: 1}, {ID: 2, Leader: &n2, Term: 1}},
	}
	want := []api.Event{
		{Type: "drain", Node: "n1", Change: "begun"}, {Type: "drain", Node: "n2", Change: "ended"},
		{Type: "member", Node: "n4", Change: "joined"}, {Type: "member", Node: "n3", Change: "removed"},
		{Type: "leader", Shard: &b.Shards[0].ID, Node: "n2", Term: 2}, {Type: "leader", Shard: &b.Shards[1].ID, Term: 1},
	}
	if got := clusterEvents(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got := clusterEvents(a, a); got != nil {
		t.Errorf("nothing changed, and it tells %+v", got)
	}
}

// What is written is told, in order, and a stop ends the stream instead of waiting
// for its reader.
func TestAnEditIsToldAndAStopEndsTheStream(t *testing.T) {
	s, err := New(Config{
		NodeID: "n1", DataDir: t.TempDir(), HTTPAddr: "127.0.0.1:0", RaftAddr: "127.0.0.1:0",
		BootstrapExpect: 1, Shards: 1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer stop()
	<-s.Ready()
	stream, err := http.Get(s.HTTPURL() + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	in := bufio.NewScanner(stream.Body)
	next := func() string {
		for in.Scan() {
			if d, ok := strings.CutPrefix(in.Text(), "data: "); ok {
				return d
			}
		}
		return "the end"
	}
	for _, change := range []string{"created", "edited", "deleted"} {
		method, rate := http.MethodPut, map[string]string{"created": "1", "edited": "2"}[change]
		if rate == "" {
			method = http.MethodDelete
		}
		req, err := http.NewRequest(method, s.HTTPURL()+"/v1/policies/api", strings.NewReader(`{"name":"api","limits":[{"rate":`+rate+`,"per":"1s"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", api.MediaJSON)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := next(); !strings.Contains(got, `"policy":"api","change":"`+change+`"`) {
			t.Fatalf("%s: %s, then %q", change, resp.Status, got)
		}
	}
	begun := time.Now()
	stop()
	for next() != "the end" {
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took >= finishTimeout {
		t.Errorf("the stop took %v", took)
	}
}
