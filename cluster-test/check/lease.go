package check

import (
	"math"
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// Leases, as fsm/leases.go and fsm/leased.go have them. What is said of a bucket
// with leases is found by walking from one expiry to the next; nothing here
// depends on when the store takes a lease out that is over.

// leased is the tokens out on lease.
func (b *bucket) leased() (sum int64) {
	for i := range b.holds {
		if h := &b.holds[i]; h.counts(b.at.now) {
			sum += h.cost
		}
	}
	return sum
}

// counts says whether a hold is a lease that lives, and was charged.
func (h *hold) counts(now uint64) bool { return h.kind == leases && !h.free && h.lives(now) }

// nextExpiry is when the next lease that counts expires. "When it expires nothing
// comes back."
func (b *bucket) nextExpiry() uint64 {
	next := uint64(math.MaxUint64)
	for i := range b.holds {
		if h := &b.holds[i]; h.counts(b.at.now) {
			next = min(next, h.expires)
		}
	}
	return next
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
	switch {
	case cost == 0:
		return 0
	case l.algorithm == api.Concurrency:
		return b.untilSlot(l)
	case b.leased() == 0:
		return l.until(b.levels[i], b.at, cost)
	}
	c := b.clone()
	for c.leased() > 0 {
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
	if b.set.limits[i].algorithm == api.Concurrency {
		return b.untilSlots()
	}
	c := b.clone()
	for c.leased() > 0 {
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
func decideLease(op *logOp, b *bucket, e *ending) (out outcome, changed bool) {
	granted := func(v verdict, n int64) outcome {
		a := b.describe(b.scarcest(), 0)
		a.Allowed, a.Granted = true, n
		return outcome{verdict: v, answer: a}
	}
	if h := b.find(op.hold); h != nil && h.kind == leases && !h.lives(b.at.now) {
		b.drop(op.hold)
	}
	switch known, code := recognise(op, b, e); {
	case code != "":
		return fail(code), false
	case known: // "asked for again while it lives gets what it got the first time"
		return granted(again, b.find(op.hold).cost), false
	case b.set.permits && !b.set.off:
		return fail(api.PermitRequired), false
	case op.need > b.set.smallest && !b.set.off:
		return fail(api.CostExceedsBurst), false
	}
	available, others := int64(maxNumber), int64(0)
	for i := range b.levels {
		if b.set.limits[i].algorithm != api.Concurrency {
			available = min(available, b.left(i))
		}
	}
	for i := range b.holds {
		if b.holds[i].counts(b.at.now) {
			others++
		}
	}
	ttl := op.ttl
	if b.set.leaseTTL > 0 {
		ttl = min(ttl, b.set.leaseTTL)
	}
	h := hold{id: op.hold, kind: leases, cost: op.cost, expires: b.at.now + uint64(ttl)*1e6, set: op.set, made: b.at}
	switch {
	case b.set.off:
		h.free = true
		out = granted(allowed, op.cost)
	case op.need > available && !b.set.shadow:
		_, binding := b.longest(op.need)
		return outcome{verdict: denied, answer: b.describe(binding, op.need)}, false
	case op.need > available:
		h.free = true
		_, binding := b.longest(op.need)
		out = outcome{verdict: allowed, answer: b.describe(binding, op.need)}
		out.answer.Allowed, out.answer.Shadowed, out.answer.Granted = true, true, op.cost
	default: // "a fair share of what is available [...]. At least it gets the latter"
		h.cost = max(op.need, min(op.cost, available/(others+2)))
		b.charge(h.cost, 0)
		b.holds = append(slices.Clone(b.holds), h)
		out = granted(allowed, h.cost)
		out.due = h.expires
		return out, true
	}
	b.holds = append(slices.Clone(b.holds), h)
	out.due = h.expires
	return out, false
}

// settleLease applies what ends a lease: a commit, or a cancel, of which nothing
// was spent. "It is settled by a commit of what was spent; the rest is given back."
// That is not remembered.
func settleLease(op *logOp, b *bucket) (out outcome, changed bool) {
	h := b.drop(op.hold)
	a := &Answer{}
	out = outcome{verdict: settled, answer: a, lease: &h}
	if h.free {
		return out, false
	}
	back, more := max(0, h.cost-op.cost), max(0, op.cost-h.cost)
	if more = min(more, b.credit()); more > 0 {
		b.charge(more, 0)
	}
	for i, v := range b.levels { // "was counted in the window that runs [...], so there it goes"
		switch n := &b.set.limits[i]; n.algorithm {
		case api.TokenBucket:
			n.give(v.units, back)
		case api.FixedWindow, api.SlidingWindow:
			v.spent[n.running()] = max(0, v.spent[n.running()]-back)
		}
	}
	b.clamp()
	a.Committed, a.Given, a.Charged = h.cost-back+more, back, more
	out.back = back
	return out, true
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
