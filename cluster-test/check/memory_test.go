package check

import (
	"fmt"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// script drives a world by hand: batches at given cluster times.
type script struct {
	*world
	s *worldShard
}

func newScript(t *testing.T) *script {
	world := right(1)
	world.steady = true
	w := newWorld(t, 1, world)
	return &script{w, w.groups[0]}
}

// send has one batch of takes decided at ns, and tells its caller.
func (s *script) send(ns int64, session api.Session, ids ...string) {
	s.now = ns
	view := s.catalog.View()
	b := &sent{shard: s.s, heard: true, copies: 1}
	b.batch.Session = session
	set, _ := view.Policy("slow")
	b.sets = append(b.sets, set)
	b.batch.Ref("slow")
	for _, id := range ids {
		b.batch.Add(api.Op{Kind: api.Take, Cost: 1, Key: "k", RequestID: id})
		b.ops = append(b.ops, len(s.h.Ops))
		s.h.Ops = append(s.h.Ops, Op{Client: 1, Call: s.now, Kind: take, Policy: "slow", Key: "k", Cost: 1, RequestID: id})
	}
	s.pending = append(s.pending, b)
	s.seal(s.s, 100)
	s.now += 1e9
}

// last is the last answer, or the code of the failure.
func (s *script) last() string {
	op := &s.h.Ops[len(s.h.Ops)-1]
	if op.Outcome != Done {
		return string(op.Code)
	}
	return fmt.Sprintf("duplicate=%v index=%d", op.Answer.Duplicate, op.Answer.Commit.Index)
}

func (s *script) want(t *testing.T, what, want string) {
	t.Helper()
	if got := s.last(); got != want {
		t.Errorf("%s: the store says %s, want %s", what, got, want)
	}
}

// mustPass checks that the oracle agrees with the store on all of it.
func (s *script) mustPass(t *testing.T) *Report {
	t.Helper()
	r := Check(s.input())
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	return r
}

// TestTheWindowOfRequestIDs: the oracle and the store forget an id at the same
// nanosecond.
func TestTheWindowOfRequestIDs(t *testing.T) {
	s := newScript(t)
	const start = 10e9
	s.send(start, api.Session{}, "id")
	first := s.last()
	s.send(start+fsm.DedupWindow-1, api.Session{}, "id")
	s.want(t, "the last nanosecond of the window", "duplicate=true "+first[len("duplicate=false "):])
	s.send(start+fsm.DedupWindow, api.Session{}, "id")
	s.want(t, "after the window", fmt.Sprintf("duplicate=false index=%d", s.s.index))
	if r := s.mustPass(t); r.Duplicates != 1 {
		t.Errorf("%d duplicates", r.Duplicates)
	}
}

// TestTheMostRequestIDs: the oldest of too many is forgotten, and no other.
func TestTheMostRequestIDs(t *testing.T) {
	m := newIDMemory()
	m.max = 3
	op := func(i int) *logOp {
		return &logOp{kind: take, set: one(1, 1, 1e9, 1), key: "k", cost: 1, requestID: fmt.Sprint(i)}
	}
	for i := range 4 {
		m.add(&place{op: op(i)})
	}
	for i := range 4 {
		if p, code := m.recall(op(i), 0); (p != nil) != (i > 0) || code != "" {
			t.Errorf("of 4 ids, 3 of which are kept, number %d: known is %v, %s", i, p != nil, code)
		}
	}
	if m = newIDMemory(); m.max != fsm.MaxDedup {
		t.Errorf("the oracle keeps %d ids, the store %d", m.max, fsm.MaxDedup)
	}
}

// TestTheMemoryOfSessions: a number is answered again until it is acknowledged
// or the session has been idle for its window; and no session answers without
// bound.
func TestTheMemoryOfSessions(t *testing.T) {
	s := newScript(t)
	session := func(seq, acked uint64) api.Session { return api.Session{ID: [16]byte{1}, Seq: seq, Acked: acked} }
	const start = 10e9
	s.send(start, session(1, 0), "")
	first := s.last()
	s.send(start+fsm.SessionWindow-1, session(1, 0), "")
	s.want(t, "a repetition", first)
	s.h.Ops[0].Return = s.h.Ops[1].Return // one operation, sent twice
	s.h.Ops = s.h.Ops[:1]
	s.send(start+fsm.SessionWindow, session(2, 1), "")
	s.send(start+fsm.SessionWindow, session(1, 0), "")
	s.want(t, "an acknowledged number", string(api.SessionStale))
	for seq := range uint64(fsm.MaxSessionReplies) {
		s.send(start+fsm.SessionWindow, session(3+seq, 1), "")
	}
	s.want(t, "too many answers", string(api.Overloaded))
	s.send(start+2*fsm.SessionWindow, session(2, 0), "")
	s.want(t, "a number of a session that is over", fmt.Sprintf("duplicate=false index=%d", s.s.index))
	if r := s.mustPass(t); r.Replayed != 1 || r.Failed != 2 {
		t.Errorf("%d replayed, %d failed", r.Replayed, r.Failed)
	}
}

// TestSlackAndDrift: cluster time may be as fast as the input allows, and no
// faster.
func TestSlackAndDrift(t *testing.T) {
	world := hot()
	world.fast = 1
	in := newWorld(t, 5, world).run(400).input()
	if r := Check(in); r.ByKind[TimeRanAhead] == 0 {
		t.Error("a clock that runs fast by 1 percent is not found")
	}
	in.DriftPPM = 10_100 // of what passed, and some of it passed before a call
	in.Slack = 1e6
	if err := Check(in).Err(); err != nil {
		t.Errorf("within the drift: %v", err)
	}
	in.DriftPPM, in.Slack = 0, 1<<40
	if err := Check(in).Err(); err != nil {
		t.Errorf("within the slack: %v", err)
	}
}
