package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
)

// world is a node without consensus: the edge over the true limiter and the
// true state machines, each of which is all of its shard. Cluster time stands
// still unless a test moves it.
type world struct {
	t        testing.TB
	edge     *edge
	server   *httptest.Server
	registry *prometheus.Registry

	mu       sync.Mutex
	stamp    uint64
	index    map[uint32]uint64
	shards   map[uint32]*fsm.Buckets
	leader   limiter.Leader // of shard 1; shard 2 is always local
	fail     error          // what every submission gets instead
	hold     bool           // submissions are never answered
	policies map[string]api.Policy
	revision uint64
	checks   []Check
}

const testPolicies = `
name: api
limits: [{name: burst, rate: 100, per: 1s, burst: 200}]
---
name: two
limits: [{name: second, rate: 10, per: 1s}, {name: 'day', rate: 1000, per: 24h, burst: 50}]
---
name: slow
limits: [{name: hourly, rate: 2, per: 1h}]
`

// newWorld serves the policies above: api has revision 1, and so on.
func newWorld(t testing.TB, change ...func(*Config)) *world {
	w := &world{
		t: t, stamp: 93_200_000_000, index: map[uint32]uint64{}, shards: map[uint32]*fsm.Buckets{},
		leader: limiter.Leader{ID: "n1", HTTP: "http://n1", Local: true, Known: true}, policies: map[string]api.Policy{},
		registry: prometheus.NewRegistry(),
		checks:   []Check{{Name: "catalog", OK: true}, {Name: "shards", OK: true}},
	}
	docs, errs := policy.ParseAll([]byte(testPolicies))
	if errs != nil {
		t.Fatal(errs)
	}
	for _, d := range docs {
		w.revision++
		d.Policy.Revision = w.revision
		w.policies[d.Policy.Name] = d.Policy
	}
	for s := range uint32(2) {
		w.shards[s+1] = fsm.NewBuckets(s + 1)
		w.index[s+1] = 1
		if _, err := w.shards[s+1].Apply(1, fsm.EncodeOwn(1, 1, api.EvenSlotMap(2).Ranges)); err != nil {
			t.Fatal(err)
		}
	}
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	l := limiter.New(limiter.Config{Catalog: w, Log: w, Replicas: w, AllowInline: true, Logger: logger})
	c := Config{
		Limiter: l, Policies: worldPolicies{w}, Members: worldMembers{w}, StalePeek: l.StalePeek, SlotMapVersion: w.SlotMapVersion,
		Cluster: func() api.Cluster { return api.Cluster{ClusterID: "c", NodeID: "n1", SlotMap: api.EvenSlotMap(2)} },
		Ready:   func() []Check { w.mu.Lock(); defer w.mu.Unlock(); return w.checks },
		Version: api.Version{Version: "v0.0.1", GoVersion: "go1"},
		Logger:  logger, Registerer: w.registry, AllowInline: true,
		Metrics: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "# metrics\n") }),
	}
	for _, f := range change {
		f(&c)
	}
	w.edge = newEdge(c)
	w.server = httptest.NewServer(w.edge)
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) Policy(name string) (*policy.Set, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.policies[name]
	if !ok {
		return nil, false
	}
	return policy.Resolve(&p), true
}

func (w *world) Route(slot uint16) uint32 { return uint32(slot)/(api.Slots/2) + 1 }
func (w *world) SlotMapVersion() uint64   { return 1 }
func (w *world) Current() bool            { return true }
func (w *world) Removed() bool            { return false }

func (w *world) Leader(shard uint32) limiter.Leader {
	w.mu.Lock()
	defer w.mu.Unlock()
	if shard == 1 {
		return w.leader
	}
	return limiter.Leader{ID: "n1", Local: true, Known: true}
}

func (w *world) Submit(shard uint32, p *limiter.Part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.hold:
		return
	case w.fail != nil:
		p.Done(nil, w.fail)
		return
	case !p.Seal():
		return
	}
	var e fsm.EntryWriter
	e.Add(p.Batch(), p.Sets())
	w.index[shard]++
	a, err := w.shards[shard].Apply(w.index[shard], e.Seal(w.stamp))
	if err != nil {
		w.t.Error(err) // a poison entry: it would halt every replica
		p.Done(nil, err)
		return
	}
	p.Done(a.Replies[0], nil)
}

func (w *world) Forward(context.Context, string, uint32, []byte) ([]byte, error) {
	return nil, api.NewProblem(api.NoLeader, "there are no peers here")
}

func (w *world) StalePeek(shard uint32, op api.Op, set *policy.Set) ([]byte, time.Duration, error) {
	return w.shards[shard].PeekStale(op, set), 1500 * time.Microsecond, nil
}

// set changes the world between requests.
func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// worldPolicies is a catalog without a log.
type worldPolicies struct{ *world }

func (w worldPolicies) Get(name string) (api.Policy, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.policies[name]
	if !ok {
		return p, api.NewProblem(api.UnknownPolicy, "there is no policy %q", name)
	}
	return p, nil
}

func (w worldPolicies) List() (api.PolicyList, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := api.PolicyList{Revision: w.revision}
	for _, p := range w.policies {
		l.Policies = append(l.Policies, p)
	}
	sort.Slice(l.Policies, func(i, j int) bool { return l.Policies[i].Name < l.Policies[j].Name })
	return l, nil
}

func (w worldPolicies) guard(name string, c Condition) (had api.Policy, ok bool, err error) {
	had, ok = w.policies[name]
	if c.NoneMatch && ok || c.AnyMatch && !ok || c.IfMatch != nil && (!ok || had.Revision != *c.IfMatch) {
		return had, ok, api.NewProblem(api.RevisionConflict, "the revision is %d", had.Revision)
	}
	return had, ok, nil
}

// elsewhere refuses what only the catalog's leader does, if that is another node.
func (w worldPolicies) elsewhere(noForward bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leader.Local || !noForward {
		return nil
	}
	p := api.NewProblem(api.NotLeader, "shard 0 is led by another node")
	p.Leader, p.Shard, p.SlotMapVersion = w.leader.HTTP, new(uint32), 1
	return p
}

func (w worldPolicies) Put(_ context.Context, p api.Policy, c Condition, noForward bool) (PutResult, error) {
	if err := w.elsewhere(noForward); err != nil {
		return PutResult{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	had, ok, err := w.guard(p.Name, c)
	if err != nil {
		return PutResult{}, err
	}
	if ok && had.Limits[0] == p.Limits[0] {
		return PutResult{Policy: had, Unchanged: true}, nil
	}
	w.revision++
	p.Revision = w.revision
	w.policies[p.Name] = p
	return PutResult{Policy: p, Created: !ok}, nil
}

func (w worldPolicies) Delete(_ context.Context, name string, c Condition, noForward bool) error {
	if err := w.elsewhere(noForward); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok, err := w.guard(name, c)
	if err != nil {
		return err
	}
	if !ok {
		return api.NewProblem(api.UnknownPolicy, "there is no policy %q", name)
	}
	delete(w.policies, name)
	return nil
}

// response is one answer, read whole.
type response struct {
	*http.Response
	body string
}

// do sends a request; headers are given as "Name: value".
func (w *world) do(method, path, body string, headers ...string) response {
	w.t.Helper()
	req, err := http.NewRequest(method, w.server.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := w.server.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response{resp, string(b)}
}

// post sends JSON.
func (w *world) post(path, body string, headers ...string) response {
	w.t.Helper()
	return w.do("POST", path, body, append(headers, "Content-Type: application/json")...)
}
