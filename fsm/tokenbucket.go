package fsm

import "math/bits"

// The token bucket, in integers.
//
// A level is a number of whole tokens and a fraction, frac, in units of 1/per
// token. Tokens below 0 are a debt, made by an edit of the policy or by a take
// that waits; frac < per; frac == 0 when tokens == burst.
//
// In dt nanoseconds rate*dt such units flow in, per of them are a token, and
// none is ever rounded away: over any interval a saturated bucket admits
// exactly burst + floor(rate*elapsed/per). Products have 128 bits.

// full is the level of a fresh bucket.
func (l *limit) full() level { return level{tokens: l.burst} }

func (l *limit) checkBucket(v level) ResetReason {
	switch {
	case v.tokens > l.burst || v.tokens < l.burst-maxBurst:
		return ResetBadTokens
	case v.frac >= l.per || v.frac != 0 && v.tokens == l.burst:
		return ResetBadFraction
	}
	return ResetNone
}

// refill adds what flows in during dt nanoseconds.
func (l *limit) refill(v *level, dt uint64) {
	if dt == 0 || v.tokens == l.burst {
		return
	}
	hi, lo := bits.Mul64(l.rate, dt)
	lo, carry := bits.Add64(lo, v.frac, 0)
	hi += carry
	if hi >= l.per { // 2^64 tokens and more
		*v = l.full()
		return
	}
	tokens, frac := bits.Div64(hi, lo, l.per)
	if tokens >= uint64(l.burst-v.tokens) {
		*v = l.full()
		return
	}
	v.tokens += int64(tokens)
	v.frac = frac
}

// untilTokens returns the smallest number of nanoseconds after which there are
// want tokens, want being at most the burst.
func (l *limit) untilTokens(v level, want int64) uint64 {
	if v.tokens >= want {
		return 0
	}
	hi, lo := bits.Mul64(uint64(want-v.tokens), l.per)
	lo, borrow := bits.Sub64(lo, v.frac, 0)
	hi -= borrow
	lo, carry := bits.Add64(lo, l.rate-1, 0) // round up
	hi += carry
	if hi >= l.rate {
		return never
	}
	ns, _ := bits.Div64(hi, lo, l.rate)
	return ns
}

// refundBucket adds tokens up to the burst and returns how many went in.
func (l *limit) refundBucket(v *level, tokens int64) int64 {
	if room := l.burst - v.tokens; tokens >= room {
		*v = l.full()
		return room
	}
	v.tokens += tokens
	return tokens
}

// editBucket carries the level over to the numbers of to: the fraction is
// rounded down to to's units.
func (l *limit) editBucket(v level, to *limit) level {
	consumed := l.burst - v.tokens
	if consumed <= 0 {
		return to.full()
	}
	hi, lo := bits.Mul64(v.frac, to.per)
	frac, _ := bits.Div64(hi, lo, l.per) // hi < l.per, since v.frac < l.per and to.per < 2^64
	return level{tokens: to.burst - consumed, frac: frac}
}

// micros rounds nanoseconds up to microseconds.
func micros(ns uint64) uint64 {
	us := ns / 1000
	if ns%1000 != 0 {
		us++
	}
	return us
}
