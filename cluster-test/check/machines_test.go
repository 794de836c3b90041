package check

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// brokenMachine is the store's own machine behind a fault: what it is given is
// not quite the log, or what it answers not quite what it should.
type brokenMachine struct {
	t       testing.TB
	rnd     *rand.Rand
	inner   *fsm.Buckets
	applied int // entries

	// before may apply other entries to inner, at indexes below; change gives
	// the entry that inner sees; after may change the replies, and inner.
	before func(m *brokenMachine, index uint64, entry []byte)
	change func(m *brokenMachine, g *logGroup)
	after  func(m *brokenMachine, entry []byte, replies [][]byte)
	speed  uint64 // of inner's time, if not 0
	jumps  bool   // inner's time jumps as the leader's clock does

	first, jump int64 // the clock's offset at first, and what it has jumped since

	kept *bytes.Buffer // a snapshot, for after
	seen map[string]uint64

	made  map[[16]byte]repayment // the holds given so far
	debts []repayment
}

// repayment is tokens that go back to the bucket of an operation, after a stamp; below
// 0 they are charged.
type repayment struct {
	op     *logOp
	tokens int64
	after  uint64
}

func (m *brokenMachine) Apply(index uint64, entry []byte) ([][]byte, error) {
	if m.before != nil {
		m.before(m, index, entry)
	}
	m.applied++
	seen := entry
	if m.change != nil {
		seen = rebuild(m.t, entry, func(g *logGroup) { m.change(m, g) })
	}
	if m.speed > 0 {
		seen = restamp(seen, m.speed*stampOf(entry))
	}
	if m.jumps {
		if d, err := decode(entry, map[string]*numbers{}); err == nil && d.kind == entryClock {
			m.first = cmp.Or(m.first, d.offset)
			m.jump = max(m.jump, d.offset-m.first)
			seen = restamp(fsm.EncodeTick(0), stampOf(entry))
		}
		seen = restamp(seen, stampOf(entry)+uint64(m.jump))
	}
	a, err := m.inner.Apply(index, seen)
	if err != nil {
		return nil, err
	}
	if m.after != nil {
		m.after(m, entry, a.Replies)
	}
	return a.Replies, nil
}

// restarts is how often the machine was restored so far: every few entries.
// What it knows under a name of before has another name since.
func (m *brokenMachine) restarts() int { return m.applied / 4 }

// extra applies an entry that is not in the log, one index before index.
func (m *brokenMachine) extra(index uint64, entry []byte) {
	if _, err := m.inner.Apply(index-1, entry); err != nil {
		m.t.Fatal(err)
	}
}

// snapshot returns the state of inner.
func (m *brokenMachine) snapshot() *bytes.Buffer {
	var b bytes.Buffer
	c := m.inner.Capture()
	defer c.Release()
	if _, err := c.WriteTo(&b); err != nil {
		m.t.Fatal(err)
	}
	return &b
}

func (m *brokenMachine) restore(b *bytes.Buffer) {
	if err := m.inner.Restore(b); err != nil {
		m.t.Fatal(err)
	}
}

// repay gives back what is due.
func (m *brokenMachine) repay(index uint64, entry []byte) {
	var b api.Batch
	var sets []*policy.Set
	m.debts = slices.DeleteFunc(m.debts, func(d repayment) bool {
		if d.after > stampOf(entry) {
			return false
		}
		op := api.Op{Kind: api.Refund, Policy: len(sets), Key: d.op.key, Cost: d.tokens}
		if d.tokens < 0 {
			op.Kind, op.Cost = api.Sync, -d.tokens
		}
		if d.tokens != 0 {
			b.Add(op)
			sets = append(sets, setOf(d.op.set))
		}
		return true
	})
	if b.N > 0 {
		var e fsm.EntryWriter
		e.Add(&b, sets)
		m.extra(index, e.Seal(stampOf(entry)))
	}
}

// leased tells of each lease that an entry gave.
func (m *brokenMachine) leased(entry []byte, replies [][]byte, tell func(op *logOp, granted int64)) {
	m.results(entry, replies, func(op *logOp, res *api.Result) {
		if _, known := m.made[op.hold]; res.Status == api.StatusLeased && !known {
			m.made[op.hold] = repayment{op, res.Hold.Granted, 0}
			tell(op, res.Hold.Granted)
		}
	})
}

// results tells of each result of an entry that is no replay. What tell makes of it is
// what the callers see.
func (m *brokenMachine) results(entry []byte, replies [][]byte, tell func(op *logOp, res *api.Result)) {
	d, err := decode(entry, map[string]*numbers{})
	if err != nil {
		m.t.Fatal(err)
	}
	if m.made == nil {
		m.made = map[[16]byte]repayment{}
	}
	for i := range d.groups {
		r, err := api.DecodeReply(replies[i])
		if err != nil {
			m.t.Fatal(err)
		}
		if r.Replayed {
			continue
		}
		var sets [][]byte
		for _, s := range r.Sets {
			sets = append(sets, api.AppendSetInfo(nil, &s))
		}
		out := api.BeginReply(nil, r.N, r.Commit)
		var res api.Result
		for k := range d.groups[i].ops {
			if ok, err := r.Next(&res); !ok || err != nil {
				m.t.Fatal(ok, err)
			}
			tell(&d.groups[i].ops[k], &res)
			out = api.AppendResult(out, &res)
		}
		replies[i] = api.FinishReply(out, 0, sets)
	}
}

// held notes the reservations and permits that an entry gave.
func (m *brokenMachine) held(entry []byte, replies [][]byte) {
	m.results(entry, replies, func(op *logOp, res *api.Result) {
		if res.Status == api.StatusHeld && !res.Duplicate {
			m.made[op.hold] = repayment{op, op.cost, 0}
		}
	})
}

// settled notes the holds that an entry gave, and tells of each settlement of a
// reservation, the first of each; what it returns goes back to the bucket.
func (m *brokenMachine) settled(entry []byte, replies [][]byte, back func(op, made *logOp, out *api.HoldOutcome) int64) {
	m.held(entry, replies)
	m.results(entry, replies, func(op *logOp, res *api.Result) {
		made, ok := m.made[op.hold]
		if ok && res.Status == api.StatusSettled && !res.Duplicate {
			m.debts = append(m.debts, repayment{made.op, back(op, made.op, res.Hold), 0})
		}
	})
}

// acted tells of each end of a lease in an entry, the first of each.
func (m *brokenMachine) acted(entry []byte, tell func(op, made *logOp, granted int64)) {
	d, err := decode(entry, map[string]*numbers{})
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range d.groups {
		for k := range d.groups[i].ops {
			op := &d.groups[i].ops[k]
			if l, ok := m.made[op.hold]; ok && op.acts() && l.tokens > 0 {
				tell(op, l.op, l.tokens)
				m.made[op.hold] = repayment{l.op, 0, 0}
			}
		}
	}
}

func anonymous(g *logGroup) {
	g.seq, g.acked = 0, 0
	for i := range g.ops {
		g.ops[i].requestID = ""
	}
}

// TestBrokenMachinesAreFound runs each faulty machine under random load.
func TestBrokenMachinesAreFound(t *testing.T) {
	isTakes := func(entry []byte) bool { return entry[1] == entryTakes }
	sometimes := func(m *brokenMachine, entry []byte) bool { return isTakes(entry) && m.rnd.IntN(100) < 6 }
	for _, fault := range []struct {
		name string
		fast int64
		hot  bool
		days bool
		held bool
		m    brokenMachine
		want []Kind
	}{
		{name: "charges an entry twice now and then", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) {
				if sometimes(m, entry) {
					m.extra(index, rebuild(m.t, entry, anonymous))
				}
			}}},
		{name: "loses an entry's charges now and then", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, _ uint64, entry []byte) {
				if m.kept = nil; sometimes(m, entry) {
					m.kept = m.snapshot()
				}
			},
			after: func(m *brokenMachine, _ []byte, _ [][]byte) {
				if m.kept != nil {
					m.restore(m.kept)
				}
			}}},
		{name: "restores snapshots without request ids", want: []Kind{DoubleCharge}, m: brokenMachine{
			change: func(m *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].requestID != "" {
						g.ops[i].requestID += fmt.Sprint("/", m.restarts())
					}
				}
			}}},
		{name: "restores snapshots without sessions", want: []Kind{DoubleCharge}, m: brokenMachine{
			change: func(m *brokenMachine, g *logGroup) { g.session[15] ^= byte(m.restarts()) }}},
		{name: "knows no request ids", want: []Kind{DoubleCharge}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					g.ops[i].requestID = ""
				}
			}}},
		{name: "knows no sessions", want: []Kind{DoubleCharge}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) { g.seq, g.acked = 0, 0 }}},
		{name: "refills twice", hot: true, want: []Kind{WrongAnswer, OverAdmitted}, m: brokenMachine{
			speed: 2,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				for _, r := range replies {
					retime(r, stampOf(entry))
				}
			}}},
		{name: "forgets the time of the last entry when it restarts", want: []Kind{TimeWentBack, WrongAnswer}, m: brokenMachine{
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				if m.rnd.IntN(10) == 0 {
					for _, r := range replies {
						retime(r, 1e9)
					}
				}
			}}},
		{name: "runs fast by a fiftieth", fast: 2, want: []Kind{TimeRanAhead}},
		{name: "runs twice as fast", fast: 100, hot: true, want: []Kind{TimeRanAhead, OverAdmitted}},
		{name: "charges an atomic batch in part", want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) { g.atomic = false }}},
		{name: "forgives what is consumed when a policy is edited", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) { m.forgive(index, entry) }}},
		{name: "ignores refunds", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, _ uint64, entry []byte) { m.kept = nil },
			change: func(m *brokenMachine, g *logGroup) {
				if len(g.ops) == 1 && g.ops[0].kind == refund {
					m.kept = m.snapshot()
				}
			},
			after: func(m *brokenMachine, _ []byte, _ [][]byte) {
				if m.kept != nil {
					m.restore(m.kept)
				}
			}}},
		{name: "charges one token more", want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == take {
						g.ops[i].cost++
					}
				}
			}}},
		{name: "takes all keys of a tag for one", want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					g.ops[i].key = g.ops[i].key[:min(3, len(g.ops[i].key))]
				}
			}}},
		{name: "admits whatever comes", hot: true, want: []Kind{OverAdmitted, WrongAnswer, NotLinearizable}, m: brokenMachine{
			after: func(m *brokenMachine, entry []byte, replies [][]byte) { m.admitAll(entry, replies) }}},
		{name: "does not charge leases", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: (*brokenMachine).repay,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.leased(entry, replies, func(op *logOp, granted int64) { m.debts = append(m.debts, repayment{op, granted, 0}) })
			}}},
		{name: "gives back twice what was left of a lease", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) {
				m.repay(index, entry)
				m.acted(entry, func(op, made *logOp, granted int64) {
					m.debts = append(m.debts, repayment{made, max(0, granted-op.cost), 0})
				})
			},
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.leased(entry, replies, func(op *logOp, granted int64) {})
			}}},
		{name: "gives back leases that expire", want: []Kind{WrongAnswer}, m: brokenMachine{
			before: (*brokenMachine).repay,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.leased(entry, replies, func(op *logOp, granted int64) {
					m.debts = append(m.debts, repayment{op, granted, stampOf(entry) + uint64(op.ttl)*1e6})
				})
			}}},
		{name: "refills a bucket beyond what is not leased", want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == leases {
						g.ops[i].ttl = 1
					}
				}
			}}},
		{name: "does not charge what is synced", want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == syncs {
						g.ops[i].cost = 0
					}
				}
			}}},
		{name: "charges reservations twice", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) {
				if isTakes(entry) {
					m.extra(index, rebuild(m.t, entry, func(g *logGroup) {
						anonymous(g)
						g.atomic = false
						for i := range g.ops {
							if g.ops[i].kind != reserve {
								g.ops[i] = logOp{kind: peek, set: anySet, key: "k"}
							}
							g.ops[i].hold[15] ^= 0xff
						}
					}))
				}
			}}},
		{name: "gives back twice what is cancelled", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			before: (*brokenMachine).repay,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.settled(entry, replies, func(op, _ *logOp, out *api.HoldOutcome) int64 {
					if op.kind == cancel {
						return out.Refunded
					}
					return 0
				})
			}}},
		{name: "keeps what a commit leaves over", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			before: (*brokenMachine).repay,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.settled(entry, replies, func(op, _ *logOp, out *api.HoldOutcome) int64 {
					if op.kind == commit {
						return -out.Refunded
					}
					return 0
				})
			}}},
		{name: "charges a commit deeper than one burst", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			before: (*brokenMachine).repay,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.settled(entry, replies, func(op, made *logOp, out *api.HoldOutcome) int64 {
					return min(0, made.cost+out.Charged-op.cost)
				})
			}}},
		{name: "never settles reservations that expire", held: true, want: []Kind{WrongAnswer, OtherPlace}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == reserve {
						g.ops[i].ttl = api.MaxTTL
					}
				}
			}}},
		{name: "commits what is to be cancelled when it expires", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					g.ops[i].rule = 0
				}
			}}},
		{name: "commits what was cancelled", held: true, want: []Kind{OtherPlace}, m: brokenMachine{
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.results(entry, replies, func(op *logOp, res *api.Result) {
					if op.kind == commit && res.Code == api.AlreadySettled {
						*res = api.Result{Status: api.StatusSettled, Hold: &api.HoldOutcome{Committed: op.cost}}
					}
				})
			}}},
		{name: "tells a commit that comes again as the first", held: true, want: []Kind{OtherPlace}, m: brokenMachine{
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.results(entry, replies, func(op *logOp, res *api.Result) {
					res.Duplicate = res.Duplicate && op.kind != commit
				})
			}}},
		{name: "lets permits outlive their time", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == acquire {
						g.ops[i].ttl = api.MaxTTL
					}
				}
			}}},
		{name: "renews permits that are over", held: true, want: []Kind{OtherPlace}, m: brokenMachine{
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				m.results(entry, replies, func(op *logOp, res *api.Result) {
					if op.kind == renew && res.Code == api.AlreadySettled {
						*res = api.Result{Status: api.StatusRenewed}
					}
				})
			}}},
		{name: "does not renew permits", held: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(_ *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == renew {
						g.ops[i].ttl = 1
					}
				}
			}}},
		{name: "grants slots that are taken", held: true, want: []Kind{OverAdmitted, WrongAnswer}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) {
				var b api.Batch
				for id, h := range m.made {
					if h.op.kind == acquire {
						b.Add(api.Op{Kind: api.Release, Hold: &api.Hold{ID: id}})
					}
					delete(m.made, id)
				}
				if b.N > 0 {
					var e fsm.EntryWriter
					e.Add(&b, nil)
					m.extra(index, e.Seal(stampOf(entry)))
				}
			},
			after: (*brokenMachine).held}},
		{name: "grants a window twice", days: true, want: []Kind{WrongAnswer, OverAdmitted}, m: brokenMachine{
			before: func(m *brokenMachine, index uint64, entry []byte) {
				if isTakes(entry) && m.rnd.IntN(4) == 0 {
					m.extra(index, forgetAll(m.t, entry))
				}
			}}},
		{name: "refunds into a window what was spent before it", days: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			change: func(m *brokenMachine, g *logGroup) {
				for i := range g.ops {
					if g.ops[i].kind == refund {
						g.ops[i].cost *= 2
					}
				}
			}}},
		{name: "follows the jumps of a clock", days: true, want: []Kind{WrongAnswer}, m: brokenMachine{
			jumps: true,
			after: func(m *brokenMachine, entry []byte, replies [][]byte) {
				for _, r := range replies {
					retime(r, stampOf(entry))
				}
			}}},
		{name: "charges nothing to those who wait", days: true, want: []Kind{WrongAnswer, OverAdmitted}, m: brokenMachine{
			before: func(m *brokenMachine, _ uint64, _ []byte) { m.kept = nil },
			change: func(m *brokenMachine, g *logGroup) {
				if slices.ContainsFunc(g.ops, func(op logOp) bool { return op.maxWait > 0 }) {
					m.kept = m.snapshot()
				}
			},
			after: func(m *brokenMachine, _ []byte, _ [][]byte) {
				if m.kept != nil {
					m.restore(m.kept)
				}
			}}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			found := 0
			for seed := range uint64(8) {
				world := right(2)
				if fault.hot {
					world = hot()
				}
				if fault.days {
					world = calendar()
					world.steady = true
				}
				steps := 1200
				if fault.held {
					steps = 2400
					world.tags, world.steady, world.holding = 1, true, true
				}
				world.fast = fault.fast
				world.machineOf = func(shard uint32) machine {
					m := fault.m
					m.t, m.inner, m.rnd = t, fsm.NewBuckets(shard), rand.New(rand.NewPCG(seed, 3))
					return &m
				}
				w := newWorld(t, 2000+seed, world)
				r := Check(w.run(steps).input())
				if r.Err() != nil {
					found++
				}
				for _, kind := range fault.want {
					if r.ByKind[kind] == 0 {
						t.Errorf("seed %d: not found as %s: %v", seed, kind, r.Err())
					}
				}
			}
			if found < 8 {
				t.Errorf("found with %d of 8 seeds", found)
			}
		})
	}
}

// forgetAll is an entry of resets of all buckets that an entry is about.
func forgetAll(t testing.TB, entry []byte) []byte {
	return rebuild(t, entry, func(g *logGroup) {
		g.atomic = false
		anonymous(g)
		for i := range g.ops {
			g.ops[i].kind, g.ops[i].maxWait = reset, 0
		}
	})
}

// forgive resets the buckets of a policy that is new under its revision.
func (m *brokenMachine) forgive(index uint64, entry []byte) {
	d, err := decode(entry, map[string]*numbers{})
	if err != nil || d.kind != entryTakes {
		return
	}
	if m.seen == nil {
		m.seen = map[string]uint64{}
	}
	var resets api.Batch
	var sets []*policy.Set
	for _, g := range d.groups {
		for _, op := range g.ops {
			name := op.set.policy + " " + op.key
			if op.set.refusal == "" && m.seen[name] != 0 && op.set.revision > m.seen[name] {
				resets.Add(api.Op{Kind: api.Reset, Policy: len(sets), Key: op.key})
				sets = append(sets, setOf(op.set))
			}
			m.seen[name] = max(m.seen[name], op.set.revision)
		}
	}
	if resets.N > 0 {
		var e fsm.EntryWriter
		e.Add(&resets, sets)
		m.extra(index, e.Seal(d.stamp))
	}
}

// admitAll turns every denial into an admission, in the answers alone.
func (m *brokenMachine) admitAll(entry []byte, replies [][]byte) {
	m.results(entry, replies, func(_ *logOp, res *api.Result) {
		if res.Status == api.StatusDenied {
			res.Status = api.StatusAllowed
		}
	})
}

// anySet is limits that are there to be named.
var anySet = one(1, 1, time.Second, 1)

func setOf(s *numbers) *policy.Set {
	info := api.SetInfo{Policy: s.policy, Revision: s.revision}
	if s.leaseTTL > 0 {
		info.Mode, info.LeaseTTL = api.Leased, s.leaseTTL
	}
	switch {
	case s.shadow:
		info.Enforcement = api.Shadow
	case s.off:
		info.Enforcement = api.Off
	}
	for _, l := range s.limits {
		info.Limits = append(info.Limits, api.LimitInfo{Name: l.name, Algorithm: l.algorithm, Rate: l.rate, Per: l.per, Burst: l.burst})
		if l.zone != nil {
			info.Zone = l.zone
		}
	}
	return policy.NewSet(info)
}

// rebuild encodes an entry of operations anew after f has changed its groups:
// the inverse of decode.
func rebuild(t testing.TB, entry []byte, f func(g *logGroup)) []byte {
	d, err := decode(entry, map[string]*numbers{})
	if err != nil {
		t.Fatal(err)
	}
	if d.kind != entryTakes {
		return entry
	}
	var e fsm.EntryWriter
	for i := range d.groups {
		g := &d.groups[i]
		f(g)
		b := api.Batch{Atomic: g.atomic, Session: api.Session{ID: g.session, Seq: g.seq, Acked: g.acked}}
		var sets []*policy.Set
		for _, op := range g.ops {
			o := api.Op{Kind: api.Kind(slices.Index(kinds[:], op.kind)), Policy: len(sets), Cost: op.cost, Key: op.key, RequestID: op.requestID, MaxWait: op.maxWait, Instance: op.instance}
			if op.makes() || op.acts() {
				o.Hold = &api.Hold{ID: op.hold, TTL: op.ttl, Need: op.need, CancelOnExpiry: op.rule == 1}
			}
			b.Add(o)
			if op.acts() {
				continue
			}
			sets = append(sets, setOf(op.set))
		}
		e.Add(&b, sets)
	}
	return e.Seal(d.stamp)
}

func stampOf(entry []byte) uint64 { return binary.LittleEndian.Uint64(entry[8:]) }

// restamp is entry with another stamp.
func restamp(entry []byte, ns uint64) []byte {
	e := slices.Clone(entry)
	binary.LittleEndian.PutUint64(e[8:], ns)
	binary.LittleEndian.PutUint32(e[4:], 0)
	binary.LittleEndian.PutUint32(e[4:], crc32.Update(crc32.Checksum(e[:4], castagnoli), castagnoli, e[8:]))
	return e
}

// retime writes another cluster time into the head of a reply.
func retime(reply []byte, ns uint64) { binary.LittleEndian.PutUint64(reply[24:], ns) }
