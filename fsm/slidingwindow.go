package fsm

import "math/bits"

// The sliding window, of two windows aligned to cluster time: the one that runs,
// number now/per, and the one before, whose tokens count by the part of it that
// a window of length per, ending now, still covers. With e the time that the
// running window has lasted, a take passes if and only if
//
//	previous*(per-e) + (current+cost)*per <= rate*per
//
// Errors: of two windows, an aligned one never admits more than rate, and an
// interval of length per less than twice the rate, where the tokens of the
// window before were spent at its very end. What is spent evenly is counted
// exactly.
//
// A level is, as tokens, those used in the running window; frac is those of the
// window before in its upper half, and those charged ahead to the next window
// in its lower half. The running window is the one of the record's stamp.
//
// A take that waits is charged to the window in which its wait ends, the running
// one or the next, and not to one beyond. While something is charged to the next
// window, the running one is closed: so what the next one starts with stays
// true, and nobody overtakes who waits.

// windows are a level's parts.
func windows(v level) (previous, current, next uint64) {
	return v.frac >> 32, uint64(v.tokens), v.frac & (1<<32 - 1)
}

func (l *limit) checkSliding(v level) ResetReason {
	switch previous, _, next := windows(v); {
	case v.tokens < 0 || v.tokens > maxBurst:
		return ResetBadTokens
	case previous > maxBurst || next > maxBurst:
		return ResetBadFraction
	}
	return ResetNone
}

// slide brings a level from the window of one stamp to that of another. What is
// leased moves on from window to window.
func (l *limit) slide(v *level, from, now uint64, leased int64) {
	_, current, next := windows(*v)
	lent := uint64(leased)
	switch now/l.per - from/l.per {
	case 0:
	case 1:
		*v = level{tokens: int64(min(next+lent, maxBurst)), frac: (max(current, lent) - lent) << 32}
	case 2:
		*v = level{tokens: leased, frac: next << 32}
	default:
		*v = level{tokens: leased}
	}
}

// slidingUsed is the tokens that count as used at now, rounded up.
func (l *limit) slidingUsed(v level, now uint64) int64 {
	previous, current, next := windows(v)
	hi, lo := bits.Mul64(previous, l.per-now%l.per)
	weighted, rest := bits.Div64(hi, lo, l.per)
	if rest > 0 {
		weighted++
	}
	return int64(weighted + current + next)
}

func (l *limit) slidingLeft(v level, now uint64) int64 {
	left := l.burst - l.slidingUsed(v, now)
	if _, _, next := windows(v); next > 0 {
		return min(left, 0)
	}
	return left
}

// room returns the smallest e, the time that a window has lasted, at which it
// takes cost tokens more. It is false if the window never does.
func (l *limit) room(previous, current, cost uint64) (e uint64, ok bool) {
	if current+cost > l.rate {
		return 0, false
	}
	left := l.rate - current - cost
	if previous <= left {
		return 0, true
	}
	hi, lo := bits.Mul64(left, l.per)
	covered, _ := bits.Div64(hi, lo, previous) // less than per, since left < previous
	return l.per - covered, covered > 0
}

func (l *limit) slidingWait(v level, now uint64, cost, leased int64) uint64 {
	previous, current, next := windows(v)
	e, c, lent := now%l.per, uint64(cost), uint64(leased)
	if next == 0 {
		if first, ok := l.room(previous, current, c); ok {
			return max(first, e) - e
		}
	}
	// In the windows to come, as slide makes them.
	wait := l.per - e
	if first, ok := l.room(current-lent, next+lent, c); ok {
		return wait + first
	}
	wait += l.per
	if first, ok := l.room(next, lent, c); ok {
		return wait + first
	}
	if c+lent > l.rate {
		return never
	}
	return wait + l.per
}

// slidingReset returns when no window counts any more.
func (l *limit) slidingReset(v level, now uint64) uint64 {
	previous, current, next := windows(v)
	left := l.per - now%l.per // of the running window
	switch {
	case next > 0:
		return left + 2*l.per
	case current > 0:
		return left + l.per
	case previous > 0:
		return left
	}
	return 0
}

func (l *limit) chargeSliding(v *level, now uint64, cost int64, wait uint64) bool {
	if wait >= 2*l.per {
		return false
	}
	previous, current, next := windows(*v)
	switch (now%l.per + wait) / l.per {
	case 0:
		current += uint64(cost)
	case 1:
		next += uint64(cost)
	default:
		return false
	}
	if current > maxBurst || next > maxBurst {
		return false
	}
	*v = level{tokens: int64(current), frac: previous<<32 | next}
	return true
}

// refundSliding gives back what was charged last first.
func (l *limit) refundSliding(v *level, tokens int64) (given int64) {
	previous, current, next := windows(*v)
	for _, w := range []*uint64{&next, &current, &previous} {
		n := min(tokens-given, int64(*w))
		*w -= uint64(n)
		given += n
	}
	*v = level{tokens: int64(current), frac: previous<<32 | next}
	return given
}

// giveBackSliding gives back what was charged to the window of the stamp made.
func (l *limit) giveBackSliding(v *level, now uint64, tokens int64, made uint64) (given int64) {
	previous, current, next := windows(*v)
	switch now/l.per - made/l.per {
	case 0:
		given = min(tokens, int64(current))
		current -= uint64(given)
	case 1:
		given = min(tokens, int64(previous))
		previous -= uint64(given)
	}
	*v = level{tokens: int64(current), frac: previous<<32 | next}
	return given
}
