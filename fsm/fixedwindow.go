package fsm

import "math"

// The fixed window: at most rate tokens are for those who act inside one window
// of the calendar; see calendar.go.
//
// A level is the tokens that are left of the window, and, as frac, the window's
// start, which may be before 1970. Tokens below 0 are for windows to come: each
// one that begins pays rate of the debt, and has for others what it keeps.
//
// A take that waits is charged to the window in which its wait ends, whole: what
// is left of those before goes to nobody, for else a window would serve both the
// rest and those who waited for it. Hence also that nobody overtakes who waits.

func (l *limit) freshWindow(wall int64) level {
	return level{tokens: l.burst, frac: uint64(l.start(wall))}
}

func (l *limit) checkWindow(v level) ResetReason {
	switch start := int64(v.frac); {
	case v.tokens > l.burst || v.tokens < l.burst-maxBurst:
		return ResetBadTokens
	case start < -2*maxPer || start > maxWall:
		return ResetBadFraction
	}
	return ResetNone
}

// turn brings the level into the window of wall. Each window that begins brings
// what is not leased; where nothing is left to bring, a debt stays as it is.
func (l *limit) turn(v *level, wall, leased int64) {
	start := l.start(wall)
	if start <= int64(v.frac) {
		return
	}
	switch brings := l.burst - leased; {
	case v.tokens >= 0:
		v.tokens = brings
	case brings <= 0:
		v.tokens = min(v.tokens, brings)
	default:
		n := l.starts(int64(v.frac), start)
		if n < windowsUntil(v.tokens, brings, brings) {
			v.tokens += n * brings
		} else {
			v.tokens = brings
		}
	}
	v.frac = uint64(start)
}

// windowsUntil returns how many windows must begin until there are want tokens,
// more than there are now and no more than each window brings.
func windowsUntil(tokens, want, brings int64) int64 {
	if tokens >= 0 {
		return 1
	}
	return (want - tokens + brings - 1) / brings
}

func (l *limit) windowWait(v level, wall, cost, leased int64) uint64 {
	if v.tokens >= cost {
		return 0
	}
	brings := l.burst - leased
	if cost > brings {
		return never
	}
	start, ok := l.nth(int64(v.frac), windowsUntil(v.tokens, cost, brings))
	if !ok {
		return never
	}
	return uint64(start - wall)
}

func (l *limit) chargeWindow(v *level, wall, cost int64, wait uint64) bool {
	if wait == 0 {
		v.tokens -= cost
		return true
	}
	if wait > maxWall-uint64(wall) {
		return false
	}
	n := l.starts(int64(v.frac), wall+int64(wait))
	switch {
	case n <= 0:
		v.tokens -= cost
	case n > math.MaxInt32:
		return false
	default:
		v.tokens = min(v.tokens, 0, -(n-1)*l.burst) - cost
	}
	return v.tokens >= l.burst-maxBurst
}
