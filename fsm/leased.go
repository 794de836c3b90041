package fsm

import "github.com/rlstore/rlstore/api"

// What leases do to the levels of their bucket.
//
// A lease is charged like a take, and moreover counts against the burst for as
// long as it is out, since its tokens may be spent at any moment until then. So
// what passes at once, through the bucket and through every holder, is never
// more than the burst, and over any interval never more than the burst and what
// flows in. With leased for the sum of the leases that live:
//
//   - A token bucket fills up to burst-leased.
//   - A fixed window that begins has burst-leased tokens, and that much pays for
//     debt.
//   - In a sliding window leased tokens count as used in the window that runs, and
//     move on to the next one when that begins: where they count for most.
//
// When a lease is settled, what comes back was counted in the window that runs,
// whichever the lease was made in, so there it goes. When it expires nothing
// comes back.
//
// An expiry counts from its very moment, whenever it is dealt with: a bucket is
// advanced from one expiry to the next. So it does not matter how late a lease
// that is overdue is taken out, and waits can be foretold.
//
// Nobody waits for a window of a bucket with leases: those who wait count in a
// window to come, and what will be leased then is not known yet. A token bucket
// lends as ever, but no more than it fills up to.

// clamp sees to it that what passes at once, with what is leased, is no more than
// the burst. It returns by how many tokens that lowers what is left.
func (l *limit) clamp(v *level, leased int64) int64 {
	switch l.algorithm {
	case api.Concurrency:
		return 0
	case api.SlidingWindow:
		by := max(0, leased-v.tokens)
		v.tokens += by
		return by
	}
	by := v.tokens - (l.burst - leased)
	if by < 0 {
		return 0
	}
	v.tokens -= by
	if l.algorithm == api.TokenBucket {
		v.frac = 0
	}
	return by
}

// clamp does so to every limit.
func (b *bucket) clamp() {
	for i := range b.set.limits {
		b.set.limits[i].clamp(&b.lim[i], b.leased)
	}
}

// lends says whether a take of cost may wait for its tokens.
func (b *bucket) lends(cost int64) bool {
	if b.leased == 0 {
		return true
	}
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm != api.TokenBucket || cost > l.burst-b.leased {
			return false
		}
	}
	return true
}

// available is the most that a take can have at once.
func (b *bucket) available() int64 {
	least := int64(maxBurst)
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm != api.Concurrency {
			least = min(least, l.left(b.lim[i], b.at))
		}
	}
	return least
}

// owe charges cost, which was spent already, into debt if need be: as deep as a
// level can hold.
func (b *bucket) owe(cost int64) {
	for i := range b.set.limits {
		l, v := &b.set.limits[i], &b.lim[i]
		switch l.algorithm {
		case api.Concurrency:
		case api.SlidingWindow:
			v.tokens = min(v.tokens+cost, maxBurst)
		default:
			v.tokens = max(v.tokens-cost, l.burst-maxBurst)
		}
	}
}

// unlease gives back tokens of a lease that counts in the bucket no more.
func (b *bucket) unlease(tokens int64) {
	for i := range b.set.limits {
		l, v := &b.set.limits[i], &b.lim[i]
		switch l.algorithm {
		case api.Concurrency:
		case api.SlidingWindow:
			v.tokens = max(0, v.tokens-tokens)
		default:
			v.tokens += tokens
		}
	}
	b.clamp()
}

// countLeases notes the leases that live now in a bucket that knows of none.
func (m *Buckets) countLeases(b *bucket, hash uint64, key string) {
	if m.holds.leased[hash] == 0 {
		return
	}
	t := m.holds.byBucket[bucketName{b.set.policy, key}]
	if t == nil {
		return
	}
	b.leases, b.leased = t.leases, t.leased
	b.endLeases()
	if b.leased != 0 {
		b.clamp()
	}
}

// endLeases leaves out the leases that have expired by b.at.
func (b *bucket) endLeases() {
	n := overdue(b.leases, b.at.now)
	for _, gone := range b.leases[:n] {
		b.leased -= gone.cost
	}
	b.leases = b.leases[n:]
}

// advanceLeased brings a bucket as it was stored to at, from one expiry of a lease
// to the next.
func (m *Buckets) advanceLeased(b *bucket, hash uint64, key string, at moment) {
	if m.holds.leased[hash] != 0 {
		if t := m.holds.byBucket[bucketName{b.set.policy, key}]; t != nil {
			b.leases, b.leased = t.leases, t.leased
			for b.endLeases(); b.leased != 0 && b.leases[0].expires <= at.now; b.endLeases() {
				stamp := b.leases[0].expires
				b.advance(moment{stamp, m.clock.wall(stamp)})
			}
		}
	}
	b.advance(at)
}

// unwinding is the future of one level if the bucket's leases expire one after
// the other, and nobody spends.
type unwinding struct {
	l      *limit
	v      level
	at     moment
	leased int64
}

func (b *bucket) unwind(i int) unwinding {
	return unwinding{&b.set.limits[i], b.lim[i], b.at, b.leased}
}

// past brings the level to the expiry of the next lease, and past it.
func (u *unwinding) past(n *holdNode) {
	at := moment{n.expires, min(u.at.wall+int64(n.expires-u.at.now), maxWall)}
	u.l.advance(&u.v, u.at.now, at, u.leased)
	u.l.clamp(&u.v, u.leased)
	u.at = at
	u.leased -= n.cost
}

// wait is limit.wait as long as what is leased now stays so.
func (u *unwinding) wait(cost int64) uint64 {
	switch u.l.algorithm {
	case api.FixedWindow:
		return u.l.windowWait(u.v, u.at.wall, cost, u.leased)
	case api.SlidingWindow:
		return u.l.slidingWait(u.v, u.at.now, cost, u.leased)
	}
	if cost > u.l.burst-u.leased {
		return never
	}
	return u.l.untilTokens(u.v, cost)
}

// limitWait is the wait of limit i for a take of cost; see limit.wait. Leases are
// taken to run until they expire.
func (b *bucket) limitWait(i int, cost int64) uint64 {
	l := &b.set.limits[i]
	if b.leased == 0 || cost == 0 || l.algorithm == api.Concurrency {
		return l.wait(b.lim[i], b.at, cost)
	}
	u := b.unwind(i)
	for _, n := range b.leases {
		if w := u.wait(cost); w < n.expires-u.at.now {
			return u.at.now - b.at.now + w
		}
		u.past(n)
	}
	if w := l.wait(u.v, u.at, cost); w != never {
		return u.at.now - b.at.now + w
	}
	return never
}

// untilFresh is the time until limit i is fresh, if nobody spends and every lease
// runs until it expires.
func (b *bucket) untilFresh(i int) uint64 {
	l := &b.set.limits[i]
	if b.leased == 0 || l.algorithm == api.Concurrency {
		return l.untilFresh(b.lim[i], b.at)
	}
	u := b.unwind(i)
	for _, n := range b.leases {
		u.past(n)
	}
	if w := l.untilFresh(u.v, u.at); w != never {
		return u.at.now - b.at.now + w
	}
	return never
}
