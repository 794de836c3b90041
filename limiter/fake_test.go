package limiter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// fakeCluster is nodes n1 to n3 with shards whose logs are in memory. A test
// sets who leads, and what befalls the next parts.
type fakeCluster struct {
	nodes map[string]*fakeNode

	mu       sync.Mutex
	leader   map[uint32]string
	machines map[uint32]*machine
	faults   map[uint32][]fault // of the next parts, whichever node they reach
	submits  int                // parts that reached a leader's log
	forwards int
	last     *Part // the part that came last
}

// fakeNode is one node: its limiter, and the log and the catalog below it.
type fakeNode struct {
	*fakeCluster
	*Limiter
	id string

	starting atomic.Bool // its catalog is not current
	removed  atomic.Bool // from its cluster

	mu      sync.Mutex
	routes  func(slot uint16) uint32
	believe map[uint32]string // overrides the cluster's leaders
	sets    map[string]*policy.Set
}

// fault is what befalls one part. Those around a commit come as a pair: the
// operations were applied, or they were not.
type fault int

const (
	fine fault = iota
	refusedNotLeader
	refusedNoLeader
	refusedDraining
	refusedOverloaded
	refusedInternal
	sealedNotLeader // sealed, then refused by the library
	unknownApplied
	unknownLost
	neverSealed
	sealedForever
	disownedSlots
	refusedByMachine
)

func newFake(t testing.TB) *fakeCluster {
	c := &fakeCluster{nodes: map[string]*fakeNode{}, leader: map[uint32]string{}, machines: map[uint32]*machine{}, faults: map[uint32][]fault{}}
	for _, id := range []string{"n1", "n2", "n3"} {
		n := &fakeNode{fakeCluster: c, id: id, believe: map[uint32]string{}, sets: map[string]*policy.Set{
			"api":   testSet("api", 7, 100),
			"small": testSet("small", 8, 3),
			"two":   testSet("two", 9, 50, 20),
		}}
		table, err := api.EvenSlotMap(3).Table()
		if err != nil {
			t.Fatal(err)
		}
		n.routes = func(slot uint16) uint32 { return table[slot] }
		n.Limiter = New(Config{Catalog: n, Log: n, AllowInline: true})
		c.nodes[id] = n
	}
	for s := range uint32(3) {
		c.leader[s+1] = fmt.Sprintf("n%d", s+1)
		c.machines[s+1] = &machine{shard: s + 1, left: map[string][]int64{}, ids: map[string]remembered{}, sessions: map[string][]byte{}}
	}
	return c
}

func testSet(name string, revision uint64, bursts ...int64) *policy.Set {
	info := api.SetInfo{Policy: name, Revision: revision}
	for i, b := range bursts {
		info.Limits = append(info.Limits, api.LimitInfo{Name: fmt.Sprintf("l%d", i), Rate: b, Per: 1e9, Burst: b})
	}
	return policy.NewSet(info)
}

// policy gives every node of the fake a policy, with what change makes of it.
func (c *fakeCluster) policy(name string, burst int64, change func(*api.SetInfo)) {
	info := testSet(name, 10, burst).SetInfo
	change(&info)
	for _, n := range c.nodes {
		n.sets[name] = policy.NewSet(info)
	}
}

func (n *fakeNode) Policy(name string) (*policy.Set, bool) {
	s, ok := n.sets[name]
	return s, ok
}

func (n *fakeNode) Route(slot uint16) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.routes(slot)
}

func (n *fakeNode) SlotMapVersion() uint64 { return 42 }
func (n *fakeNode) Current() bool          { return !n.starting.Load() }
func (n *fakeNode) Removed() bool          { return n.removed.Load() }

func (c *fakeCluster) setLeader(shard uint32, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader[shard] = id
}

func (n *fakeNode) Leader(shard uint32) Leader {
	n.fakeCluster.mu.Lock()
	defer n.fakeCluster.mu.Unlock()
	id, ok := n.believe[shard]
	if ok {
		delete(n.believe, shard) // wrong once
	} else {
		id = n.leader[shard]
	}
	return Leader{ID: id, HTTP: "http://" + id, Local: id == n.id, Known: id != ""}
}

func (n *fakeNode) Forward(ctx context.Context, node string, shard uint32, batch []byte) ([]byte, error) {
	n.fakeCluster.mu.Lock()
	n.forwards++
	n.fakeCluster.mu.Unlock()
	return n.nodes[node].Forwarded(ctx, shard, batch)
}

func (n *fakeNode) Submit(shard uint32, p *Part) {
	c := n.fakeCluster
	c.mu.Lock()
	defer c.mu.Unlock()
	c.submits++
	c.last = p
	var f fault
	if q := c.faults[shard]; len(q) > 0 {
		f, c.faults[shard] = q[0], q[1:]
	}
	if c.leader[shard] != n.id {
		f = refusedNotLeader
	}
	m := c.machines[shard]
	switch f {
	case refusedNotLeader:
		p.Done(nil, api.NewProblem(api.NotLeader, "fake"))
	case refusedNoLeader:
		p.Done(nil, api.NewProblem(api.NoLeader, "fake"))
	case refusedDraining:
		p.Done(nil, api.NewProblem(api.Draining, "fake"))
	case refusedOverloaded:
		p.Done(nil, api.NewProblem(api.Overloaded, "fake"))
	case refusedInternal:
		p.Done(nil, errors.New("fake"))
	case neverSealed:
	case fine, sealedNotLeader, unknownApplied, unknownLost, sealedForever, disownedSlots, refusedByMachine:
		if !p.Seal() {
			return
		}
		switch f {
		case sealedNotLeader:
			p.Done(nil, api.NewProblem(api.NotLeader, "fake"))
		case unknownLost:
			p.Done(nil, api.NewProblem(api.OutcomeUnknown, "fake"))
		case unknownApplied:
			m.apply(p)
			p.Done(nil, api.NewProblem(api.OutcomeUnknown, "fake"))
		case disownedSlots:
			p.Done(m.refuse(p, api.NotLeader), nil)
		case refusedByMachine:
			p.Done(m.refuse(p, api.RequestIDReused), nil)
		case fine:
			p.Done(m.apply(p), nil)
		}
	}
}

// machine is a naive state machine: buckets that never refill, an answer for
// each request id and session number, without bounds.
type machine struct {
	shard    uint32
	index    uint64
	left     map[string][]int64 // key and policy -> tokens
	ids      map[string]remembered
	sessions map[string][]byte
	applied  int // operations that charged
	leases   map[api.HoldID]fakeLease
	synced   int64 // tokens
}

// fakeLease is one that was not settled. It never expires.
type fakeLease struct {
	id      string // of the bucket
	granted int64
}

func (m *machine) settle(op *api.Op) api.Result {
	h, ok := m.leases[op.Hold.ID]
	if !ok || op.Kind != api.Settle {
		return api.Result{Status: api.StatusError, Code: api.NotFound, Detail: "fake"}
	}
	delete(m.leases, op.Hold.ID)
	for i := range m.left[h.id] {
		m.left[h.id][i] += h.granted - op.Cost
	}
	return api.Result{Status: api.StatusSettled, Hold: &api.HoldOutcome{Committed: op.Cost, Refunded: h.granted - op.Cost}}
}

// remembered is the first answer to a request id, with its limits.
type remembered struct {
	api.Result
	set []byte
}

func (m *machine) refuse(p *Part, code api.Code) []byte {
	reply := api.BeginReply(nil, p.Batch().N, api.Commit{Shard: m.shard})
	for range p.Batch().N {
		reply = api.AppendResult(reply, &api.Result{Status: api.StatusError, Code: code, Detail: "fake"})
	}
	return api.FinishReply(reply, 0, nil)
}

func (m *machine) apply(p *Part) []byte {
	b := p.Batch()
	session := fmt.Sprint(b.Session.ID, b.Session.Seq)
	if b.Session.Seq != 0 && m.sessions[session] != nil {
		reply := append([]byte(nil), m.sessions[session]...)
		api.MarkReplayed(reply)
		return reply
	}
	m.index++
	c := api.Commit{Shard: m.shard, Index: m.index, TimeNS: m.index * 1000}
	reply := api.BeginReply(nil, b.N, c)
	var encoded [][]byte
	for _, s := range p.Sets() {
		encoded = append(encoded, s.Encoded)
	}
	rest := b.Ops
	for i := range b.N {
		var op api.Op
		op, rest, _ = api.DecodeOp(rest)
		first, seen := m.ids[op.RequestID]
		res := first.Result
		if op.RequestID == "" || !seen {
			if op.Kind.OnHold() {
				res = m.settle(&op)
			} else {
				res = m.one(&op, p.Sets()[op.Policy])
			}
			if res.Status == api.StatusAllowed || res.Status == api.StatusRefunded {
				m.applied++
			}
			if op.RequestID != "" && res.Status != api.StatusError {
				res.Commit = c
				res.Commit.Offset = uint32(i)
				m.ids[clone(op.RequestID)] = remembered{res, p.Sets()[op.Policy].Encoded}
			}
			res.Set = op.Policy
		} else {
			res.Duplicate, res.OwnCommit = true, true
			res.Set = len(encoded)
			encoded = append(encoded, first.set)
		}
		reply = api.AppendResult(reply, &res)
	}
	reply = api.FinishReply(reply, 0, encoded)
	if b.Session.Seq != 0 {
		m.sessions[session] = append([]byte(nil), reply...)
	}
	return reply
}

func (m *machine) one(op *api.Op, s *policy.Set) api.Result {
	switch {
	case len(s.Limits) == 0:
		return api.Result{Status: api.StatusError, Code: api.UnknownPolicy, Detail: "fake"}
	case op.Kind == api.Take && op.Cost > s.MinBurst:
		return api.Result{Status: api.StatusError, Code: api.CostExceedsBurst, Detail: "fake"}
	}
	id := s.Policy + " " + op.Key
	left := m.left[id]
	if left == nil {
		for _, l := range s.Limits {
			left = append(left, l.Burst)
		}
	}
	res := api.Result{Status: api.StatusState}
	pass := true
	for i := range left {
		pass = pass && left[i] >= op.Cost
	}
	switch {
	case op.Kind == api.Lease:
		grant := op.Cost
		for i := range left {
			grant = min(grant, left[i])
		}
		if res.Status = api.StatusDenied; grant >= op.Hold.Need {
			res.Status, res.Hold = api.StatusLeased, &api.HoldOutcome{ID: op.Hold.ID, Granted: grant}
			for i := range left {
				left[i] -= grant
			}
			if m.leases == nil {
				m.leases = map[api.HoldID]fakeLease{}
			}
			m.leases[op.Hold.ID] = fakeLease{id, grant}
		}
	case op.Kind == api.Sync:
		for i := range left {
			left[i] -= op.Cost
		}
		m.synced += op.Cost
	case op.Kind == api.Take && !pass:
		res.Status = api.StatusDenied
	case op.Kind == api.Take:
		res.Status = api.StatusAllowed
		for i := range left {
			left[i] -= op.Cost
		}
	case op.Kind == api.Refund:
		res.Status, res.Refunded = api.StatusRefunded, op.Cost
		for i := range left {
			left[i] = min(left[i]+op.Cost, s.Limits[i].Burst)
		}
	case op.Kind == api.Reset:
		delete(m.left, id)
		return api.Result{Status: api.StatusReset}
	}
	m.left[id] = left
	for i := range left {
		v := api.LimitValues{Remaining: max(0, left[i])}
		if left[i] < 1 {
			v.RetryAfter = 1e6
		}
		res.Limits = append(res.Limits, v)
	}
	return res
}

func clone(s string) string { return string([]byte(s)) }

// script sets what befalls the next parts of a shard.
func (c *fakeCluster) script(shard uint32, f ...fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[shard] = f
}

func (c *fakeCluster) counts() (submits, forwards int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.submits, c.forwards
}

func (c *fakeCluster) applied(shard uint32) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines[shard].applied
}

// keyIn returns the n-th key of a shard of the fake's map.
func keyIn(shard uint32, n int) string {
	table, _ := api.EvenSlotMap(3).Table()
	for i := 0; ; i++ {
		key := fmt.Sprintf("key%d", i)
		if table[api.Slot(key)] != shard {
			continue
		}
		if n == 0 {
			return key
		}
		n--
	}
}

// batchOf makes a batch whose operations name policies instead of indexes.
type namedOp struct {
	policy string
	api.Op
}

func take(policy, key string) namedOp {
	return namedOp{policy, api.Op{Kind: api.Take, Cost: 1, Key: key}}
}

func (o namedOp) id(id string) namedOp  { o.RequestID = id; return o }
func (o namedOp) cost(c int64) namedOp  { o.Cost = c; return o }
func (o namedOp) as(k api.Kind) namedOp { o.Kind = k; return o }
func (o namedOp) lease() namedOp {
	o.Kind, o.Hold = api.Lease, &api.Hold{ID: api.NewHoldID(o.Key, [14]byte{1}), TTL: 1000, Need: 1}
	return o
}

func batchOf(ops ...namedOp) *api.Batch {
	b := &api.Batch{}
	for _, o := range ops {
		o.Policy = b.Ref(o.policy)
		b.Add(o.Op)
	}
	return b
}

func atomically(b *api.Batch) *api.Batch { b.Atomic = true; return b }

func session(b *api.Batch, seq uint64) *api.Batch {
	b.Session = api.Session{ID: [16]byte{1}, Seq: seq}
	return b
}

// short is a deadline for tests that run into it.
func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// results decodes a reply whole.
func results(t testing.TB, reply []byte) (*api.Reply, []api.Result) {
	t.Helper()
	r, err := api.DecodeReply(reply)
	if err != nil {
		t.Fatal(err)
	}
	var all []api.Result
	for {
		var res api.Result
		ok, err := r.Next(&res)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return r, all
		}
		all = append(all, res)
	}
}

// wantProblem checks the code and the outcome of an error.
func wantProblem(t testing.TB, err error, code api.Code) *api.Problem {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got the error %v; want the problem %s", err, code)
	}
	if p.Code != code || p.Outcome != code.Info().Outcome {
		t.Fatalf("got the problem %v with outcome %s; want %s", p, p.Outcome, code)
	}
	return p
}
