package fsm

import "github.com/rlstore/rlstore/api"

// bucket is the state of one policy for one key, unpacked, as of at.
//
// When an operation brings other numbers than the bucket's, an edit of the
// policy has happened in between, and this rule holds:
//
//   - If the bucket's own set has the higher revision, it decides: a router
//     with an old copy of the catalog cannot turn the clock back. The reply
//     then carries that set. Else the operation's set decides.
//   - Limits are matched by name. First the old limit is brought up to now by
//     its old numbers; then what is consumed stays consumed, whatever becomes
//     of the algorithm: the new limit starts fresh, less what the old one
//     counts as used now. Of a token bucket and of a fixed window that is the
//     burst less the tokens that are left; of a sliding window what is used in
//     the running window, what is charged to the next one, and of the one
//     before what its weight comes to, rounded up.
//   - So tokens may get below 0, and then the debt is paid at the new rate
//     before anything passes. Nothing is clamped below, so that an edit forth
//     and back gives nothing away. The fraction of a token is rescaled to the
//     new period, rounded down. A window whose algorithm, period and zone stay
//     is the same window, and goes on as it is.
//   - A limit that is new starts fresh; one that is gone is forgotten.
//   - The result is stored only if the operation changes the bucket: a peek, a
//     denied take and a refund into a full bucket see the new numbers and leave
//     the old ones.
type bucket struct {
	set *set
	at  moment           // in a record only its cluster time
	lim [maxLimits]level // the first len(set.limits) count

	// The permits that live, in the order in which they expire; set only if
	// set.concurrency. It aliases the machine's holds.
	permits []*holdNode

	// The sum of the leases that count, 0 for most; and these, in the order in
	// which they expire, set only if leased is not 0. See leased.go.
	//
	// Invariant between operations: clamp has nothing to do.
	leased int64
	leases []*holdNode
}

// fresh makes b the bucket that nobody took from yet.
func (b *bucket) fresh(s *set, at moment) {
	b.set, b.at, b.leased = s, at, 0
	for i := range s.limits {
		b.lim[i] = s.limits[i].fresh(at)
	}
}

// advance brings b to at, which is not before b.at.
func (b *bucket) advance(at moment) {
	dt := at.now - b.at.now
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm != api.TokenBucket {
			l.advance(&b.lim[i], b.at.now, at, b.leased)
		} else if dt != 0 {
			l.refill(&b.lim[i], dt)
		}
	}
	b.at = at
	if b.leased != 0 {
		b.clamp()
	}
}

// isFresh says whether b decides as what fresh would make.
func (b *bucket) isFresh() bool {
	for i := range b.set.limits {
		if !b.set.limits[i].isFresh(b.lim[i]) {
			return false
		}
	}
	return true
}

// adopt applies the rule above to a bucket that is advanced to now.
func (b *bucket) adopt(s *set) {
	if b.set == s || b.set.revision > s.revision {
		return
	}
	old, from := b.lim, b.set
	for i := range s.limits {
		if j := from.named(s.names[i]); j >= 0 {
			b.lim[i] = from.limits[j].edit(old[j], b.at, &s.limits[i])
		} else {
			b.lim[i] = s.limits[i].fresh(b.at)
		}
	}
	b.set = s
	if b.leased != 0 {
		b.clamp()
	}
}

// passes says whether every limit has cost tokens.
func (b *bucket) passes(cost int64) bool {
	for i := range b.set.limits {
		left := b.lim[i].tokens
		if l := &b.set.limits[i]; l.algorithm == api.SlidingWindow {
			left = l.slidingLeft(b.lim[i], b.at.now)
		}
		if left < cost {
			return false
		}
	}
	return true
}

// charge takes cost from every limit, for a caller who waits so long before he
// acts. It returns false, and then b means nothing, if a limit can't lend so
// much.
func (b *bucket) charge(cost int64, wait uint64) bool {
	ok := true
	for i := range b.set.limits {
		l, v := &b.set.limits[i], &b.lim[i]
		if l.algorithm == api.TokenBucket {
			v.tokens -= cost
			ok = ok && v.tokens >= l.burst-maxBurst
		} else {
			ok = l.charge(v, b.at, cost, wait) && ok
		}
	}
	return ok
}

// borrow charges a take that may wait for at most most milliseconds, into debt
// if it must. It returns how long the take has to wait, in nanoseconds; if it
// is not ok, the take is denied, and b unchanged.
func (b *bucket) borrow(cost, most int64) (wait uint64, ok bool) {
	wait = b.wait(cost)
	if wait > uint64(most)*1_000_000 || wait > 0 && !b.lends(cost) {
		return wait, false
	}
	before := b.lim
	if ok = b.charge(cost, wait); !ok {
		b.lim = before
	}
	return wait, ok
}

// wait returns the smallest wait, in nanoseconds, after which a take of cost
// passes.
func (b *bucket) wait(cost int64) (longest uint64) {
	for i := range b.set.limits {
		longest = max(longest, b.limitWait(i, cost))
	}
	return longest
}

// again returns the smallest number of nanoseconds after which a take passes that is
// denied now: one that may wait for most milliseconds passes that much sooner than
// its tokens are there, unless a limit does not lend so early. wait is b.wait(cost).
func (b *bucket) again(wait uint64, cost, most int64) uint64 {
	then := b.at.now + wait
	if most == 0 || wait > maxWall || then < wait || !b.lends(cost) {
		return wait
	}
	at := wait - min(wait, uint64(most)*1_000_000)
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm == api.SlidingWindow && then >= l.per { // it lends one window ahead
			begins := (then/l.per - 1) * l.per
			at = max(at, begins-min(begins, b.at.now))
		}
	}
	switch {
	case at == 0: // as deep in debt as a level gets
		return wait
	case b.leased != 0: // token buckets only, and they lend
		return at
	}
	c := *b
	c.advance(moment{b.at.now + at, min(b.at.wall+int64(at), maxWall)})
	if _, ok := c.borrow(cost, most); !ok {
		return wait
	}
	return at
}

// refund gives cost tokens back to every limit and describes the bucket in
// res. It returns false if every limit was full.
func (b *bucket) refund(res *api.Result, cost int64) (changed bool) {
	var given [maxLimits]int64
	for i := range b.set.limits {
		l, v := &b.set.limits[i], &b.lim[i]
		given[i] = l.refund(v, cost)
		if b.leased != 0 {
			given[i] -= l.clamp(v, b.leased)
		}
		changed = changed || given[i] > 0
	}
	b.describe(res, 1)
	res.Refunded = given[res.Binding]
	return changed
}

// giveBack undoes a charge of cost tokens, made by the set had, as far as it
// still counts. It returns how much the limit took back that took most.
func (b *bucket) giveBack(cost int64, had *set, made moment) (most int64) {
	for i := range b.set.limits {
		l := &b.set.limits[i]
		j := had.named(b.set.names[i])
		if j < 0 {
			continue
		}
		given := l.giveBack(&b.lim[i], b.at, cost, &had.limits[j], made)
		if b.leased != 0 {
			given -= l.clamp(&b.lim[i], b.leased)
		}
		most = max(most, given)
	}
	return most
}

// credit returns how many tokens every limit can be charged at once, into debt;
// limits of concurrency are not.
func (b *bucket) credit() int64 {
	least := int64(api.MaxCost)
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm != api.Concurrency {
			least = min(least, l.credit(b.lim[i], b.at))
		}
	}
	return least
}

// describe writes every limit's values into res, and which limit binds: the one
// with the fewest tokens relative to its burst, the first of equals. next is
// the cost whose wait counts as retry-after; 0 is none, for a take that passed
// or has its wait.
// A peek and a refund tell when a take of 1 would pass.
func (b *bucket) describe(res *api.Result, next int64) {
	res.Limits = res.Limits[:0]
	var least int64 // left of the limit that binds
	for i := range b.set.limits {
		l := &b.set.limits[i]
		v := b.lim[i]
		left, retry, reset := v.tokens, uint64(0), uint64(0)
		if l.algorithm == api.TokenBucket {
			if next > v.tokens && next > 0 {
				retry = l.untilTokens(v, next)
			}
			reset = l.untilTokens(v, l.burst)
		} else {
			left, retry, reset = l.left(v, b.at), l.wait(v, b.at, next), l.untilFresh(v, b.at)
		}
		if b.leased != 0 {
			retry, reset = b.limitWait(i, next), b.untilFresh(i)
		}
		res.Limits = append(res.Limits, api.LimitValues{
			Remaining:  max(0, left),
			RetryAfter: micros(retry),
			ResetAfter: micros(reset),
		})
		// Tokens and bursts fit 33 bits, but for their sign: no product overflows.
		if i == 0 || left*b.set.limits[res.Binding].burst < least*l.burst {
			res.Binding, least = i, left
		}
	}
	if b.set.concurrency {
		b.describePermits(res)
	}
}

// deny describes the bucket to a take of cost that did not pass, though it may wait
// for most milliseconds: the limit with the longest wait binds, the first of equals.
func (b *bucket) deny(res *api.Result, cost, most int64) {
	b.describe(res, cost)
	var longest uint64
	for i := range b.set.limits {
		w := b.limitWait(i, cost)
		if w > longest {
			longest, res.Binding = w, i
		}
		if most != 0 && w != never {
			res.Limits[i].RetryAfter = micros(w - min(w, uint64(most)*1_000_000))
		}
	}
	if most != 0 {
		res.Limits[res.Binding].RetryAfter = micros(b.again(longest, cost, most))
	}
}
