package fsm

import (
	"math"

	"github.com/rlstore/rlstore/api"
)

// Bounds of a limit. A set outside of them decides nothing; see [set].
const (
	maxLimits = 16
	maxRate   = math.MaxInt32
	maxBurst  = math.MaxInt32
	minPer    = 1_000_000                       // 1 ms, in nanoseconds
	maxPer    = 366 * 24 * 3600 * 1_000_000_000 // 366 days, in nanoseconds
)

// limit is the numbers of one limit. What follows dispatches on its algorithm;
// the rules of each stand in the file named after it. The token bucket comes
// first everywhere: it is what nearly every limit is.
type limit struct {
	rate, per uint64
	burst     int64 // the most that passes at once
	algorithm uint8
	zone      *zone // of a fixed window
}

// level is the state of one limit at some moment: 12 bytes of a record. What
// the two mean is the algorithm's.
//
// Invariant: burst-maxBurst <= tokens, as far as tokens are what is left; see
// limit.check.
type level struct {
	tokens int64
	frac   uint64
}

// moment is when something is decided: cluster time, and the time of day that
// the shard agrees on, as of [clock]. Both are nanoseconds.
type moment struct {
	now  uint64
	wall int64
}

// never is the wait for what does not come, or not within 584 years.
const never = math.MaxUint64

// fresh is the level of a bucket that nobody took from yet.
func (l *limit) fresh(at moment) level {
	switch l.algorithm {
	case api.TokenBucket:
		return l.full()
	case api.FixedWindow:
		return l.freshWindow(at.wall)
	case api.SlidingWindow:
		return level{}
	}
	return level{tokens: l.burst}
}

// check says which invariant of a level is broken.
func (l *limit) check(v level) ResetReason {
	switch l.algorithm {
	case api.TokenBucket:
		return l.checkBucket(v)
	case api.FixedWindow:
		return l.checkWindow(v)
	case api.SlidingWindow:
		return l.checkSliding(v)
	}
	return l.checkSlots(v)
}

// advance brings a level that is of cluster time from to at, while leased tokens
// are out on lease; see leased.go.
func (l *limit) advance(v *level, from uint64, at moment, leased int64) {
	switch l.algorithm {
	case api.TokenBucket:
		l.refill(v, at.now-from)
	case api.FixedWindow:
		l.turn(v, at.wall, leased)
	case api.SlidingWindow:
		l.slide(v, from, at.now, leased)
	}
}

// isFresh says whether v, advanced to now, decides as a fresh level does.
func (l *limit) isFresh(v level) bool {
	if l.algorithm == api.SlidingWindow {
		return v == level{}
	}
	return v.tokens == l.burst
}

// left is the whole tokens that are there, relative to the burst; below 0 it is
// a debt.
func (l *limit) left(v level, at moment) int64 {
	if l.algorithm == api.SlidingWindow {
		return l.slidingLeft(v, at.now)
	}
	return v.tokens
}

// wait returns the smallest number of nanoseconds after which a take of cost,
// which is at most the burst, or 0 for none, passes if nobody else spends. From then on it
// passes at any time: so the wait of a bucket is the longest of its limits.
func (l *limit) wait(v level, at moment, cost int64) uint64 {
	if cost == 0 {
		return 0
	}
	switch l.algorithm {
	case api.TokenBucket:
		return l.untilTokens(v, cost)
	case api.FixedWindow:
		return l.windowWait(v, at.wall, cost, 0)
	case api.SlidingWindow:
		return l.slidingWait(v, at.now, cost, 0)
	}
	return l.slotWait(v, at.now)
}

// untilFresh returns the number of nanoseconds until the level is fresh if
// nobody spends; of a concurrency limit the bucket knows more.
func (l *limit) untilFresh(v level, at moment) uint64 {
	switch l.algorithm {
	case api.TokenBucket:
		return l.untilTokens(v, l.burst)
	case api.FixedWindow:
		if v.tokens == l.burst {
			return 0
		}
		return l.windowWait(v, at.wall, l.burst, 0)
	case api.SlidingWindow:
		return l.slidingReset(v, at.now)
	}
	return 0
}

// charge takes cost for a caller who acts after the wait, which is no less than
// the one that the limit itself asks for. It returns false, and then v means
// nothing, if the limit can't lend that much.
func (l *limit) charge(v *level, at moment, cost int64, wait uint64) bool {
	switch l.algorithm {
	case api.FixedWindow:
		return l.chargeWindow(v, at.wall, cost, wait)
	case api.SlidingWindow:
		return l.chargeSliding(v, at.now, cost, wait)
	case api.Concurrency:
		return true // the permit itself counts
	}
	v.tokens -= cost
	return v.tokens >= l.burst-maxBurst
}

// refund gives tokens back, up to a fresh level, and returns how many.
func (l *limit) refund(v *level, tokens int64) int64 {
	switch l.algorithm {
	case api.TokenBucket:
		return l.refundBucket(v, tokens)
	case api.SlidingWindow:
		return l.refundSliding(v, tokens)
	case api.Concurrency:
		return 0
	}
	tokens = min(tokens, l.burst-v.tokens)
	v.tokens += tokens
	return tokens
}

// giveBack undoes, as far as it still counts, a charge of tokens to l that was
// made at a moment when the limit was had, and returns how much of it that is.
// A token bucket takes all that it has room for. What is charged to a window
// counts in that one only, so it goes back there, and nowhere when the window is
// over or the limit has become another: no later window gets tokens of it.
func (l *limit) giveBack(v *level, at moment, tokens int64, had *limit, made moment) int64 {
	if l.algorithm != had.algorithm || l.algorithm != api.TokenBucket && (l.per != had.per || !l.zone.same(had.zone)) {
		return 0
	}
	switch l.algorithm {
	case api.FixedWindow:
		if l.start(made.wall) != int64(v.frac) {
			return 0
		}
	case api.SlidingWindow:
		return l.giveBackSliding(v, at.now, tokens, made.now)
	}
	return l.refund(v, tokens)
}

// credit returns how many tokens can be charged at once, until the debt is as
// deep as one burst, or as a level can hold.
func (l *limit) credit(v level, at moment) int64 {
	return max(0, l.left(v, at)-max(-l.burst, l.burst-maxBurst))
}

// edit carries a level of l, advanced to at, over to the limit to: what was
// consumed stays consumed; see [bucket].
func (l *limit) edit(v level, at moment, to *limit) level {
	switch {
	case l.algorithm == api.TokenBucket && to.algorithm == api.TokenBucket:
		return l.editBucket(v, to)
	case l.algorithm == api.SlidingWindow && to.algorithm == api.SlidingWindow && l.per == to.per:
		return v // its windows stay the same ones
	case l.algorithm == api.FixedWindow && to.algorithm == api.FixedWindow && l.per == to.per && l.zone.same(to.zone):
		return level{tokens: to.burst - (l.burst - v.tokens), frac: v.frac}
	}
	consumed := l.burst - v.tokens
	if l.algorithm == api.SlidingWindow {
		consumed = l.slidingUsed(v, at.now)
	}
	if consumed <= 0 {
		return to.fresh(at)
	}
	consumed = min(consumed, maxBurst)
	v = to.fresh(at)
	if to.algorithm == api.SlidingWindow {
		v.tokens = consumed
	} else {
		v.tokens -= consumed
	}
	return v
}
