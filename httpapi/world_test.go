package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
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

	mu      sync.Mutex
	stamp   uint64
	index   map[uint32]uint64
	shards  map[uint32]*fsm.Buckets
	leader  limiter.Leader // of shard 1; shard 2 is always local
	fail    error          // what every submission gets instead
	hold    bool           // submissions are never answered
	catalog *fsm.Catalog
	entries uint64 // of the catalog
	checks  []Check
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
		leader: limiter.Leader{ID: "n1", HTTP: "http://n1", Local: true, Known: true}, catalog: fsm.NewCatalog(),
		registry: prometheus.NewRegistry(),
		checks:   []Check{{Name: "catalog", OK: true}, {Name: "shards", OK: true}},
	}
	docs, errs := policy.ParseAll([]byte(testPolicies))
	if errs != nil {
		t.Fatal(errs)
	}
	for _, d := range docs {
		if _, err := w.change(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: d.Policy}}, false); err != nil {
			t.Fatal(err)
		}
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
		Limiter: l, Policies: worldPolicies{w}, Overrides: worldPolicies{w}, Switch: worldPolicies{w}, Members: worldMembers{w}, StalePeek: l.StalePeek, SlotMapVersion: w.SlotMapVersion,
		Cluster: func() api.Cluster { return api.Cluster{ClusterID: "c", NodeID: "n1", SlotMap: api.EvenSlotMap(2)} },
		Ready:   func() []Check { w.mu.Lock(); defer w.mu.Unlock(); return w.checks },
		Top: func(_ context.Context, by string, n int, local bool) (api.Top, error) {
			top := limiter.MergeTop(by, n, map[string]limiter.TopPart{"n1": l.Top(by)})
			if !local {
				top.Missing = append(top.Missing, "n2")
			}
			return top, nil
		},
		Version: api.Version{Version: "v0.0.1", GoVersion: "go1"},
		Logger:  logger, Registerer: w.registry, AllowInline: true,
		XRateLimit: func(name string) bool {
			p, ok := w.catalog.View().Policies[name]
			return ok && slices.Contains(p.Doc.Headers, policy.XRateLimit)
		},
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
	return w.catalog.View().Policy(name)
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

// change applies a command to the catalog, which shard 1's leader is the leader of.
func (w *world) change(c fsm.CatalogCommand, noForward bool) (*fsm.CatalogResult, error) {
	if err := w.elsewhere(noForward); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	entry, err := fsm.EncodeCatalog(w.stamp, c)
	if err != nil {
		return nil, api.NewProblem(api.InvalidRequest, "%v", err)
	}
	w.entries++
	res, err := w.catalog.Apply(w.entries, entry)
	switch {
	case err != nil:
		w.t.Error(err)
		return nil, err
	case res.Err != nil:
		return nil, res.Err
	}
	return res, nil
}

// elsewhere refuses what only the catalog's leader does, if that is another node.
func (w *world) elsewhere(noForward bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leader.Local || !noForward {
		return nil
	}
	p := api.NewProblem(api.NotLeader, "shard 0 is led by another node")
	p.Leader, p.Shard, p.SlotMapVersion = w.leader.HTTP, new(uint32), 1
	return p
}

// worldPolicies is the catalog without a log.
type worldPolicies struct{ *world }

func (w worldPolicies) stored(name string) (*fsm.CatalogPolicy, error) {
	p, ok := w.catalog.View().Policies[name]
	if !ok {
		return nil, api.NewProblem(api.UnknownPolicy, "there is no policy %q", name)
	}
	return p, nil
}

func (w worldPolicies) Get(name string) (api.Policy, error) {
	p, err := w.stored(name)
	if err != nil {
		return api.Policy{}, err
	}
	return p.Doc, nil
}

func (w worldPolicies) List() (api.PolicyList, error) {
	v := w.catalog.View()
	return api.PolicyList{Policies: v.List(), Revision: v.Revision}, nil
}

func (w worldPolicies) put(c *fsm.PutPolicy, noForward bool) (PutResult, error) {
	res, err := w.change(fsm.CatalogCommand{PutPolicy: c}, noForward)
	if err != nil {
		return PutResult{}, err
	}
	return PutResult{Policy: *res.Policy, Created: res.Created, Unchanged: res.Unchanged}, nil
}

// noteOf has no time, so that answers repeat.
func noteOf(n Note) fsm.Note { return fsm.Note{Author: n.Author, Reason: n.Reason} }

func (w worldPolicies) Put(_ context.Context, p api.Policy, c Condition, n Note, noForward bool) (PutResult, error) {
	return w.put(&fsm.PutPolicy{Policy: p, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, NoneMatch: c.NoneMatch, Note: noteOf(n)}, noForward)
}

func (w worldPolicies) Delete(_ context.Context, name string, c Condition, noForward bool) error {
	_, err := w.change(fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{Name: name, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch}}, noForward)
	return err
}

func (w worldPolicies) Revisions(name string) (api.RevisionList, error) {
	p, err := w.stored(name)
	if err != nil {
		return api.RevisionList{}, err
	}
	return api.RevisionList{Policy: name, Revision: p.Doc.Revision, Revisions: p.Revisions()}, nil
}

func (w worldPolicies) Revert(_ context.Context, name string, revision uint64, c Condition, n Note, noForward bool) (PutResult, error) {
	p, err := w.stored(name)
	if err != nil {
		return PutResult{}, err
	}
	doc := p.At(revision)
	if doc == nil {
		return PutResult{}, api.NewProblem(api.NotFound, "revision %d is not remembered", revision)
	}
	return w.put(&fsm.PutPolicy{Policy: *doc, IfMatch: c.IfMatch, Note: noteOf(n), RevertedTo: doc.Revision}, noForward)
}

func (w worldPolicies) Overrides(name, after string, limit int) (api.OverrideList, error) {
	p, err := w.stored(name)
	if err != nil {
		return api.OverrideList{}, err
	}
	now, _ := w.catalog.Last()
	list := api.OverrideList{Policy: name, Revision: p.Doc.Revision}
	list.Overrides, list.Total = p.Overrides(after, limit, now)
	return list, nil
}

func (w worldPolicies) PutOverride(_ context.Context, name string, o api.Override, c Condition, author string, noForward bool) (OverrideResult, error) {
	res, err := w.change(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{
		Policy: name, Override: o, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, Note: fsm.Note{Author: author},
	}}, noForward)
	if err != nil {
		return OverrideResult{}, err
	}
	return OverrideResult{Override: *res.Override, Created: res.Created, PolicyRevision: res.PolicyRevision}, nil
}

func (w worldPolicies) DeleteOverride(_ context.Context, name, key string, c Condition, n Note, noForward bool) (uint64, error) {
	res, err := w.change(fsm.CatalogCommand{DeleteOverride: &fsm.DeleteOverride{
		Policy: name, Key: key, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, Note: noteOf(n),
	}}, noForward)
	if err != nil {
		return 0, err
	}
	return res.PolicyRevision, nil
}

func (w worldPolicies) Matching(name, key string) (api.Override, bool, error) {
	p, err := w.stored(name)
	if err != nil {
		return api.Override{}, false, err
	}
	now, _ := w.catalog.Last()
	o, ok := p.Matching(key, now)
	return o, ok, nil
}

func (w worldPolicies) Enforcement() (api.Enforcement, error) {
	return w.catalog.View().Enforcement, nil
}

func (w worldPolicies) SetEnforcement(_ context.Context, value string, n Note, noForward bool) (api.Enforcement, error) {
	if _, err := w.change(fsm.CatalogCommand{SetEnforcement: &fsm.SetEnforcement{Enforcement: value, Note: noteOf(n)}}, noForward); err != nil {
		return api.Enforcement{}, err
	}
	return w.Enforcement()
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
