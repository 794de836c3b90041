package check

import (
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// instant is when something is decided: cluster time, and the time of day that
// the shard agrees on, both in nanoseconds.
type instant struct {
	now  uint64
	wall int64
}

// level is the state of one limit. Which fields count follows from the algorithm.
type level struct {
	units *big.Int // of a token bucket

	// start is the window that runs: of a fixed window when it began, by the time
	// of day; of a sliding one its number by cluster time.
	start int64
	// spent is tokens: of a fixed window the first, all that are charged to the
	// window that runs and, beyond its rate, to those behind it; of a sliding one
	// those of the window before, of the one that runs, and of the next.
	spent [3]int64
}

func (v *level) clone() *level {
	c := *v
	if v.units != nil {
		c.units = new(big.Int).Set(v.units)
	}
	return &c
}

func (v *level) equal(o *level) bool {
	return v.start == o.start && v.spent == o.spent && (v.units == nil || v.units.Cmp(o.units) == 0)
}

// fresh is the level of a limit that nobody took from.
func (l *limit) fresh(at instant) *level {
	switch l.algorithm {
	case api.TokenBucket:
		return &level{units: new(big.Int).Set(l.full)}
	case api.FixedWindow:
		return &level{start: l.windowOf(at.wall)}
	case api.SlidingWindow:
		return &level{start: l.number(at.now)}
	}
	return &level{} // what counts is the permits themselves
}

func (l *limit) isFresh(v *level) bool {
	if l.algorithm == api.TokenBucket {
		return v.units.Cmp(l.full) >= 0
	}
	return v.spent == [3]int64{}
}

// advance lets the time from pass up to at, while leased tokens are out.
func (l *limit) advance(v *level, from uint64, at instant, leased int64) {
	switch l.algorithm {
	case api.TokenBucket:
		l.refill(v.units, at.now-from)
	case api.FixedWindow:
		l.turn(v, at.wall, leased)
	case api.SlidingWindow:
		l.slide(v, at.now, leased)
	}
}

// left is the tokens that are left, below 0 for a debt.
func (l *limit) left(v *level, at instant) int64 {
	switch l.algorithm {
	case api.TokenBucket:
		return l.tokens(v.units)
	case api.SlidingWindow:
		left := l.burst - l.slidingUsed(v, at.now)
		if v.spent[2] > 0 { // "while it does, its running window is closed"
			left = min(left, 0)
		}
		return left
	}
	return l.burst - v.spent[0]
}

// until is the smallest number of nanoseconds after which a take of cost passes.
func (l *limit) until(v *level, at instant, cost int64) uint64 {
	switch l.algorithm {
	case api.TokenBucket:
		return l.wait(v.units, cost)
	case api.FixedWindow:
		return l.untilWindow(v, at.wall, cost)
	case api.SlidingWindow:
		return l.untilSliding(v, at.now, cost)
	}
	return 0
}

// untilFresh is "the time until nothing counts any more".
func (l *limit) untilFresh(v *level, at instant) uint64 {
	switch {
	case l.algorithm == api.TokenBucket:
		return l.untilFull(v.units)
	case l.isFresh(v):
		return 0
	case l.algorithm == api.FixedWindow:
		return l.untilWindow(v, at.wall, l.burst)
	case l.algorithm == api.SlidingWindow:
		last := slices.IndexFunc([]int64{v.spent[2], v.spent[1], v.spent[0]}, func(n int64) bool { return n > 0 })
		return uint64(3-last)*uint64(l.per) - at.now%uint64(l.per)
	}
	return 0
}

// spend charges cost to where it counts for somebody who acts after wait. It is
// false if the limit does not lend that: "2147483647 tokens below its burst".
func (l *limit) spend(v *level, at instant, cost int64, wait uint64) bool {
	switch l.algorithm {
	case api.TokenBucket:
		l.charge(v.units, cost)
	case api.FixedWindow:
		if !l.spendWindow(v, at.wall, cost, wait) {
			return false
		}
	case api.SlidingWindow:
		return l.spendSliding(v, at.now, cost, wait)
	default:
		return true
	}
	return l.left(v, at) >= l.burst-maxNumber
}

// giveBack returns how many of tokens can be given back, and does so.
func (l *limit) giveBack(v *level, at instant, tokens int64) (given int64) {
	switch l.algorithm {
	case api.TokenBucket:
		given = min(tokens, l.burst-l.left(v, at))
		l.give(v.units, tokens)
		return given
	case api.FixedWindow, api.SlidingWindow: // what was charged last goes back first
		for i := range slices.Backward(v.spent[:]) {
			n := min(tokens-given, v.spent[i])
			v.spent[i] -= n
			given += n
		}
	}
	return given
}

// carry is what a level, of which so much is left, becomes under the numbers of to: "The old limit is first
// brought up to now by its old numbers. What it counts as used then [...]. The new
// limit starts with that much used. [...] A window whose algorithm, per and zone
// stay goes on as it is, with a new rate."
func (l *limit) carry(v *level, at instant, left int64, to *limit) *level {
	same := l.algorithm == to.algorithm
	switch {
	case same && l.algorithm == api.TokenBucket:
		return &level{units: l.edit(v.units, to)}
	case same && l.per == to.per && slices.Equal(l.zone, to.zone):
		return v.clone()
	}
	used := l.burst - left
	if l.algorithm == api.SlidingWindow {
		used = l.slidingUsed(v, at.now)
	}
	used = min(max(used, 0), maxNumber)
	c := to.fresh(at)
	switch to.algorithm {
	case api.TokenBucket:
		to.charge(c.units, used)
	case api.FixedWindow:
		c.spent[0] = used
	case api.SlidingWindow:
		c.spent[1] = used
	}
	return c
}
