package check

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// place is one operation of a shard's log, and what became of it.
type place struct {
	shard   uint32
	index   uint64
	offset  uint32
	time    uint64    // cluster time
	days    []instant // what the time of day may have been, if the limits go by it
	op      *logOp
	verdict verdict
	// When it was appended, on the recorder's clock, as far as answers tell: not
	// before early, and before late.
	early, late int64
	// maybe: whether it was decided depends on which buckets the store had
	// dropped, and no answer tells.
	maybe   bool
	group   []*place   // the atomic group that it belongs to, or nil
	of      bucketName // of the hold that op acts on, if that is known
	lease   *hold      // that op ends, or nil
	back    int64      // what came back of the hold, to each limit at most
	granted int64      // what a lease got
	// expired is what reservations gave back that expired between the place before and
	// this one.
	expired []returned
	// owner is the operation of the history whose answer names the place, or -1.
	owner int
}

func (p *place) String() string {
	return fmt.Sprintf("shard %d, index %d, offset %d", p.shard, p.index, p.offset)
}

// describe is the place with its operation.
func (p *place) describe() string {
	id := ""
	if p.op.requestID != "" {
		id = fmt.Sprintf(" id %q", p.op.requestID)
	}
	if p.op.makes() || p.op.acts() {
		id += fmt.Sprintf(" hold %x", p.op.hold)
	}
	return fmt.Sprintf("%s of %d on %q under %s%s, %s at %s", p.op.kind, p.op.cost, p.op.key, p.op.set, id, p.verdict, p)
}

// commitKey is a place as an answer names it.
type commitKey struct {
	shard  uint32
	index  uint64
	offset uint32
}

// replay is one pass over a shard's log, with the oracle.
type replay struct {
	c      *checker
	o      *oracle
	places []*place // in the order of the log
}

// run replays a shard's log. It stops at an entry that cannot be read: whatever
// follows has another state.
func (rp *replay) run(log *groupLog) {
	for _, e := range log.entries {
		d, err := decode(e.Data, rp.c.sets)
		if err == nil && d.kind >= entryInit {
			err = fmt.Errorf("its kind is %d, one of the catalog", d.kind)
		}
		if err != nil {
			rp.c.report.add(BadEntry, "index %d of shard %d: %v", e.Index, log.group, err)
			return
		}
		// "A stamp behind the last applied one counts as the last applied one."
		if d.stamp < rp.o.now {
			rp.c.report.Clamped++
		}
		rp.o.pass(d.stamp)
		switch d.kind {
		case entryOwn:
			rp.o.own(d.own)
		case entryClock:
			rp.o.correct(d.offset)
		case entryTick:
			rp.o.expire(settledTick, settledTick)
		case entryTakes:
			most := settledEntry
			for i := range d.groups {
				most += settledOp * len(d.groups[i].ops)
			}
			rp.o.expire(most, most)
		}
		offset := uint32(0)
		for i := range d.groups {
			for _, op := range d.groups[i].ops {
				rp.o.calendar = rp.o.calendar || op.set.calendar()
			}
			rp.group(&d.groups[i], e.Index, offset)
			offset += uint32(len(d.groups[i].ops))
		}
		rp.stale(e.Index)
	}
}

// group applies one group of an entry.
func (rp *replay) group(g *logGroup, index uint64, offset uint32) {
	places := make([]*place, len(g.ops))
	for i := range g.ops {
		places[i] = &place{shard: rp.o.shard, index: index, offset: offset + uint32(i), time: rp.o.now, days: rp.o.instants(rp.o.calendar), op: &g.ops[i], late: Forever, owner: -1}
	}
	places[0].expired, rp.o.back = rp.o.back, nil
	rp.places = append(rp.places, places...)
	if g.seq != 0 {
		s, first, code := rp.o.sessions.begin(g, rp.o.now)
		if first != nil || code != "" {
			rp.unapplied(places, first, code)
			return
		}
		s.first[g.seq] = places[0]
	}
	if g.atomic {
		for _, p := range places {
			p.group = places
		}
		rp.settle(places, rp.o.applyAtomic(g.ops))
		return
	}
	for i := range g.ops {
		rp.settle(places[i:i+1], rp.o.apply(&g.ops[i]))
	}
}

// unapplied notes the operations of a group that its session kept from being
// applied: it was answered before, at first, or it is refused with code.
func (rp *replay) unapplied(places []*place, first *place, code api.Code) {
	for _, p := range places {
		if first != nil {
			p.verdict = replayed
		}
		for _, at := range rp.claims(p) {
			op := &rp.c.h.Ops[at]
			if first != nil {
				rp.c.report.add(DoubleCharge, "%s names %s, where its session's number was known from %s", op.describe(at), p, first)
			} else {
				rp.c.report.add(OtherPlace, "%s was told %s, where its session was refused: %s", op.describe(at), p, code)
			}
		}
	}
}

// settle compares the ways in which operations can have gone with what their
// callers were told, and makes those that agree the state.
func (rp *replay) settle(places []*place, ways []way) {
	claims := make([][]int, len(places))
	for i, p := range places {
		claims[i] = rp.claims(p)
	}
	agree := ways
	if len(ways) > 1 {
		agree = slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return rp.differs(places, claims, w) != nil })
	}
	if len(agree) == 0 {
		agree = ways
	}
	for i, p := range places {
		out := agree[0].outcomes[i]
		p.verdict = out.verdict
		if p.op.kind == leases && out.answer != nil {
			p.granted = out.answer.Granted
		}
		if p.op.acts() {
			p.of, p.back, p.lease = rp.o.where[p.op.hold], out.back, out.lease
		}
		for _, w := range agree[1:] {
			p.back = max(p.back, w.outcomes[i].back)
			p.maybe = p.maybe || w.outcomes[i].verdict.decided() != out.verdict.decided()
		}
	}
	for _, err := range rp.differs(places, claims, agree[0]) {
		rp.c.report.add(err.Kind, "%s", err.Text)
	}
	rp.o.settle(places, agree)
	for _, p := range places {
		if (p.verdict.decided() || p.verdict == again) && p.op.requestID != "" {
			rp.o.ids.add(p)
		}
	}
}

// claims finds who was told of a place, and notes the first of them as its
// owner. Answers about another operation than the one that stands there are
// refused.
func (rp *replay) claims(p *place) (claims []int) {
	for _, at := range rp.c.byPlace[commitKey{p.shard, p.index, p.offset}] {
		op := &rp.c.h.Ops[at]
		rp.c.placed[at] = p
		if !op.is(p.op) {
			rp.c.report.add(OtherPlace, "%s was told a place that has a %s", op.describe(at), p.describe())
			continue
		}
		if p.owner < 0 || rp.c.h.Ops[p.owner].Answer.Duplicate {
			p.owner = at
		}
		claims = append(claims, at)
	}
	return claims
}

// differs says how the answers to claims differ from a way.
func (rp *replay) differs(places []*place, claims [][]int, w way) (wrong []Violation) {
	for i, p := range places {
		out := &w.outcomes[i]
		for _, at := range claims[i] {
			op := &rp.c.h.Ops[at]
			switch {
			case out.verdict == repeated && !op.Answer.Duplicate:
				wrong = append(wrong, Violation{DoubleCharge, fmt.Sprintf("%s was decided at %s, though its request id was known from %s", op.describe(at), p, out.first)})
			case out.answer == nil || out.verdict == again && !op.Answer.Duplicate || out.verdict != again && op.Answer.Duplicate && op.RequestID == "":
				wrong = append(wrong, Violation{OtherPlace, fmt.Sprintf("%s was told %s, where it was %s %s", op.describe(at), p, out.verdict, out.code)})
			default:
				if diff := op.Answer.differs(out.answer, p.time, op.Kind == peek); diff != "" {
					wrong = append(wrong, Violation{WrongAnswer, fmt.Sprintf("%s at %s: %s", op.describe(at), p, diff)})
				}
			}
		}
	}
	return wrong
}

// stale compares the peeks that did not go through the log, and were answered
// after the entry at index, with the bucket as it was then.
func (rp *replay) stale(index uint64) {
	for _, at := range rp.c.staleAt[staleKey{rp.o.shard, index}] {
		op := &rp.c.h.Ops[at]
		rp.c.placed[at] = &place{owner: at}
		if diff := rp.differsStale(op); diff != "" {
			rp.c.report.add(WrongAnswer, "%s, stale as of shard %d, index %d: %s", op.describe(at), rp.o.shard, index, diff)
		} else {
			rp.c.report.Answers++
		}
	}
}

// differsStale says how a stale peek differs from each state that its bucket may
// have now. Whatever revision its node knew, the answer is as if it had known the
// one that answered: an older one gives way to the bucket's.
func (rp *replay) differsStale(op *Op) string {
	set := rp.c.setAt(op.Policy, op.Key, op.Answer.Revision)
	if set == nil {
		if op.inline() || !rp.c.catalog.seen {
			return "" // limits that no log shows
		}
		return fmt.Sprintf("policy_revision is %d, which never was", op.Answer.Revision)
	}
	var diff string
	name := bucketName{op.Policy, op.Key}
	for _, at := range rp.o.instants(rp.o.goesByDay(name, set)) {
		for _, stored := range rp.o.stored(name) {
			for _, b := range possible(stored, set, at) {
				b.adopt(set)
				out, _ := decide(&logOp{kind: peek, set: set, key: op.Key}, b, nil)
				if diff = op.Answer.differs(out.answer, rp.o.now, true); diff == "" {
					return ""
				}
			}
		}
	}
	return diff
}

// differs says in which field a differs from what the oracle answers. list says
// that the limits are always listed.
func (a *Answer) differs(want *Answer, time uint64, list bool) string {
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"allowed", a.Allowed, want.Allowed},
		{"policy_revision", a.Revision, want.Revision},
		{"limit", a.Limit, want.Limit},
		{"remaining", a.Remaining, want.Remaining},
		{"retry_after_ms", a.RetryAfterMS, tellable(a.RetryAfterMS, want.RetryAfterMS)},
		{"reset_after_ms", a.ResetAfterMS, tellable(a.ResetAfterMS, want.ResetAfterMS)},
		{"refunded", a.Refunded, want.Refunded},
		{"granted", a.Granted, want.Granted},
		{"committed", a.Committed, want.Committed},
		{"given back", a.Given, want.Given},
		{"charged", a.Charged, want.Charged},
		{"wait_ms", a.WaitMS, want.WaitMS},
		{"shadowed", a.Shadowed, want.Shadowed},
		{"time_ns", a.Commit.TimeNS, time},
	} {
		if f.got != f.want {
			return fmt.Sprintf("%s is %v, not %v", f.name, f.got, f.want)
		}
	}
	if !bytes.Equal(a.Hold, want.Hold) {
		return fmt.Sprintf("the id of the hold is %x, not %x", a.Hold, want.Hold)
	}
	// "limits lists every limit when the policy has more than one"
	if len(a.Limits) == 0 && len(want.Limits) == 1 && !list {
		return ""
	}
	if !slices.EqualFunc(a.Limits, want.Limits, func(x, y api.LimitState) bool {
		y.RetryAfterMS, y.ResetAfterMS = tellable(x.RetryAfterMS, y.RetryAfterMS), tellable(x.ResetAfterMS, y.ResetAfterMS)
		return x == y
	}) {
		return fmt.Sprintf("limits is %v, not %v", a.Limits, want.Limits)
	}
	return ""
}

// longestMS is what a time.Duration holds, 292 years, in milliseconds.
const longestMS = math.MaxInt64/1_000_000 + 1

// tellable is the time that an answer has to tell, which may tell got: a Go client knows none
// above longestMS.
func tellable(got, want int64) int64 {
	if got == longestMS {
		return min(want, longestMS)
	}
	return want
}
