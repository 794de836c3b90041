package check

import (
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// bucketName is what tells buckets apart.
type bucketName struct{ policy, key string }

// bucket is the state of one policy for one key as of cluster time at. It is
// immutable once it is in a shard's table; change a [bucket.clone].
type bucket struct {
	set    *numbers
	at     uint64
	levels []*big.Int // one for each limit, in its units
}

// fresh is the bucket that nobody took from: every limit is full.
func fresh(s *numbers, now uint64) *bucket {
	b := &bucket{set: s, at: now}
	for i := range s.limits {
		b.levels = append(b.levels, new(big.Int).Set(s.limits[i].full))
	}
	return b
}

func (b *bucket) clone() *bucket {
	c := &bucket{set: b.set, at: b.at, levels: make([]*big.Int, len(b.levels))}
	for i, v := range b.levels {
		c.levels[i] = new(big.Int).Set(v)
	}
	return c
}

func (b *bucket) equal(o *bucket) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.set == o.set && b.at == o.at && slices.EqualFunc(b.levels, o.levels, func(x, y *big.Int) bool { return x.Cmp(y) == 0 })
}

func (b *bucket) refill(now uint64) {
	for i, v := range b.levels {
		b.set.limits[i].refill(v, now-b.at)
	}
	b.at = now
}

func (b *bucket) full() bool {
	for i, v := range b.levels {
		if v.Cmp(b.set.limits[i].full) < 0 {
			return false
		}
	}
	return true
}

// adopt brings a bucket that is refilled up to now under the set of an
// operation. "If the bucket's own set has the higher revision, it decides [...].
// Else the operation's set decides. Limits are matched by name. [...] A limit
// that is new starts full; one that is gone is forgotten."
func (b *bucket) adopt(s *numbers) {
	if b.set == s || b.set.revision > s.revision {
		return
	}
	levels := make([]*big.Int, len(s.limits))
	for i := range s.limits {
		to := &s.limits[i]
		levels[i] = new(big.Int).Set(to.full)
		for j := range b.set.limits {
			if from := &b.set.limits[j]; from.name == to.name {
				levels[i] = from.edit(b.levels[j], to)
			}
		}
	}
	b.set, b.levels = s, levels
}

// possible returns what the stored bucket, nil for none, may be to an operation
// under s at now, before the operation's set is adopted. The store drops full
// buckets at some time, "for a full bucket and no bucket decide alike", but for
// one thing: whose revision answers when the operation's is older.
func possible(stored *bucket, s *numbers, now uint64) []*bucket {
	if stored == nil {
		return []*bucket{fresh(s, now)}
	}
	b := stored.clone()
	b.refill(now)
	if b.set.revision > s.revision && b.full() {
		return []*bucket{b, fresh(s, now)}
	}
	return []*bucket{b}
}

func (b *bucket) charge(cost int64) {
	for i, v := range b.levels {
		b.set.limits[i].charge(v, cost)
	}
}

// longest is the wait after which a take of cost passes all limits, 0 if it
// passes now, and which limit it is that waits longest, the first of equals.
func (b *bucket) longest(cost int64) (wait uint64, limit int) {
	for i, v := range b.levels {
		if w := b.set.limits[i].wait(v, cost); w > wait {
			wait, limit = w, i
		}
	}
	return wait, limit
}

// scarcest is the limit that binds when nothing is denied: "fewest tokens left,
// relative to its burst", the first of equals.
func (b *bucket) scarcest() (limit int) {
	tokens := func(i int) int64 { return b.set.limits[i].tokens(b.levels[i]) }
	for i := range b.levels {
		// tokens(i)/burst(i) < tokens(limit)/burst(limit); 32-bit factors.
		if tokens(i)*b.set.limits[limit].burst < tokens(limit)*b.set.limits[i].burst {
			limit = i
		}
	}
	return limit
}

// describe makes an answer of the bucket. binding is the limit whose values
// stand for all, next the cost whose wait is the retry-after, 0 for none.
func (b *bucket) describe(binding int, next int64) *Answer {
	a := &Answer{Revision: b.set.revision}
	for i, v := range b.levels {
		l := &b.set.limits[i]
		a.Limits = append(a.Limits, api.LimitState{
			Name: l.name, Limit: l.burst,
			Remaining:    max(0, l.tokens(v)),
			RetryAfterMS: retryAfter(l, v, next),
			ResetAfterMS: millis(l.untilFull(v)),
		})
	}
	a.bind(binding)
	return a
}

func retryAfter(l *limit, v *big.Int, next int64) int64 {
	if next == 0 {
		return 0
	}
	return millis(l.wait(v, next))
}

// borrow charges a take of cost that may wait for at most most milliseconds. "The
// take may borrow from the future up to that wait"; what all limits lend is
// bounded by the largest burst there is.
func (b *bucket) borrow(cost, most int64) (wait uint64, ok bool) {
	wait, _ = b.longest(cost)
	if wait > uint64(most)*1e6 {
		return wait, false
	}
	for i, v := range b.levels {
		if l := &b.set.limits[i]; l.tokens(v)-cost < l.burst-maxNumber {
			return wait, false
		}
	}
	b.charge(cost)
	return wait, true
}

// bind copies the values of the limit that binds to where an answer has them.
func (a *Answer) bind(i int) {
	l := &a.Limits[i]
	a.Limit, a.Remaining, a.RetryAfterMS, a.ResetAfterMS = l.Limit, l.Remaining, l.RetryAfterMS, l.ResetAfterMS
}
