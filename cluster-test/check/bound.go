package check

import (
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// stretch is the time in which one bucket was under one set of limits and was
// not reset. In any interval of it, what was admitted, less what was given back,
// is at most what the bucket held and what flowed in:
//
//	admitted <= burst + rate*elapsed/per
//
// With s the tokens admitted so far that is, for every admission j and every i
// not after it,
//
//	(s[j]*per - rate*t[j]) - (s[i-1]*per - rate*t[i]) <= burst*per
//
// so of all i the one with the least second bracket counts. Who waits acts later:
// t[j] is when the wait ends.
//
// A window is simpler: it admits at most rate tokens, what is given back while it
// runs, or before, aside. Of a sliding window that is an aligned one; then any
// interval of its length has less than twice the rate. The answers do not tell the
// time of day, so of that the log's clock entries are believed.
type stretch struct {
	set      *numbers
	admitted int64
	cluster  []*big.Int        // for each limit the least bracket, by cluster time
	real     []*big.Int        // the same by the recorder's clock: t[i] is the call, t[j] the return
	windows  []map[int64]int64 // of each limit with windows: the tokens of each
}

// bounds checks the admissions of one shard, from the answers alone: from the
// log comes only where resets and edits part the stretches, and what was given
// back without an answer.
func (c *checker) bounds(places []*place) {
	stretches := map[bucketName]*stretch{}
	for _, p := range places {
		name := bucketName{p.op.set.policy, p.op.key}
		for _, r := range p.gaveBack() {
			if s := stretches[r.name]; s != nil && r.tokens > 0 {
				s.admitted -= r.tokens
				s.giveBack(r.tokens)
			}
		}
		if p.op.acts() || p.verdict == again { // which was counted when it was made
			continue
		}
		var op *Op // whose answer it is, if it was answered here
		set, what := p.op.set, p.verdict
		if p.owner >= 0 && c.h.Ops[p.owner].placed() {
			op = &c.h.Ops[p.owner]
			what = op.told()
			if op.Answer.Revision != set.revision {
				set = c.numbersOf(set.policy, p.op.key, op.Answer.Revision)
			}
		}
		if what != allowed && what != refunded && what != forgot {
			continue
		}
		if what == forgot || set == nil { // told of elsewhere
			delete(stretches, name)
			continue
		}
		s := stretches[name]
		if s == nil || s.set.revision != set.revision {
			s = &stretch{set: set, cluster: make([]*big.Int, len(set.limits)), real: make([]*big.Int, len(set.limits)), windows: make([]map[int64]int64, len(set.limits))}
			stretches[name] = s
		}
		if what == refunded {
			s.giveBack(p.op.cost)
		}
		switch {
		case set.off || op != nil && op.Answer.Shadowed: // nothing is charged
		case what == refunded && op != nil && len(set.limits) == 1:
			s.admitted -= op.Answer.Refunded
		case what == refunded: // what each limit got is not told
			s.admitted -= p.op.cost
		case op != nil:
			s.admit(c, p, op)
		}
	}
}

// gaveBack is what holds gave back at a place or since the one before. A lease that a
// process took for itself is not among them: nobody was told that it was given.
func (p *place) gaveBack() []returned {
	if p.back == 0 || p.ownAffair() {
		return p.expired
	}
	return append(slices.Clip(p.expired), returned{p.of, p.back})
}

// told is what an operation was told became of it.
func (op *Op) told() verdict {
	switch {
	case (op.Kind == take || op.makes()) && op.Answer.Allowed:
		return allowed
	case op.Kind == take || op.makes():
		return denied
	case op.Kind == refund:
		return refunded
	}
	return told
}

// admit adds an admission and checks every interval that ends there.
func (s *stretch) admit(c *checker, p *place, op *Op) {
	c.report.Intervals++
	drift := func(ns int64) int64 { return ns + ns/1e6*c.in.DriftPPM }
	t := int64(op.Answer.Commit.TimeNS)
	wait := op.Answer.WaitMS * 1e6
	before := s.admitted
	s.admitted += op.admits()
	for i := range s.set.limits {
		l := &s.set.limits[i]
		if l.algorithm != api.TokenBucket {
			s.window(c, p, op, i)
			continue
		}
		begin(l, &s.cluster[i], before, t)
		if excess := over(l, s.cluster[i], s.admitted, t+wait); excess > 0 {
			c.report.add(OverAdmitted, "with %s at %s the limit %s of %s has admitted %d tokens too many in an interval of cluster time", op.describe(p.owner), p, l.name, s.set, excess)
		}
		if !op.Answer.Duplicate { // which may have been admitted before it was called
			begin(l, &s.real[i], before, drift(op.Call))
		}
		if excess := over(l, s.real[i], s.admitted, drift(op.Return+wait)+int64(c.in.Slack)); excess > 0 {
			c.report.add(OverAdmitted, "with %s at %s the limit %s of %s has admitted %d tokens too many in an interval of the recorder's clock", op.describe(p.owner), p, l.name, s.set, excess)
		}
	}
}

// windowAt is which window of a limit somebody acts in who was admitted at p and
// waits so long; false if that is not clear, or the limit has none.
func (l *limit) windowAt(p *place, waitMS int64) (window int64, ok bool) {
	for k, at := range p.days {
		var ends [2]int64 // the wait was rounded up to milliseconds
		for i, ns := range []int64{max(0, waitMS*1e6-999_999), waitMS * 1e6} {
			switch l.algorithm {
			case api.FixedWindow:
				ends[i] = l.windowOf(at.wall + ns)
			case api.SlidingWindow:
				ends[i] = l.number(at.now + uint64(ns))
			default:
				return 0, false
			}
		}
		if ends[0] != ends[1] || k > 0 && ends[0] != window {
			return 0, false
		}
		window = ends[0]
	}
	return window, len(p.days) > 0
}

// window counts an admission to the window of limit i in which its caller acts.
func (s *stretch) window(c *checker, p *place, op *Op, i int) {
	l := &s.set.limits[i]
	at, ok := l.windowAt(p, op.Answer.WaitMS)
	if !ok {
		return
	}
	if s.windows[i] == nil {
		s.windows[i] = map[int64]int64{}
	}
	s.windows[i][at] += op.admits()
	if excess := s.windows[i][at] - l.rate; excess > 0 {
		c.report.add(OverAdmitted, "with %s at %s the limit %s of %s has admitted %d tokens too many in one window", op.describe(p.owner), p, l.name, s.set, excess)
	}
}

// giveBack makes room for what a refund may have given back: in any window.
func (s *stretch) giveBack(tokens int64) {
	for _, windows := range s.windows {
		for at := range windows {
			windows[at] -= tokens
		}
	}
}

// admits is the tokens that an operation was allowed: a lease and a reservation count
// when they are given, as if they were spent then.
func (op *Op) admits() int64 {
	if op.Kind == leases {
		return op.Answer.Granted
	}
	return op.cost()
}

// bracket is tokens*per - rate*ns.
func (l *limit) bracket(tokens, ns int64) *big.Int {
	b := new(big.Int).Mul(big.NewInt(tokens), l.bigPer)
	return b.Sub(b, new(big.Int).Mul(l.bigRate, big.NewInt(ns)))
}

// begin notes an interval that begins at ns, before which so many tokens were
// admitted.
func begin(l *limit, least **big.Int, tokens, ns int64) {
	if b := l.bracket(tokens, ns); *least == nil || b.Cmp(*least) < 0 {
		*least = b
	}
}

// over returns how many tokens too many the worst of the intervals has that
// ends at ns with tokens in all.
func over(l *limit, least *big.Int, tokens, ns int64) int64 {
	if least == nil {
		return 0
	}
	excess := l.bracket(tokens, ns)
	excess.Sub(excess, least).Sub(excess, l.full)
	if excess.Sign() <= 0 {
		return 0
	}
	return excess.Div(excess, l.bigPer).Int64() + 1
}
