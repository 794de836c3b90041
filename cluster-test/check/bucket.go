package check

import (
	"math"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// bucketName is what tells buckets apart.
type bucketName struct{ policy, key string }

// bucket is the state of one policy for one key as of cluster time at. It is
// immutable once it is in a shard's table; change a [bucket.clone]. One without a
// set has nothing but holds, for which nothing was charged.
type bucket struct {
	set    *numbers
	at     instant
	levels []*level // one for each limit
	holds  []hold   // of it: those that live, and those that are overdue and not settled yet
}

// fresh is the bucket that nobody took from: every limit is full.
func fresh(s *numbers, at instant) *bucket {
	b := &bucket{set: s, at: at}
	for i := range s.limits {
		b.levels = append(b.levels, s.limits[i].fresh(at))
	}
	return b
}

func (b *bucket) clone() *bucket {
	c := &bucket{set: b.set, at: b.at, levels: make([]*level, len(b.levels)), holds: slices.Clone(b.holds)}
	for i, v := range b.levels {
		c.levels[i] = v.clone()
	}
	return c
}

func (b *bucket) equal(o *bucket) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.set == o.set && b.at.now == o.at.now && slices.EqualFunc(b.levels, o.levels, (*level).equal) && equalHolds(b.holds, o.holds)
}

// advance lets time pass, from one expiry of a lease to the next.
func (b *bucket) advance(at instant) {
	for next := b.nextExpiry(); next <= at.now; next = b.nextExpiry() {
		b.advanceTo(at.earlier(next))
	}
	b.advanceTo(at)
}

// advanceTo lets time pass in which no lease expires.
func (b *bucket) advanceTo(at instant) {
	leased := b.leased()
	for i, v := range b.levels {
		b.set.limits[i].advance(v, b.at.now, at, leased)
		b.set.limits[i].clamp(v, leased)
	}
	b.at = at
}

func (b *bucket) full() bool {
	for i, v := range b.levels {
		if !b.set.limits[i].isFresh(v) {
			return false
		}
	}
	return true
}

// adopt brings a bucket that is advanced to now under the set of an
// operation. "If the bucket's own set has the higher revision, it decides [...].
// Else the operation's set decides. Limits are matched by name. [...] A limit
// that is new starts full; one that is gone is forgotten."
func (b *bucket) adopt(s *numbers) {
	if b.set == s || b.set.revision > s.revision {
		return
	}
	levels := make([]*level, len(s.limits))
	for i := range s.limits {
		to := &s.limits[i]
		levels[i] = to.fresh(b.at)
		for j := range b.set.limits {
			if from := &b.set.limits[j]; from.name == to.name {
				levels[i] = from.carry(b.levels[j], b.at, b.left(j), to)
			}
		}
	}
	b.set, b.levels = s, levels
	b.clamp()
}

// possible returns what the stored bucket, nil for none, may be to an operation
// under s at some time, before the operation's set is adopted. The store drops
// full buckets at some time, "for a full bucket and no bucket decide alike", but
// for one thing: whose revision answers when the operation's is older. "A bucket
// with holds is not swept, so that the newest numbers that it was decided by stay
// with it."
func possible(stored *bucket, s *numbers, at instant) []*bucket {
	if stored == nil || stored.set == nil {
		b := fresh(s, at)
		if stored != nil {
			b.holds = slices.Clone(stored.holds)
		}
		return []*bucket{b}
	}
	b := stored.clone()
	b.advance(at)
	if b.set.revision > s.revision && b.full() && len(b.holds) == 0 {
		return []*bucket{b, fresh(s, at)}
	}
	return []*bucket{b}
}

// left is what a limit has left: tokens, below 0 for a debt, or slots, below 0 if
// there are more permits than an edit has left.
func (b *bucket) left(i int) int64 {
	l := &b.set.limits[i]
	if l.algorithm == api.Concurrency {
		return l.burst - int64(len(b.permits()))
	}
	return l.left(b.levels[i], b.at)
}

// charge takes cost from every limit, for somebody who waits so long. It is false
// if a limit does not lend that; the others are charged all the same.
func (b *bucket) charge(cost int64, wait uint64) bool {
	ok := true
	for i, v := range b.levels {
		ok = b.set.limits[i].spend(v, b.at, cost, wait) && ok
	}
	return ok
}

// longest is the wait after which a take of cost passes all limits, 0 if it
// passes now, and which limit it is that waits longest, the first of equals.
func (b *bucket) longest(cost int64) (wait uint64, limit int) {
	for i := range b.levels {
		if w := b.until(i, cost); w > wait {
			wait, limit = w, i
		}
	}
	return wait, limit
}

// scarcest is the limit that binds when nothing is denied: "fewest tokens left,
// relative to its burst", the first of equals.
func (b *bucket) scarcest() (limit int) {
	for i := range b.levels {
		// left(i)/burst(i) < left(limit)/burst(limit); 32-bit factors.
		if b.left(i)*b.set.limits[limit].burst < b.left(limit)*b.set.limits[i].burst {
			limit = i
		}
	}
	return limit
}

// describe makes an answer of the bucket. binding is the limit whose values
// stand for all, next the cost whose wait is the retry-after, 0 for none.
func (b *bucket) describe(binding int, next int64) *Answer {
	a := &Answer{Revision: b.set.revision}
	for i := range b.levels {
		l := &b.set.limits[i]
		a.Limits = append(a.Limits, api.LimitState{
			Name: l.name, Limit: l.burst,
			Remaining:    max(0, b.left(i)),
			RetryAfterMS: b.retryAfter(i, next),
			ResetAfterMS: millis(b.untilFresh(i)),
		})
	}
	a.bind(binding)
	return a
}

func (b *bucket) retryAfter(limit int, next int64) int64 {
	if next == 0 {
		return 0
	}
	return millis(b.until(limit, next))
}

// deny describes the bucket to a take of cost that may wait for at most most
// milliseconds and does not pass. "The limit with the longest wait binds"; the
// retry-after is "the smallest wait after which the same take passes": so much less
// than the limits' own.
func (b *bucket) deny(cost, most int64) *Answer {
	longest, binding := b.longest(cost)
	a := b.describe(binding, cost)
	if most == 0 {
		return a
	}
	for i := range a.Limits {
		if w := b.until(i, cost); w != math.MaxUint64 {
			a.Limits[i].RetryAfterMS = millis(w - min(w, uint64(most)*1e6))
		}
	}
	a.Limits[binding].RetryAfterMS = millis(b.again(longest, cost, most))
	a.bind(binding)
	return a
}

// again is after how many nanoseconds a take passes that may wait for most
// milliseconds and whose tokens are there after wait. That is either when it has
// to wait for no more than most, or when the window before the one of its tokens
// begins, "and not from one beyond"; where neither is so, after all of wait.
func (b *bucket) again(wait uint64, cost, most int64) uint64 {
	if most == 0 || wait > maxWall || !b.lends(cost) {
		return wait
	}
	if sooner := wait - min(wait, uint64(most)*1e6); sooner > 0 && b.leased() > 0 { // token buckets only
		return sooner
	}
	tries := []uint64{wait - min(wait, uint64(most)*1e6)}
	for i := range b.set.limits {
		l := &b.set.limits[i]
		if n := l.windowNumber(b.at.now + wait); n > 0 && (n-1)*uint64(l.per) > b.at.now {
			tries = append(tries, (n-1)*uint64(l.per)-b.at.now)
		}
	}
	slices.Sort(tries)
	for _, after := range tries {
		c := b.clone()
		c.advance(instant{b.at.now + after, min(b.at.wall+int64(after), maxWall)})
		if _, ok := c.borrow(cost, most); ok && after > 0 {
			return after
		}
	}
	return wait
}

// windowNumber is the number of the sliding window at now, 0 if the limit has none.
func (l *limit) windowNumber(now uint64) uint64 {
	if l.algorithm != api.SlidingWindow {
		return 0
	}
	return uint64(l.number(now))
}

// borrow charges a take of cost that may wait for at most most milliseconds. "The
// take may borrow from the future up to that wait"; if a limit does not lend it,
// nothing changes.
func (b *bucket) borrow(cost, most int64) (wait uint64, ok bool) {
	wait, _ = b.longest(cost)
	if wait > uint64(most)*1e6 || wait > 0 && !b.lends(cost) {
		return wait, false
	}
	before := b.clone()
	if !b.charge(cost, wait) {
		b.levels = before.levels
		return wait, false
	}
	return wait, true
}

// bind copies the values of the limit that binds to where an answer has them.
func (a *Answer) bind(i int) {
	l := &a.Limits[i]
	a.Limit, a.Remaining, a.RetryAfterMS, a.ResetAfterMS = l.Limit, l.Remaining, l.RetryAfterMS, l.ResetAfterMS
}
