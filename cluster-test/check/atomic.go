package check

import (
	"maps"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// applyAtomic tries an atomic group: it "charges all or none". The rules in
// quotes are those of fsm/atomic.go.
func (o *oracle) applyAtomic(ops []logOp) []way {
	outcomes := make([]outcome, len(ops))
	same := func(out outcome) []way {
		for i := range outcomes {
			outcomes[i] = out
		}
		return []way{{outcomes: outcomes}}
	}

	// What is wrong with the group whatever its buckets hold.
	wrong := make([]api.Code, len(ops))
	first := make([]*place, len(ops))
	known, notOwned, anyWrong := 0, false, false
	ids := map[string]bool{}
	for i := range ops {
		op := &ops[i]
		switch code := o.refuse(op); {
		case op.kind != take: // "Only takes may be in it."
			wrong[i] = api.InvalidRequest
		case code != "":
			wrong[i] = code
			notOwned = notOwned || code == api.NotLeader
		case op.requestID != "" && ids[op.requestID]: // "or has an id twice, is refused"
			wrong[i] = api.RequestIDReused
		default:
			ids[op.requestID] = true
			if first[i], wrong[i] = o.ids.recall(op, o.now); first[i] != nil {
				known++
			} else if wrong[i] == "" {
				wrong[i] = op.set.refusal
			}
		}
		anyWrong = anyWrong || wrong[i] != ""
	}
	if notOwned { // "An operation on a slot that is not owned goes first: then all get that one"
		return same(fail(api.NotLeader))
	}

	var ways []way
	calendar := slices.ContainsFunc(ops, func(op logOp) bool { return o.goesByDay(bucketName{op.set.policy, op.key}, op.set) })
	for k, at := range o.instants(calendar) {
		for _, start := range o.starts(at, ops, wrong, first) {
			w := o.tryAtomic(ops, start, wrong, first, known, anyWrong)
			w.clock, w.calendar = o.clocks[k], calendar
			ways = append(ways, w)
		}
	}
	return ways[:min(len(ways), maxPossible)]
}

// starts returns the ways in which the buckets of a group may be before it.
func (o *oracle) starts(at instant, ops []logOp, wrong []api.Code, first []*place) []map[bucketName]*bucket {
	starts := []map[bucketName]*bucket{{}}
	for i := range ops {
		name := bucketName{ops[i].set.policy, ops[i].key}
		if _, met := starts[0][name]; met || wrong[i] != "" || first[i] != nil {
			continue
		}
		var more []map[bucketName]*bucket
		for _, start := range starts {
			for _, stored := range o.stored(name) {
				for _, b := range possible(stored, ops[i].set, at) {
					next := map[bucketName]*bucket{name: b}
					maps.Copy(next, start)
					more = append(more, next)
				}
			}
		}
		starts = more[:min(len(more), maxPossible)]
	}
	return starts
}

// tryAtomic decides a group whose buckets are as in start, which it keeps.
func (o *oracle) tryAtomic(ops []logOp, start map[bucketName]*bucket, wrong []api.Code, first []*place, known int, anyWrong bool) way {
	outcomes := make([]outcome, len(ops))

	// Does it pass? Charge copies, into debt where it must be: "each sees the
	// charges before it".
	trial, spent := clones(start), map[bucketName]int64{}
	var wait uint64 // the longest of those that are denied
	passes := true
	var cause api.Code // of the first failure: "every operation gets it that has none of its own"
	for i := range ops {
		op, code := &ops[i], wrong[i]
		if code == "" && first[i] == nil {
			name := bucketName{op.set.policy, op.key}
			b := trial[name]
			b.adopt(op.set)
			// "More than the burst in all is a cost that exceeds the burst."
			if b.set.permits && !b.set.off {
				code = api.PermitRequired
			} else if spent[name]+op.cost > b.set.smallest && !b.set.off && !b.set.shadow {
				code = api.CostExceedsBurst
			} else if w, ok, charged := member(b, op, spent[name]); charged {
				spent[name] += op.cost
				if !ok {
					wait, passes = max(wait, w), false
				}
			}
		}
		if code != "" {
			anyWrong = true
			outcomes[i] = fail(code)
			if cause == "" {
				cause = code
			}
		}
	}
	switch {
	case anyWrong:
		for i := range outcomes {
			if outcomes[i].code == "" {
				outcomes[i] = fail(cause)
			}
		}
		return way{outcomes: outcomes}
	case known == len(ops): // "A group whose every operation is a known repetition gets the first results again"
		for i := range outcomes {
			outcomes[i] = outcome{verdict: repeated, first: first[i]}
		}
		return way{outcomes: outcomes}
	case known > 0: // "one that mixes known and unknown [...] is refused"
		for i := range outcomes {
			outcomes[i] = fail(api.RequestIDReused)
		}
		return way{outcomes: outcomes}
	}

	trial, spent = clones(start), map[bucketName]int64{}
	before := clones(start)
	for i := range ops {
		op := &ops[i]
		name := bucketName{op.set.policy, op.key}
		b := trial[name]
		b.adopt(op.set)
		before[name].adopt(op.set)
		if !passes {
			outcomes[i] = outcome{verdict: denied, answer: denyGroup(b, before[name], op, wait)}
		}
		w, ok, charged := member(b, op, spent[name])
		if charged {
			spent[name] += op.cost
		}
		if !passes {
			continue
		}
		a := b.describe(b.scarcest(), 0)
		if !ok { // one in shadow
			if op.cost <= b.set.smallest {
				a = b.deny(op.cost, op.maxWait)
			}
			a.Shadowed, w = true, 0
		}
		a.Allowed, a.WaitMS = true, millis(w)
		outcomes[i] = outcome{verdict: allowed, answer: a}
	}
	if !passes {
		trial = nil // "charges nothing"
	} else {
		for name := range trial {
			if spent[name] == 0 { // nothing but takes in shadow, or off
				delete(trial, name)
			}
		}
	}
	return way{outcomes: outcomes, buckets: trial}
}

// member charges one take of a group, "into debt where it must be", unless it is
// of a policy that is off, or in shadow and denied.
// So is one that, with the spent tokens of the group, costs more than the burst.
func member(b *bucket, op *logOp, spent int64) (wait uint64, ok, charged bool) {
	if b.set.off {
		return 0, true, false
	}
	if b.set.shadow && spent+op.cost > b.set.smallest {
		return 0, false, false
	}
	if wait, ok = b.borrow(op.cost, op.maxWait); ok {
		return wait, true, true
	}
	again := b.again(wait, op.cost, op.maxWait)
	if b.set.shadow {
		return again, false, false
	}
	b.charge(op.cost, wait)
	return again, false, true
}

// denyGroup describes a bucket to an operation of a group that does not pass:
// "every result is a denial with the limits' values from before the group, and
// the retry-after of the binding limit is the longest wait of the group". b has
// the charges of the group's earlier operations, before has not; so the limit that
// binds is the one that this operation waits for after them.
func denyGroup(b, before *bucket, op *logOp, longest uint64) *Answer {
	binding := b.scarcest()
	a := b.describe(binding, 0)
	if op.cost <= b.set.smallest { // else it is in shadow, and no wait helps
		if w, i := b.longest(op.cost); w > 0 {
			binding = i
		}
		a = b.deny(op.cost, op.maxWait)
	}
	for i := range before.levels {
		a.Limits[i].Remaining = max(0, before.left(i))
		a.Limits[i].ResetAfterMS = millis(before.untilFresh(i))
	}
	a.Limits[binding].RetryAfterMS = millis(longest)
	a.bind(binding)
	return a
}

func clones(m map[bucketName]*bucket) map[bucketName]*bucket {
	c := make(map[bucketName]*bucket, len(m))
	for name, b := range m {
		c[name] = b.clone()
	}
	return c
}
