package check

import (
	"cmp"
	"math"
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// Leases, as fsm/leases.go and fsm/leased.go have them. What is said of a bucket
// with leases is found by walking from one expiry to the next; nothing here
// depends on when the store takes a lease out that is over.

// lease is tokens of a bucket that somebody may spend.
type lease struct {
	id      [16]byte
	granted int64
	expires uint64
	free    bool // the policy was not enforced: nothing was charged
}

// leased is the tokens out on lease.
func (b *bucket) leased() (sum int64) {
	for _, l := range b.leases {
		if !l.free {
			sum += l.granted
		}
	}
	return sum
}

// nextExpiry is when the next lease expires.
func (b *bucket) nextExpiry() uint64 {
	next := uint64(math.MaxUint64)
	for _, l := range b.leases {
		next = min(next, l.expires)
	}
	return next
}

// expire takes out the leases that are over. "When it expires nothing comes back."
func (b *bucket) expire() {
	b.leases = slices.DeleteFunc(b.leases, func(l lease) bool { return l.expires <= b.at.now })
}

// earlier is an instant before at, by the same clock.
func (at instant) earlier(now uint64) instant {
	return instant{now, max(0, at.wall-int64(at.now-now))}
}

// later is an instant after at.
func (at instant) later(now uint64) instant {
	return instant{now, min(at.wall+int64(now-at.now), maxWall)}
}

// clamp: "a token bucket fills up to burst-leased", and "leased tokens count as
// used in the window that runs". It returns by how many tokens that lowers what is
// left.
func (l *limit) clamp(v *level, leased int64) int64 {
	if leased == 0 {
		return 0
	}
	switch l.algorithm {
	case api.TokenBucket:
		most := new(big.Int).Mul(big.NewInt(l.burst-leased), l.bigPer)
		before := l.tokens(v.units)
		if v.units.Cmp(most) > 0 {
			v.units.Set(most)
		}
		return before - l.tokens(v.units)
	case api.FixedWindow, api.SlidingWindow:
		own := &v.spent[l.running()]
		by := max(0, leased-*own)
		*own += by
		return by
	}
	return 0
}

// running is where in a level's spent tokens the window that runs stands.
func (l *limit) running() int {
	if l.algorithm == api.SlidingWindow {
		return 1
	}
	return 0
}

func (b *bucket) clamp() {
	for i, v := range b.levels {
		b.set.limits[i].clamp(v, b.leased())
	}
}

// turnLeased begins n fixed windows: "A fixed window that begins has burst-leased
// tokens, and that much pays for debt."
func (l *limit) turnLeased(v *level, n, leased int64) {
	brings := l.rate - leased
	if brings <= 0 {
		v.spent[0] = max(v.spent[0], leased)
		return
	}
	for ; n > 0 && v.spent[0] > l.rate; n-- {
		v.spent[0] -= brings
	}
	if n > 0 {
		v.spent[0] = leased
	}
}

// untilIn is the wait for a take of cost while leased tokens stay out; never if
// it then does not pass.
func (l *limit) untilIn(v *level, at instant, cost, leased int64) uint64 {
	const never = math.MaxUint64
	brings := l.burst - leased
	switch {
	case l.left(v, at) >= cost:
		return 0
	case cost > brings:
		return never
	}
	switch l.algorithm {
	case api.TokenBucket:
		return l.wait(v.units, cost)
	case api.FixedWindow:
		n := int64(1)
		if debt := v.spent[0] - l.rate; debt > 0 {
			n = (debt + cost + brings - 1) / brings
		}
		start, ok := l.windowAfter(v.start, n)
		if !ok {
			return never
		}
		return uint64(start - at.wall)
	}
	e, spent := int64(at.now%uint64(l.per)), v.spent
	for begins := -e; ; begins += l.per {
		if opens, ok := l.opens(spent[0], spent[1], cost); ok && spent[2] == 0 {
			return uint64(max(0, begins+opens))
		}
		spent = [3]int64{spent[1] - leased, spent[2] + leased, 0}
	}
}

// until is the wait of one limit for a take of cost, if nobody else spends and
// every lease runs until it expires.
func (b *bucket) until(i int, cost int64) uint64 {
	l := &b.set.limits[i]
	if b.leased() == 0 {
		return l.until(b.levels[i], b.at, cost)
	}
	c := b.clone()
	for len(c.leases) > 0 {
		next := c.nextExpiry()
		if w := l.untilIn(c.levels[i], c.at, cost, c.leased()); w < next-c.at.now {
			return c.at.now - b.at.now + w
		}
		c.advance(c.at.later(next))
	}
	w := l.until(c.levels[i], c.at, cost)
	if w == math.MaxUint64 {
		return w
	}
	return c.at.now - b.at.now + w
}

// untilFresh is the same until nothing counts any more.
func (b *bucket) untilFresh(i int) uint64 {
	c := b.clone()
	c.leases = slices.DeleteFunc(c.leases, func(l lease) bool { return l.free })
	for len(c.leases) > 0 {
		c.advance(c.at.later(c.nextExpiry()))
	}
	w := b.set.limits[i].untilFresh(c.levels[i], c.at)
	if w == math.MaxUint64 {
		return w
	}
	return c.at.now - b.at.now + w
}

// lends: "Nobody waits for a window of a bucket with leases [...]. A token bucket
// lends as ever, but no more than it fills up to."
func (b *bucket) lends(cost int64) bool {
	leased := b.leased()
	return leased == 0 || !slices.ContainsFunc(b.set.limits, func(l limit) bool {
		return l.algorithm != api.TokenBucket || cost > l.burst-leased
	})
}

// decideLease applies a lease to a bucket.
func decideLease(op *logOp, b *bucket) (out outcome, changed bool) {
	granted := func(n int64) outcome {
		a := b.describe(b.scarcest(), 0)
		a.Allowed, a.Granted = true, n
		return outcome{verdict: allowed, answer: a}
	}
	for _, l := range b.leases {
		if l.id == op.hold { // "asked for again while it lives gets what it got the first time"
			out := granted(l.granted)
			out.verdict = again
			return out, false
		}
	}
	if b.set.permits && !b.set.off {
		return fail(api.PermitRequired), false
	}
	if op.need > b.set.smallest && !b.set.off {
		return fail(api.CostExceedsBurst), false
	}
	available, others := int64(maxNumber), int64(0)
	for i, v := range b.levels {
		available = min(available, b.set.limits[i].left(v, b.at))
	}
	for _, l := range b.leases {
		if !l.free {
			others++
		}
	}
	ttl := op.ttl
	if b.set.leaseTTL > 0 {
		ttl = min(ttl, b.set.leaseTTL)
	}
	l := lease{id: op.hold, granted: op.cost, expires: b.at.now + uint64(ttl)*1e6}
	switch {
	case b.set.off:
		l.free = true
		out = granted(op.cost)
		out.aside = func(b *bucket) { b.leases = append(b.leases, l) }
		return out, false
	case op.need > available && !b.set.shadow:
		_, binding := b.longest(op.need)
		return outcome{verdict: denied, answer: b.describe(binding, op.need)}, false
	case op.need > available:
		l.free = true
		_, binding := b.longest(op.need)
		out = outcome{verdict: allowed, answer: b.describe(binding, op.need)}
		out.answer.Allowed, out.answer.Shadowed, out.answer.Granted = true, true, op.cost
		out.aside = func(b *bucket) { b.leases = append(b.leases, l) }
		return out, false
	default: // "a fair share of what is available [...]. At least it gets the latter"
		l.granted = max(op.need, min(op.cost, available/(others+2)))
		b.charge(l.granted, 0)
	}
	b.leases = append(b.leases, l)
	return granted(l.granted), true
}

// settleLease applies what ends a lease: a commit, or a cancel, of which nothing
// was spent. "It is settled by a commit of what was spent; the rest is given back."
func settleLease(op *logOp, b *bucket) (out outcome, changed bool) {
	at := slices.IndexFunc(b.leases, func(l lease) bool { return l.id == op.hold })
	if at < 0 {
		return fail(api.NotFound), false
	}
	l := b.leases[at]
	b.leases = slices.Delete(b.leases, at, at+1)
	a := &Answer{}
	out = outcome{verdict: settled, answer: a}
	if l.free {
		out.aside = func(b *bucket) {
			b.leases = slices.DeleteFunc(b.leases, func(l lease) bool { return l.id == op.hold })
		}
	} else {
		back, more := max(0, l.granted-op.cost), max(0, op.cost-l.granted)
		for i, v := range b.levels { // "as deep as one burst below 0"
			n := &b.set.limits[i]
			more = min(more, max(0, n.left(v, b.at)-max(-n.burst, n.burst-maxNumber)))
		}
		if more > 0 {
			b.charge(more, 0)
		}
		for i, v := range b.levels { // "was counted in the window that runs [...], so there it goes"
			if n := &b.set.limits[i]; n.algorithm == api.TokenBucket {
				n.give(v.units, back)
			} else {
				v.spent[n.running()] = max(0, v.spent[n.running()]-back)
			}
		}
		b.clamp()
		a.Committed, a.Given, a.Charged = l.granted-back+more, back, more
	}
	return out, !l.free
}

// decideSync: "charges what was spent without asking, all of it, into debt if need
// be, and tells the state after it".
func decideSync(op *logOp, b *bucket) (out outcome, changed bool) {
	if b.set.permits && !b.set.off {
		return fail(api.PermitRequired), false
	}
	if changed = op.cost > 0 && !b.set.off; changed {
		for i, v := range b.levels {
			l := &b.set.limits[i]
			if l.algorithm != api.TokenBucket {
				own := &v.spent[l.running()]
				*own = min(*own+op.cost, maxNumber)
				continue
			}
			l.charge(v.units, op.cost)
			if deep := l.burst - maxNumber - l.tokens(v.units); deep > 0 {
				v.units.Add(v.units, new(big.Int).Mul(big.NewInt(deep), l.bigPer))
			}
		}
	}
	return outcome{verdict: synced, answer: b.describe(b.scarcest(), 1)}, changed
}

// endLeases is what the time until now does to leases, before the time of day is
// corrected: those that are over ended by the clock as it was.
func (o *oracle) endLeases() {
	for name, stored := range o.buckets {
		over := slices.ContainsFunc(stored, func(b *bucket) bool { return b != nil && b.set.calendar() && b.nextExpiry() <= o.now })
		if !over {
			continue
		}
		var after []*bucket
		for _, at := range o.instants(true) {
			for _, b := range stored {
				if b != nil {
					b = b.clone()
					b.advance(at)
				}
				if !slices.ContainsFunc(after, b.equal) {
					after = append(after, b)
				}
			}
		}
		o.buckets[name] = after[:min(len(after), maxPossible)]
	}
}

// equalLeases compares leases, in whatever order.
func equalLeases(a, b []lease) bool {
	order := func(x, y lease) int {
		return cmp.Or(cmp.Compare(x.expires, y.expires), slices.Compare(x.id[:], y.id[:]))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}
