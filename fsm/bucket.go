package fsm

import "github.com/rlstore/rlstore/api"

// bucket is the state of one policy for one key, unpacked, at stamp last.
//
// When an operation brings other numbers than the bucket's, an edit of the
// policy has happened in between, and this rule holds:
//
//   - If the bucket's own set has the higher revision, it decides: a router
//     with an old copy of the catalog cannot turn the clock back. The reply
//     then carries that set. Else the operation's set decides.
//   - Limits are matched by name. First the old limit is refilled up to now by
//     its old numbers; then what is consumed, the old burst less the tokens,
//     stays consumed: tokens = new burst - consumed. That may be below 0, and
//     then the debt flows off at the new rate before anything passes. Nothing
//     is clamped below, so that an edit forth and back gives nothing away. The
//     fraction of a token is rescaled to the new period, rounded down.
//   - A limit that is new starts full; one that is gone is forgotten.
//   - The result is stored only if the operation changes the bucket: a peek, a
//     denied take and a refund into a full bucket see the new numbers and leave
//     the old ones.
type bucket struct {
	set  *set
	last uint64
	lim  [maxLimits]level // the first len(set.limits) count
}

// fresh makes b the bucket that nobody took from yet.
func (b *bucket) fresh(s *set, now uint64) {
	b.set, b.last = s, now
	for i := range s.limits {
		b.lim[i] = s.limits[i].full()
	}
}

// refill brings b to now, which is not before b.last.
func (b *bucket) refill(now uint64) {
	if dt := now - b.last; dt != 0 {
		for i := range b.set.limits {
			b.set.limits[i].refill(&b.lim[i], dt)
		}
		b.last = now
	}
}

// full says whether b, at b.last, is what fresh would make.
func (b *bucket) full() bool {
	for i := range b.set.limits {
		if b.lim[i].tokens != b.set.limits[i].burst {
			return false
		}
	}
	return true
}

// adopt applies the rule above to a bucket that is refilled up to now.
func (b *bucket) adopt(s *set) {
	if b.set == s || b.set.revision > s.revision {
		return
	}
	old, from := b.lim, b.set
	for i := range s.limits {
		if j := from.named(s.names[i]); j >= 0 {
			b.lim[i] = from.limits[j].edit(old[j], &s.limits[i])
		} else {
			b.lim[i] = s.limits[i].full()
		}
	}
	b.set = s
}

// passes says whether every limit has cost tokens.
func (b *bucket) passes(cost int64) bool {
	for i := range b.set.limits {
		if b.lim[i].tokens < cost {
			return false
		}
	}
	return true
}

// charge takes cost from every limit.
func (b *bucket) charge(cost int64) {
	for i := range b.set.limits {
		b.lim[i].tokens -= cost
	}
}

// wait returns the smallest wait, in nanoseconds, after which a take of cost
// passes.
func (b *bucket) wait(cost int64) (longest uint64) {
	for i := range b.set.limits {
		longest = max(longest, b.set.limits[i].wait(b.lim[i], cost))
	}
	return longest
}

// refund gives cost tokens back to every limit and describes the bucket in
// res. It returns false if every limit was full.
func (b *bucket) refund(res *api.Result, cost int64) (changed bool) {
	var given [maxLimits]int64
	for i := range b.set.limits {
		given[i] = b.set.limits[i].refund(&b.lim[i], cost)
		changed = changed || given[i] > 0
	}
	b.describe(res, 1)
	res.Refunded = given[res.Binding]
	return changed
}

// describe writes every limit's values into res, and which limit binds: the one
// with the fewest tokens relative to its burst, the first of equals. next is
// the cost whose wait counts as retry-after; 0 is none, for a take that passed.
// A peek and a refund tell when a take of 1 would pass.
func (b *bucket) describe(res *api.Result, next int64) {
	res.Binding = 0
	res.Limits = res.Limits[:0]
	for i := range b.set.limits {
		l := &b.set.limits[i]
		v := b.lim[i]
		res.Limits = append(res.Limits, api.LimitValues{
			Remaining:  max(0, v.tokens),
			RetryAfter: micros(l.wait(v, next)),
			ResetAfter: micros(l.wait(v, l.burst)),
		})
		// Tokens and bursts fit 32 bits, but for their sign: no product overflows.
		if k := res.Binding; v.tokens*b.set.limits[k].burst < b.lim[k].tokens*l.burst {
			res.Binding = i
		}
	}
}

// deny describes the bucket to a take of cost that did not pass: the limit
// with the longest wait binds, the first of equals.
func (b *bucket) deny(res *api.Result, cost int64) {
	b.describe(res, cost)
	var longest uint64
	for i := range b.set.limits {
		if w := b.set.limits[i].wait(b.lim[i], cost); w > longest {
			longest, res.Binding = w, i
		}
	}
}
