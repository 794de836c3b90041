package check

import (
	"cmp"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rlstore/rlstore/api"
)

// The search for a linearization, which knows nothing of the logs: is there any
// order of the operations on one key, consistent with real time and with the
// cluster time of the answers, in which a token bucket would have answered so?
//
// The model is coarser than the oracle where an operation has no answer: it may
// have been applied at any cluster time from the answer before it on, or never.
// Hence a level is an interval, which only grows by what is not known, and which
// each answer narrows. Limits of one bucket have an interval each.
const (
	linearOps    = 300 // of a key, unless the input says otherwise
	linearTime   = 10 * time.Second
	linearKey    = 2 * time.Second // of one key
	linearLimits = 4               // of a policy
	linearUnits  = 1 << 60         // levels are below, so that sums fit an int64
)

// unclear is the wait of requests under one id that differ in it.
const unclear = -1

// linearInput is one operation to the search.
type linearInput struct {
	op  *Op
	set *numbers
}

// linearState is what is known of a bucket after some operations.
type linearState struct {
	now    uint64
	lo, hi [linearLimits]int64 // of each limit's level at now, in its units
	// Tokens charged and given back at times from now on that no answer tells.
	charged, given int64
}

// linear searches a linearization of every key with few operations.
func (c *checker) linear() {
	most, budget := cmp.Or(c.in.LinearOps, linearOps), cmp.Or(c.in.LinearTime, linearTime)
	if most < 0 {
		return
	}
	deadline := time.Now().Add(budget)
	byKey := map[bucketName][]int{}
	var names []bucketName          // in the order of the history
	beyond := map[bucketName]bool{} // with leases and debts, which the model does not have
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.Outcome == NotApplied || op.Stale || op.malformed() != "" {
			continue
		}
		name := bucketName{op.Policy, op.Key}
		if byKey[name] == nil {
			names = append(names, name)
		}
		byKey[name] = append(byKey[name], at)
		if op.makes() || op.acts() || op.Kind == syncs || op.elsewhere() {
			beyond[name] = true
		}
	}
	edited := c.edited()
	for _, name := range names {
		ops := byKey[name]
		set := c.linearSet(name.policy, ops, edited[name.policy])
		if len(ops) > most || set == nil || beyond[name] || !time.Now().Before(deadline) {
			c.report.KeysLeft++
			continue
		}
		switch porcupine.CheckOperationsTimeout(linearModel(set), c.linearHistory(ops, set), min(linearKey, time.Until(deadline))) {
		case porcupine.Ok:
			c.report.Keys++
		case porcupine.Unknown:
			c.report.KeysUnsure++
		case porcupine.Illegal:
			c.report.Keys++
			c.report.add(NotLinearizable, "no order of the %d operations on %q under %s explains their answers", len(ops), name.key, set)
		}
	}
}

// edited is the policies that may have had more than one revision.
func (c *checker) edited() map[string]bool {
	revisions := map[string]int{}
	for key := range c.catalog.sets {
		revisions[key.policy]++
	}
	edited := map[string]bool{}
	for name, n := range revisions {
		edited[name] = n > 1
	}
	for i := range c.h.Edits {
		if e := &c.h.Edits[i]; e.Outcome == Unknown {
			edited[e.Name] = true
		}
	}
	return edited
}

// linearSet returns the one set of limits under which all operations on a key
// were decided, if there is one that the model can count in; or nil. If the
// policy was edited, those without an answer may have been decided by another.
func (c *checker) linearSet(policy string, ops []int, edited bool) (set *numbers) {
	unknown := int64(0) // tokens that may have moved unseen
	for _, at := range ops {
		op := &c.h.Ops[at]
		if op.Outcome == Unknown {
			unknown += op.cost()
			if edited {
				return nil
			}
		}
		if !op.placed() {
			continue
		}
		if set == nil {
			set = c.setAt(policy, op.Key, op.Answer.Revision)
		}
		if set == nil || op.Answer.Revision != set.revision || op.Answer.WaitMS > 0 || op.Answer.Shadowed {
			return nil
		}
	}
	if set == nil || set.mode != api.Strict || len(set.limits) > linearLimits || c.outlived(ops) || c.off(setKey{policy, set.revision}) {
		return nil
	}
	for i := range set.limits {
		l := &set.limits[i]
		if l.algorithm != api.TokenBucket { // the replay and the bounds have windows
			return nil
		}
		if !l.full.IsInt64() || l.full.Int64() > linearUnits || unknown > linearUnits/l.per {
			return nil
		}
	}
	return set
}

// outlived says whether an id was used for so long that the store may have
// forgotten it, and decided it twice.
func (c *checker) outlived(ops []int) bool {
	type span struct{ from, to int64 }
	spans := map[string]span{}
	for _, at := range ops {
		op := &c.h.Ops[at]
		if op.RequestID == "" {
			continue
		}
		s, ok := spans[op.RequestID]
		if !ok {
			s = span{op.Call, op.Call}
		}
		s.from, s.to = min(s.from, op.Call), max(s.to, op.Call)
		if op.Outcome == Done {
			s.to = max(s.to, op.Return)
		}
		if s.to-s.from+int64(c.in.Slack) >= idWindow {
			return true
		}
		spans[op.RequestID] = s
	}
	return false
}

// linearHistory turns operations on a key into those of the search. The
// operations of one request id are one, decided once: from the first call to the
// first answer that tells of it.
func (c *checker) linearHistory(ops []int, set *numbers) (history []porcupine.Operation) {
	byID := map[string]*Op{}
	var merged []*Op
	for _, at := range ops {
		op := &c.h.Ops[at]
		switch {
		case op.Atomic != 0 && op.Outcome == Done && op.Kind == take && !op.Answer.Allowed:
			continue // answered for the whole group; it changes nothing
		case op.RequestID == "":
			merged = append(merged, op)
			continue
		}
		first := byID[op.RequestID]
		if first == nil {
			one := *op
			byID[op.RequestID] = &one
			merged = append(merged, &one)
			continue
		}
		if first.MaxWaitMS != op.MaxWaitMS {
			first.MaxWaitMS = unclear
		}
		first.Call = min(first.Call, op.Call)
		if op.Outcome != Done {
			continue
		}
		if first.Outcome != Done || first.Answer.Duplicate && !op.Answer.Duplicate {
			first.Outcome, first.Answer, first.Atomic = Done, op.Answer, op.Atomic
		}
		first.Return = min(first.Return, op.Return)
	}
	for _, op := range merged {
		// "Client" is for pictures only, which nobody draws.
		o := porcupine.Operation{Input: linearInput{op, set}, Call: op.Call, Return: op.Return}
		if op.Outcome == Unknown {
			o.Return = Forever
		}
		history = append(history, o)
	}
	return history
}

// linearModel is a token bucket under one set of limits. It starts full.
func linearModel(set *numbers) porcupine.Model {
	var full linearState
	for i := range set.limits {
		full.lo[i] = set.limits[i].full.Int64()
	}
	full.hi = full.lo
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{full} },
		Step: func(state, input, _ any) []any {
			s, in := state.(linearState), input.(linearInput)
			if in.op.Outcome == Unknown {
				return s.maybe(in, full)
			}
			if in.op.Kind == reset {
				return []any{s.reset(full)}
			}
			if next, ok := s.answer(in); ok {
				return []any{next}
			}
			return nil
		},
	}
	return model.ToModel()
}

// maybe is the states after an operation that nobody heard of: as before, or
// with it applied at some time from now on.
func (s linearState) maybe(in linearInput, full linearState) []any {
	applied := s
	switch {
	case in.op.Kind == take && in.op.cost() <= in.set.smallest:
		applied.charged += in.op.cost()
	case in.op.Kind == refund:
		applied.given += in.op.cost()
	case in.op.Kind == reset:
		applied = s.reset(full)
	default:
		return []any{s}
	}
	return []any{s, applied}
}

// reset is exact although its time is not known: full it stays full.
func (s linearState) reset(full linearState) linearState {
	full.now = s.now
	return full
}

// answer is the state after an answered operation, if the answer can be.
func (s linearState) answer(in linearInput) (next linearState, ok bool) {
	a := in.op.Answer
	if a.Commit.TimeNS < s.now {
		return s, false
	}
	limits := a.Limits
	if len(limits) == 0 && len(in.set.limits) == 1 {
		limits = []api.LimitState{{Remaining: a.Remaining, RetryAfterMS: a.RetryAfterMS, ResetAfterMS: a.ResetAfterMS}}
	}
	if len(limits) != len(in.set.limits) {
		return s, false
	}
	waits := false
	for i := range in.set.limits {
		l, v := &in.set.limits[i], &limits[i]
		r := levels{l: l, full: l.full.Int64()}
		r.lo, r.hi = r.flow(s.lo[i], s.hi[i], a.Commit.TimeNS-s.now, s.charged, s.given)
		next := int64(1) // the cost that retry-after is about
		switch {
		case in.op.Kind == take && a.Allowed:
			r.atLeast(in.op.cost() * l.per)
			r.lo, r.hi = r.lo-in.op.cost()*l.per, r.hi-in.op.cost()*l.per
			next = 0
		case in.op.Kind == take:
			next = in.op.cost()
			waits = waits || v.RetryAfterMS > 0
		case in.op.Kind == refund:
			switch {
			case len(limits) > 1: // of which limit it tells is not clear
			case a.Refunded < in.op.cost(): // as many as were missing
				r.tokens(l.burst - a.Refunded)
			default:
				r.hi = min(r.hi, (l.burst-a.Refunded+1)*l.per-1)
			}
			if r.lo > r.hi {
				return s, false
			}
			back := in.op.cost() * l.per
			r.lo, r.hi = min(r.full, r.lo+back), min(r.full, r.hi+back)
		}
		r.tokens(v.Remaining)
		r.missing(r.full, v.ResetAfterMS)
		switch {
		case next == 0, in.op.MaxWaitMS != 0 && v.RetryAfterMS == 0, in.op.MaxWaitMS == unclear:
		default: // a take that may wait passes so much sooner than its tokens are there
			r.missing(next*l.per, v.RetryAfterMS+in.op.MaxWaitMS)
		}
		if r.lo > r.hi {
			return s, false
		}
		s.lo[i], s.hi[i] = r.lo, r.hi
	}
	if in.op.Kind == take && !a.Allowed && !waits {
		return s, false
	}
	s.now, s.charged, s.given = a.Commit.TimeNS, 0, 0
	return s, true
}

// levels is an interval of levels of one limit; empty if lo > hi.
type levels struct {
	l            *limit
	full, lo, hi int64
}

// flow lets dt nanoseconds pass, in which charged and given tokens moved at
// times that are not known: the highest level has them charged at once, the
// lowest at the end, into debt if it was a take that waits, and what was given may
// have been lost to a full bucket.
func (r *levels) flow(lo, hi int64, dt uint64, charged, given int64) (int64, int64) {
	in := int64(linearUnits) // more than fits
	if dt <= uint64(linearUnits/r.l.rate) {
		in = int64(dt) * r.l.rate
	}
	c, g := charged*r.l.per, given*r.l.per
	hi = min(r.full, hi-c+g+in)
	if charged == 0 {
		return min(r.full, lo+g+in), hi
	}
	return min(r.full, lo+in) - c, hi
}

func (r *levels) atLeast(lo int64) { r.lo = max(r.lo, lo) }

// tokens narrows to n whole tokens, of which 0 may also be a debt: a take that
// waits and whose answer was lost may have made it.
func (r *levels) tokens(n int64) {
	if n < 0 || n > r.l.burst {
		r.lo, r.hi = 1, 0
		return
	}
	if r.hi = min(r.hi, (n+1)*r.l.per-1); n > 0 {
		r.lo = max(r.lo, n*r.l.per)
	}
}

// missing narrows to levels that reach want after ms milliseconds, rounded up.
func (r *levels) missing(want, ms int64) {
	switch {
	case ms == 0:
		r.lo = max(r.lo, want)
	case ms < 0 || ms > linearUnits/1_000_000/r.l.rate:
		r.lo, r.hi = 1, 0
	default:
		r.lo = max(r.lo, want-ms*1e6*r.l.rate)
		r.hi = min(r.hi, want-(ms-1)*1e6*r.l.rate-1)
	}
}
