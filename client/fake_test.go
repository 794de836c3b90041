package client_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// fake is a cluster of HTTP servers on top of one small model of what the real
// one decides: buckets that never refill by themselves, sessions and request ids
// that are never forgotten.
type fake struct {
	nodes []*httptest.Server
	local map[string]http.Handler // by host, if there is no network; see newBubbleFake

	mu       sync.Mutex
	slots    api.SlotMap
	shards   map[uint32]*fakeShard
	policies map[string]api.Policy
	used     map[bucket]int64
	charged  map[bucket]int64 // like used, but neither refunded nor reset
	ids      map[string]remembered
	revision uint64

	batches int // binary batches that arrived
	direct  int // of them, with the header that forbids forwarding
	asked   int // GET /v1/cluster
	fault   func(node int, b *api.Batch) *fault

	table        *[api.Slots]uint32 // of slots, at tableVersion
	tableVersion uint64
	advertised   map[int]string // addresses of nodes, if not their own

	// handleBatch answers a batch by hand if it returns true; nil is never.
	handleBatch func(w http.ResponseWriter, b *api.Batch) bool
}

type fakeShard struct {
	leader   int // index of the node; -1 is none
	term     uint64
	index    uint64
	sessions map[[16]byte]*fakeSession
}

type fakeSession struct {
	acked   uint64
	answers map[uint64][]byte
}

type bucket struct{ policy, key string }

type remembered struct {
	op  api.Op
	res api.Result
}

// fault is what happens to a batch instead of the usual. Its steps are taken in
// this order.
type fault struct {
	wait    <-chan struct{} // before anything else; the client's leaving ends it
	problem *api.Problem    // answer this, apply nothing
	drop    bool            // break the connection, apply nothing
	then    func()          // after applying
	cut     bool            // apply, then break the connection
}

// newFake starts nodes that share shards evenly, and one policy, "api", with a
// burst of 1000.
func newFake(t testing.TB, nodes int, shards uint32) *fake {
	f := newModel(nodes, shards)
	for n := range nodes {
		s := httptest.NewServer(f.handler(n))
		f.nodes = append(f.nodes, s)
		t.Cleanup(func() {
			s.CloseClientConnections()
			s.Close()
		})
	}
	return f
}

// newBubbleFake is newFake for a bubble of testing/synctest, where time passes when
// everybody waits: between its clients and its nodes there is no network.
func newBubbleFake(nodes int, shards uint32) *fake {
	f := newModel(nodes, shards)
	f.local = map[string]http.Handler{}
	for n := range nodes {
		f.nodes = append(f.nodes, &httptest.Server{URL: "http://" + id(n)})
		f.local[id(n)] = f.handler(n)
	}
	return f
}

// newModel is a fake without nodes.
func newModel(nodes int, shards uint32) *fake {
	f := &fake{
		slots:    api.EvenSlotMap(shards),
		shards:   map[uint32]*fakeShard{},
		policies: map[string]api.Policy{},
		used:     map[bucket]int64{}, charged: map[bucket]int64{},
		ids: map[string]remembered{},
	}
	f.policy("api", 1000)
	for s := uint32(0); s <= shards; s++ {
		f.shards[s] = &fakeShard{leader: int(s) % nodes, term: 1, sessions: map[[16]byte]*fakeSession{}}
	}
	return f
}

// RoundTrip implements [http.RoundTripper], for the nodes of newBubbleFake.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	w, done := httptest.NewRecorder(), make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil {
				done <- io.ErrUnexpectedEOF
			}
		}()
		f.local[r.URL.Host].ServeHTTP(w, r)
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		return w.Result(), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// client returns a client of all nodes, closed at the end of the test.
func (f *fake) client(t testing.TB, opts ...client.Option) *client.Client {
	t.Helper()
	var urls []string
	for _, s := range f.nodes {
		urls = append(urls, s.URL)
	}
	if f.local != nil {
		opts = append(opts, client.WithHTTPClient(&http.Client{Transport: f}))
	}
	c, err := client.New(urls, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (f *fake) policy(name string, burst int64) {
	f.revision++
	f.policies[name] = api.Policy{
		Name: name, Revision: f.revision, Mode: "strict",
		Limits: []api.Limit{{Name: "burst", Rate: burst, Per: api.Duration(time.Second), Burst: burst}},
	}
}

// with changes the cluster while nothing is decided.
func (f *fake) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// lead makes node the leader of shard; -1 leaves it without.
func (f *fake) lead(shard uint32, node int) {
	f.with(func() {
		f.shards[shard].leader = node
		f.shards[shard].term++
	})
}

// inject sets the fault of batches to come; nil is none.
func (f *fake) inject(fault func(node int, b *api.Batch) *fault) { f.with(func() { f.fault = fault }) }

// spent is what was ever charged to key, refunds left aside.
func (f *fake) spent(key string) (n int64) {
	f.with(func() { n = f.charged[bucket{"api", key}] })
	return n
}

// count returns how many batches arrived.
func (f *fake) count() (n int) {
	f.with(func() { n = f.batches })
	return n
}

func (f *fake) shardOf(key string) uint32 {
	if f.tableVersion != f.slots.Version {
		var err error
		if f.table, err = f.slots.Table(); err != nil {
			panic(err)
		}
		f.tableVersion = f.slots.Version
	}
	return f.table[api.Slot(key)]
}

// keyIn returns a key of shard; n tells such keys apart.
func (f *fake) keyIn(shard uint32, n int) string {
	for i := 0; ; i++ {
		key := fmt.Sprintf("user:%d:%d", n, i)
		if f.shardOf(key) == shard {
			return key
		}
	}
}

func (f *fake) handler(node int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/take/batch", func(w http.ResponseWriter, r *http.Request) { f.serveBatch(node, w, r) })
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) { f.serveCluster(node, w) })
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(api.Version{Version: "fake"})
	})
	mux.HandleFunc("/v1/policies", f.servePolicies)
	mux.HandleFunc("/v1/policies/", f.servePolicies)
	return mux
}

func (f *fake) serveCluster(node int, w http.ResponseWriter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	c := api.Cluster{ClusterID: "fake", NodeID: id(node), SlotMap: f.slots}
	for n := range f.nodes {
		c.Nodes = append(c.Nodes, api.ClusterNode{ID: id(n), HTTP: f.address(n), Reachable: true})
	}
	for n, s := range f.shards {
		st := api.ShardStatus{ID: n, Term: s.term}
		if s.leader >= 0 {
			leader := id(s.leader)
			st.Leader = &leader
		}
		c.Shards = append(c.Shards, st)
	}
	json.NewEncoder(w).Encode(c)
}

// address is what the cluster tells of a node.
func (f *fake) address(node int) string {
	if a, ok := f.advertised[node]; ok {
		return a
	}
	return f.nodes[node].URL
}

func id(node int) string { return "n" + strconv.Itoa(node+1) }

func writeProblem(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", api.MediaProblem)
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func (f *fake) serveBatch(node int, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Header.Get("Content-Type") != api.MediaBatch {
		writeProblem(w, api.NewProblem(api.UnsupportedMediaType, "not a batch"))
		return
	}
	b, err := api.DecodeBatch(body)
	if err != nil {
		writeProblem(w, api.AsProblem(err))
		return
	}
	never := r.Header.Get(api.HeaderForward) == "never"
	f.mu.Lock()
	f.batches++
	if never {
		f.direct++
	}
	inject := f.fault
	f.mu.Unlock()
	var ft fault
	if inject != nil {
		if x := inject(node, b); x != nil {
			ft = *x
		}
	}
	if ft.wait != nil {
		select {
		case <-ft.wait:
		case <-r.Context().Done():
			return
		}
	}
	if f.handleBatch != nil && f.handleBatch(w, b) {
		return
	}
	if ft.drop {
		panic(http.ErrAbortHandler)
	}
	p := ft.problem
	var reply []byte
	if p == nil {
		f.mu.Lock()
		w.Header().Set(api.HeaderSlotMap, strconv.FormatUint(f.slots.Version, 10))
		reply, p = f.decide(node, b, never)
		f.mu.Unlock()
	}
	if ft.then != nil {
		ft.then()
	}
	if ft.cut {
		panic(http.ErrAbortHandler)
	}
	if p != nil {
		writeProblem(w, p)
		return
	}
	w.Header().Set("Content-Type", api.MediaBatch)
	w.Write(reply)
}

// decide is the front door and the state machine. f.mu is held.
func (f *fake) decide(node int, b *api.Batch, never bool) ([]byte, *api.Problem) {
	ops := make([]api.Op, b.N)
	rest := b.Ops
	shard := uint32(0)
	for i := range ops {
		ops[i], rest, _ = api.DecodeOp(rest)
		s := f.shardOf(ops[i].Key)
		if shard != 0 && s != shard {
			return nil, api.NewProblem(api.CrossShard, "shards %d and %d", shard, s)
		}
		shard = s
	}
	sh := f.shards[shard]
	switch {
	case sh.leader < 0:
		p := api.NewProblem(api.NoLeader, "shard %d", shard)
		p.RetryAfter = time.Second
		return nil, p
	case never && sh.leader != node:
		p := api.NewProblem(api.NotLeader, "shard %d", shard)
		p.Leader, p.Shard, p.SlotMapVersion = f.address(sh.leader), &shard, f.slots.Version
		return nil, p
	}
	ss := sh.sessions[b.Session.ID]
	if b.Session.Seq != 0 {
		if ss == nil {
			ss = &fakeSession{answers: map[uint64][]byte{}}
			sh.sessions[b.Session.ID] = ss
		}
		if b.Session.Seq <= ss.acked {
			return nil, api.NewProblem(api.SessionStale, "the session has acknowledged %d", b.Session.Seq)
		}
		ss.acked = max(ss.acked, b.Session.Acked)
		if a := ss.answers[b.Session.Seq]; a != nil {
			a = append([]byte(nil), a...)
			api.MarkReplayed(a)
			return a, nil
		}
	}
	sh.index++
	commit := api.Commit{Shard: shard, Index: sh.index, TimeNS: sh.index * 1000}
	reply := api.BeginReply(nil, b.N, commit)
	var sets [][]byte
	for _, ref := range b.Policies {
		p := f.resolve(ref)
		info := api.SetInfo{Policy: p.Name, Revision: p.Revision}
		for _, l := range p.Limits {
			info.Limits = append(info.Limits, api.LimitInfo{Name: l.Name, Rate: l.Rate, Per: int64(l.Per), Burst: l.Burst})
		}
		if info.Limits == nil {
			info.Limits = []api.LimitInfo{{Name: "none"}}
		}
		sets = append(sets, api.AppendSetInfo(nil, &info))
	}
	for i := range ops {
		c := commit
		c.Offset = uint32(i)
		res := f.apply(&ops[i], b.Policies[ops[i].Policy], c)
		reply = api.AppendResult(reply, &res)
	}
	reply = api.FinishReply(reply, 0, sets)
	if ss != nil {
		ss.answers[b.Session.Seq] = reply
	}
	return reply, nil
}

func (f *fake) resolve(ref api.PolicyRef) api.Policy {
	if ref.Inline == nil {
		return f.policies[ref.Name]
	}
	var p api.Policy
	if json.Unmarshal(ref.Inline, &p.Limits) != nil {
		return api.Policy{}
	}
	return p
}

// fakeWait is what a fake lends a token for.
const fakeWait = 20 * time.Millisecond

func (f *fake) apply(op *api.Op, ref api.PolicyRef, c api.Commit) api.Result {
	if had, ok := f.ids[op.RequestID]; ok && op.RequestID != "" {
		if had.op.Key != op.Key || had.op.Cost != op.Cost || had.op.Kind != op.Kind {
			return api.Result{Status: api.StatusError, Code: api.RequestIDReused, Detail: "another request"}
		}
		had.res.Duplicate = true
		return had.res
	}
	p := f.resolve(ref)
	if len(p.Limits) == 0 {
		return api.Result{Status: api.StatusError, Code: api.UnknownPolicy, Detail: ref.Name}
	}
	burst := p.Limits[0].Burst
	at := bucket{p.Name, strings.Clone(op.Key)}
	res := api.Result{Set: op.Policy}
	switch op.Kind {
	case api.Take:
		switch {
		case op.Cost > burst:
			return api.Result{Status: api.StatusError, Code: api.CostExceedsBurst, Detail: "too much"}
		case f.used[at]+op.Cost <= burst:
			res.Status = api.StatusAllowed
			f.used[at] += op.Cost
			f.charged[at] += op.Cost
		case op.MaxWait > 0:
			if wait := time.Duration(f.used[at]+op.Cost-burst) * fakeWait; wait <= time.Duration(op.MaxWait)*time.Millisecond {
				res.Status, res.Wait = api.StatusAllowed, uint64(wait.Microseconds())
				f.used[at] += op.Cost
				f.charged[at] += op.Cost
			}
		}
	case api.Peek:
		res.Status = api.StatusState
	case api.Refund:
		res.Status, res.Refunded = api.StatusRefunded, min(op.Cost, f.used[at])
		f.used[at] -= res.Refunded
	case api.Reset:
		delete(f.used, at)
		return api.Result{Status: api.StatusReset}
	}
	for _, l := range p.Limits {
		v := api.LimitValues{Remaining: max(0, l.Burst-f.used[at]), ResetAfter: uint64(f.used[at]) * 1000}
		if res.Status == api.StatusDenied {
			v.RetryAfter = 20_000
		}
		res.Limits = append(res.Limits, v)
	}
	if op.RequestID != "" {
		kept := *op
		kept.Key = at.key
		first := res
		first.OwnCommit, first.Commit = true, c
		f.ids[strings.Clone(op.RequestID)] = remembered{kept, first}
	}
	return res
}

func (f *fake) servePolicies(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/v1/policies")
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		list := api.PolicyList{Revision: f.revision}
		for _, p := range f.policies {
			list.Policies = append(list.Policies, p)
		}
		json.NewEncoder(w).Encode(list)
		return
	}
	had, ok := f.policies[name]
	if !ok && r.Method != http.MethodPut {
		writeProblem(w, api.NewProblem(api.UnknownPolicy, "%s", name))
		return
	}
	if m := r.Header.Get("If-Match"); m != "" && m != strconv.Quote(strconv.FormatUint(had.Revision, 10)) {
		writeProblem(w, api.NewProblem(api.RevisionConflict, "it is %d", had.Revision))
		return
	}
	if ok && r.Header.Get("If-None-Match") == "*" {
		writeProblem(w, api.NewProblem(api.RevisionConflict, "it is there"))
		return
	}
	switch r.Method {
	case http.MethodGet:
		json.NewEncoder(w).Encode(had)
	case http.MethodDelete:
		delete(f.policies, name)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPut:
		var p api.Policy
		if r.Header.Get("Content-Type") != api.MediaJSON || json.NewDecoder(r.Body).Decode(&p) != nil || len(p.Limits) == 0 {
			bad := api.NewProblem(api.InvalidPolicy, "limits are missing")
			bad.Errors = []api.FieldError{{Line: 1, Path: "limits", Message: "missing"}}
			writeProblem(w, bad)
			return
		}
		f.revision++
		p.Revision = f.revision
		f.policies[name] = p
		json.NewEncoder(w).Encode(p)
	}
}
