package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

func TestPolicies(t *testing.T) {
	f := newFake(t, 2, 1)
	c := f.client(t)
	ctx := within(t, 10*time.Second)
	limits := []api.Limit{{Name: "burst", Rate: 5, Per: api.Duration(time.Second), Burst: 5}}

	p, err := c.PutPolicy(ctx, api.Policy{Name: "team/web", Limits: limits})
	if err != nil || p.Revision != 2 {
		t.Fatal(p, err)
	}
	if p, err = c.Policy(ctx, "team/web"); err != nil || p.Limits[0] != limits[0] {
		t.Error(p, err)
	}
	if _, err = c.PutPolicy(ctx, p, client.IfMatch(1)); !errors.Is(err, client.ErrRevisionConflict) {
		t.Error(err)
	}
	if p, err = c.PutPolicy(ctx, p, client.IfMatch(2)); err != nil || p.Revision != 3 {
		t.Error(p, err)
	}
	list, err := c.Policies(ctx)
	if err != nil || len(list.Policies) != 2 || list.Revision != 3 {
		t.Error(list, err)
	}
	var problem *api.Problem
	if _, err = c.PutPolicyYAML(ctx, "x", []byte("name: x")); !errors.Is(err, client.ErrInvalidPolicy) || !errors.As(err, &problem) || len(problem.Errors) != 1 {
		t.Error(err)
	}
	if err = c.DeletePolicy(ctx, "team/web", client.IfMatch(2)); !errors.Is(err, client.ErrRevisionConflict) {
		t.Error(err)
	}
	if err = c.DeletePolicy(ctx, "team/web"); err != nil {
		t.Error(err)
	}
	if _, err = c.Policy(ctx, "team/web"); !errors.Is(err, client.ErrUnknownPolicy) {
		t.Error(err)
	}
	for _, name := range []string{"", "/", "a/", "../cluster", "a/b/c"} {
		if _, err = c.Policy(ctx, name); !errors.Is(err, client.ErrInvalidRequest) {
			t.Errorf("%q: %v", name, err)
		}
	}
	cluster, err := c.Cluster(ctx)
	if err != nil || len(cluster.Nodes) != 2 {
		t.Error(cluster, err)
	}
}

// A change whose first attempt may have been applied is repeated; if that fails
// for a reason that the first may be the cause of, nobody knows.
func TestRepeatedChangesTellNoLies(t *testing.T) {
	var script atomic.Pointer[[]api.Code] // answers to come; then 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest := *script.Load()
		if len(rest) == 0 || r.Method == http.MethodGet {
			w.Write([]byte(`{"name":"p","revision":9}`))
			return
		}
		next := rest[1:]
		script.Store(&next)
		writeProblem(w, api.NewProblem(rest[0], "scripted"))
	}))
	defer s.Close()
	c, err := client.New([]string{s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put := func(ctx context.Context) error {
		_, err := c.PutPolicy(ctx, api.Policy{Name: "p"}, client.IfMatch(8))
		return err
	}
	del := func(ctx context.Context) error { return c.DeletePolicy(ctx, "p") }
	for _, x := range []struct {
		answers []api.Code
		call    func(context.Context) error
		want    error
	}{
		{nil, put, nil},
		{[]api.Code{api.NoLeader, api.Overloaded}, put, nil},
		{[]api.Code{api.OutcomeUnknown}, put, nil},
		{[]api.Code{api.RevisionConflict}, put, client.ErrRevisionConflict},
		{[]api.Code{api.NoLeader, api.RevisionConflict}, put, client.ErrRevisionConflict},
		{[]api.Code{api.OutcomeUnknown, api.RevisionConflict}, put, client.ErrOutcomeUnknown},
		{[]api.Code{api.OutcomeUnknown, api.InvalidPolicy}, put, client.ErrInvalidPolicy},
		{[]api.Code{api.UnknownPolicy}, del, client.ErrUnknownPolicy},
		{[]api.Code{api.OutcomeUnknown, api.UnknownPolicy}, del, client.ErrOutcomeUnknown},
	} {
		script.Store(&x.answers)
		if err := x.call(within(t, 10*time.Second)); !errors.Is(err, x.want) || x.want == nil && err != nil {
			t.Errorf("%v: %v, want %v", x.answers, err, x.want)
		}
	}
}

// A frozen node reads the edits that were sent to it when it wakes, however long their
// client has gone on elsewhere. They undo nothing that came later.
func TestAnEditThatArrivesLateUndoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newBubbleFake(2, 1)
		awake := f.local["n1"]
		var mu sync.Mutex // guards late
		var late []*http.Request
		f.local["n1"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				awake.ServeHTTP(w, r)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			kept := r.Clone(context.Background())
			kept.Body = io.NopCloser(bytes.NewReader(body))
			mu.Lock()
			late = append(late, kept)
			mu.Unlock()
			<-r.Context().Done()
		})
		c := f.client(t, client.WithTimeout(time.Minute))
		put := func(rate int64) {
			t.Helper()
			p := api.Policy{Name: "team/web", Limits: []api.Limit{{Name: "l", Rate: rate, Per: api.Duration(time.Second), Burst: 5}}}
			if _, err := c.PutPolicy(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			// Nodes take turns, and an edit takes two: this puts the frozen one first
			// for every other round's changes.
			if _, err := c.Policies(t.Context()); err != nil {
				t.Fatal(err)
			}
			put(1)
			put(2)
			if err := c.DeletePolicy(t.Context(), "team/web"); err != nil {
				t.Fatal(err)
			}
			put(3)
			time.Sleep(2 * time.Second) // until the frozen node is asked again
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(late) < 2 {
			t.Fatalf("%d edits wait for the frozen node", len(late))
		}
		before := f.policies["team/web"]
		for _, r := range late {
			awake.ServeHTTP(httptest.NewRecorder(), r)
		}
		if after := f.policies["team/web"]; after.Revision != before.Revision {
			t.Errorf("%d late edits made revision %d of revision %d", len(late), after.Revision, before.Revision)
		}
	})
}

func TestEveryProblemHasAKind(t *testing.T) {
	kinds := map[api.Code]error{
		api.InvalidRequest: client.ErrInvalidRequest, api.Unauthorized: client.ErrUnauthorized,
		api.Forbidden: client.ErrUnauthorized, api.UnknownPolicy: client.ErrUnknownPolicy,
		api.NotFound: client.ErrNotFound, api.MethodNotAllowed: client.ErrInvalidRequest,
		api.RevisionConflict: client.ErrRevisionConflict, api.PayloadTooLarge: client.ErrInvalidRequest,
		api.UnsupportedMediaType: client.ErrInvalidRequest, api.InvalidPolicy: client.ErrInvalidPolicy,
		api.CostExceedsBurst: client.ErrCostExceedsBurst, api.CrossShard: client.ErrCrossShard,
		api.RequestIDReused: client.ErrRequestIDReused, api.TooManyRequests: client.ErrUnavailable,
		api.QuotaExceeded: client.ErrUnavailable, api.SessionStale: client.ErrUnavailable,
		api.NotLeader: client.ErrUnavailable,
		api.NoLeader:  client.ErrUnavailable, api.Overloaded: client.ErrUnavailable,
		api.Draining: client.ErrUnavailable, api.OutcomeUnknown: client.ErrOutcomeUnknown,
		api.Internal: client.ErrOutcomeUnknown, api.AlreadySettled: client.ErrAlreadySettled, api.PermitRequired: client.ErrPermitRequired,
		api.Conflict: client.ErrConflict,
	}
	var answer atomic.Value // api.Code; a request may outlast the call that made it
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, api.NewProblem(answer.Load().(api.Code), "no"))
	}))
	defer s.Close()
	c, err := client.New([]string{s.URL}, client.WithTimeout(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, info := range api.Codes {
		code := info.Code
		answer.Store(code)
		// A timeout that falls into an attempt leaves another error than one
		// between two: it is the store's words that count here.
		var err error
		var p *api.Problem
		for range 100 {
			if _, err = c.PutPolicy(t.Context(), api.Policy{Name: "p"}, client.IfMatch(1)); errors.As(err, &p) {
				break
			}
		}
		if want := kinds[code]; want == nil || !errors.Is(err, want) || p == nil {
			t.Errorf("%s: %v", code, err)
		}
		if info.Outcome == api.Unknown != errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("%s: outcome %s became %v", code, info.Outcome, err)
		}
	}
}
