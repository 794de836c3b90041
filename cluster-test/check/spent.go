package check

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sort"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Takes that no log decided: they were spent from a lease or a soft bucket in some
// process's memory, or a failure rule decided. Their answers say so by their source.

// The sources of such takes.
const (
	fromLease = "lease"
	fromSoft  = "soft"
	fromOpen  = "open"
	fromLocal = "local"
)

// elsewhere says whether the operation was decided by something else than a log.
func (op *Op) elsewhere() bool {
	return op.Outcome == Done && op.Answer != nil && op.Answer.Source != "" && op.Answer.Source != api.SourceStore
}

// mayHaveBeenSent says whether a request that was decided elsewhere may also have
// been applied: all but those that a lease served, which nobody sent anywhere.
func (op *Op) mayHaveBeenSent() bool { return op.elsewhere() && op.Answer.Source != fromLease }

// ownAffair says whether a place is about what processes do by themselves: lease,
// give back, and charge what they spent, under policies that are for this.
func (p *place) ownAffair() bool {
	switch {
	case p.op.kind == leases || p.op.kind == syncs:
		return p.op.set.mode != api.Strict
	case p.lease != nil:
		return p.lease.set.mode != api.Strict
	}
	return false
}

// spent judges them: that the policy lets their source decide, that what was spent
// from a lease was charged by it and not given back, and that over any interval no
// more was admitted than the mode promises.
func (c *checker) spent(places [][]*place) {
	type bucket struct {
		bucketName
		revision uint64
	}
	lent := c.lendings(places)
	takes := map[bucket][]*Op{}
	var order []bucket              // of takes, so that a report repeats
	beyond := map[bucketName]bool{} // refunded or reset: more may pass
	some := map[bucketName]bool{}   // with a take that was decided elsewhere
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		name := bucketName{op.Policy, op.Key}
		if op.Outcome != NotApplied && (op.Kind == refund || op.Kind == reset) {
			beyond[name] = true
		}
		if op.Kind != take || op.Outcome != Done || op.malformed() != "" {
			continue
		}
		if op.elsewhere() {
			c.report.Elsewhere[op.Answer.Source]++
			some[name] = true
			if !c.mayDecide(op) {
				c.report.add(WrongSource, "%s was decided by the source %q, which its policy does not let", op.describe(at), op.Answer.Source)
				continue
			}
			if op.Answer.Source == fromLease {
				lent.spend(c, at)
			}
		}
		if byRule := op.Answer.Source == fromOpen || op.Answer.Source == fromLocal; op.Answer.Allowed && !op.Answer.Shadowed && !byRule {
			b := bucket{name, op.Answer.Revision}
			if takes[b] == nil {
				order = append(order, b)
			}
			takes[b] = append(takes[b], op)
		}
	}
	for _, l := range lent.all {
		if len(l.spent) > 0 {
			c.report.Leases++
		}
		if excess := l.sum - max(0, l.granted-l.back); excess > 0 {
			c.report.add(OverSpent, "of the %d tokens of the lease at %s %d were given back, and %d were spent in %d takes: %d too many; the last is %s",
				l.granted, l.place, l.back, l.sum, len(l.spent), excess, c.h.Ops[l.spent[len(l.spent)-1]].describe(l.spent[len(l.spent)-1]))
		}
	}
	for _, b := range order {
		doc, set := c.catalog.docs[setKey{b.policy, b.revision}], c.numbersOf(b.policy, b.key, b.revision)
		if doc == nil || set == nil || !some[b.bucketName] || beyond[b.bucketName] {
			continue
		}
		c.intervals(doc, set, takes[b])
	}
}

// mayDecide says whether the policy lets the source of an answer decide.
func (c *checker) mayDecide(op *Op) bool {
	doc := c.catalog.docs[setKey{op.Policy, op.Answer.Revision}]
	if doc == nil {
		return !c.catalog.seen
	}
	switch op.Answer.Source {
	case fromLease:
		return doc.Mode == "leased" || doc.Mode == "auto"
	case fromSoft:
		return doc.Mode == "soft"
	case fromOpen: // or any rule of a policy that is only tried out
		return (doc.OnUnavailable == "open" || doc.OnUnavailable == "local" && doc.Enforcement != "enforce") && op.Answer.Allowed
	case fromLocal:
		return doc.OnUnavailable == "local"
	case api.SourceOff:
		return op.Answer.Allowed
	}
	return false
}

// lending is a lease of a log, and what callers were told that they spent of it.
type lending struct {
	place   *place
	granted int64
	back    int64 // that its holder gave back
	over    int64 // ns on the recorder's clock: surely it has expired
	spent   []int // operations
	sum     int64 // of their costs
}

type lendings struct {
	all     []*lending
	byPlace map[commitKey]*lending
}

// lendings finds the leases of the logs.
func (c *checker) lendings(places [][]*place) *lendings {
	l := &lendings{byPlace: map[commitKey]*lending{}}
	for _, shard := range places {
		byID := map[[16]byte][]*lending{} // asked for again, a lease has several places
		expires := map[[16]byte]uint64{}
		for _, p := range shard {
			switch {
			case p.op.kind == leases && (p.verdict == allowed || p.verdict == again):
				ttl := p.op.ttl
				if p.op.set.leaseTTL > 0 {
					ttl = min(ttl, p.op.set.leaseTTL)
				}
				if p.verdict == allowed {
					expires[p.op.hold], byID[p.op.hold] = p.time+uint64(ttl)*1e6, nil
				}
				one := &lending{place: p, granted: p.granted, over: overBy(shard, expires[p.op.hold])}
				l.all = append(l.all, one)
				l.byPlace[commitKey{p.shard, p.index, p.offset}] = one
				byID[p.op.hold] = append(byID[p.op.hold], one)
			case p.lease != nil:
				for _, one := range byID[p.op.hold] {
					one.back = p.back
				}
			}
		}
	}
	return l
}

// overBy is when, on the recorder's clock, a shard surely had come to a cluster time.
func overBy(shard []*place, ns uint64) int64 {
	if i := sort.Search(len(shard), func(i int) bool { return shard[i].time >= ns }); i < len(shard) {
		return shard[i].late
	}
	return Forever
}

// spend counts a take to the lease that its answer names: "a lease's own" commit.
func (l *lendings) spend(c *checker, at int) {
	op := &c.h.Ops[at]
	if !op.Answer.Allowed {
		return // its commit is that of a refusal, or of a lease that did not suffice
	}
	m := op.Answer.Commit
	one := l.byPlace[commitKey{m.Shard, m.Index, m.Offset}]
	switch {
	case one == nil:
		c.report.add(LostCharge, "%s was spent from the lease at shard %d, index %d, offset %d, and no replica has one there", op.describe(at), m.Shard, m.Index, m.Offset)
	case one.place.op.key != op.Key || one.place.op.set.policy != op.Policy:
		c.report.add(OtherPlace, "%s was spent from a lease of another bucket, that of the %s", op.describe(at), one.place.describe())
	case op.Call > one.over:
		c.report.add(OverSpent, "%s was spent from the lease at %s after that had expired", op.describe(at), one.place)
	default:
		one.spent, one.sum = append(one.spent, at), one.sum+op.cost()
	}
}

// promise is what takes may admit: in an interval of so many nanoseconds, by one
// limit.
type promise struct {
	what  string
	limit *limit
	most  func(ns int64) int64
}

// intervals checks every interval in which takes of a bucket, all of one revision,
// were called and returned: whatever was spent in it was there when it began, or
// flowed in.
func (c *checker) intervals(doc *api.Policy, set *numbers, ops []*Op) {
	n := int64(c.in.Instances)
	for i := range set.limits {
		l := &set.limits[i]
		if l.algorithm == api.Concurrency || l.per == 0 {
			continue
		}
		switch {
		case doc.Mode == "leased" || doc.Mode == "auto": // "0, over every interval"
			c.within(promise{"leased", l, l.admits}, ops)
		case doc.Mode == "soft" && c.in.Instances > 0: // "(I - 1) × (B + 2 × r × S)"
			unheard := int64(doc.SyncInterval) + int64(c.in.Silence)
			c.within(promise{"soft", l, func(ns int64) int64 {
				if l.algorithm != api.TokenBucket { // "of a window of rate R it is (I-1)*R a window"
					return mulSat(n, l.admits(ns))
				}
				return addSat(l.admits(ns), mulSat(n-1, addSat(l.burst, l.flows(2*min(unheard, ns)))))
			}}, ops)
		}
	}
}

// within checks one promise.
func (c *checker) within(p promise, ops []*Op) {
	acts := func(op *Op) int64 { return op.Return + op.Answer.WaitMS*1e6 }
	slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(acts(a), acts(b)) })
	for _, first := range slices.SortedFunc(slices.Values(ops), func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) }) {
		c.report.Intervals++
		sum := int64(0)
		for _, op := range ops {
			if op.Call < first.Call {
				continue
			}
			if sum += op.cost(); sum <= p.limit.burst {
				continue // in however short a time
			}
			ns := acts(op) - first.Call
			ns += ns/1e6*c.in.DriftPPM + int64(c.in.Slack)
			if most := p.most(ns); sum > most {
				c.report.add(OverAdmitted, "the limit %s of the %s policy %s lets %d tokens through in %v, and from %v on %d were admitted on %q",
					p.limit.name, p.what, first.Policy, most, time.Duration(ns), time.Duration(first.Call), sum, first.Key)
				return
			}
		}
	}
}

// admits is the most that a limit lets through in so many nanoseconds: of a window,
// as if the interval began at the end of one.
func (l *limit) admits(ns int64) int64 {
	if l.algorithm != api.TokenBucket {
		return addSat(2*l.rate, l.flows(ns))
	}
	return addSat(l.burst, l.flows(ns))
}

// flows is what flows in meanwhile, rounded up.
func (l *limit) flows(ns int64) int64 {
	high, low := bits.Mul64(uint64(l.rate), uint64(max(0, ns)))
	low, carry := bits.Add64(low, uint64(l.per)-1, 0)
	if high += carry; high >= uint64(l.per) {
		return math.MaxInt64
	}
	tokens, _ := bits.Div64(high, low, uint64(l.per))
	return int64(min(tokens, math.MaxInt64))
}

// addSat and mulSat saturate. No argument is below 0.
func addSat(a, b int64) int64 { return int64(min(uint64(a)+uint64(b), math.MaxInt64)) }

func mulSat(a, b int64) int64 {
	high, low := bits.Mul64(uint64(a), uint64(b))
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
