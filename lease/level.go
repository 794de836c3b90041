package lease

import (
	"math/bits"

	"github.com/rlstore/rlstore/api"
)

// level is the state of one limit of a local bucket, in integers.
//
// Of a token bucket, tokens are whole tokens and frac a fraction, in units of
// 1/per token, as in the store. Of windows, tokens are those left of the one
// that ends at end; with end 0 nobody has taken of any yet, and the first take
// begins one. Below 0 tokens are a debt, which refill or later windows pay.
//
// A sliding window is taken for a fixed one between two answers of the store,
// which say where it stands.
type level struct {
	tokens int64
	frac   uint64
	end    int64
}

const (
	deepest   = -1 << 31             // of a debt
	longMonth = 31 * 24 * 3600 * 1e9 // nanoseconds of a month whose end the store has not told
	forever   = int64(1) << 61       // nanoseconds; added to a time it does not overflow
	never     = forever              // the wait for what does not come
)

func isWindow(l *api.LimitInfo) bool { return l.Algorithm != api.TokenBucket }

// period is the nanoseconds in which a limit's rate comes.
func period(l *api.LimitInfo) int64 {
	if l.Per == 0 {
		return longMonth
	}
	return l.Per
}

// advance brings v from one time to a later one.
func (v *level) advance(l *api.LimitInfo, from, to int64) {
	switch {
	case !isWindow(l):
		v.refill(l, uint64(max(0, to-from)))
	case v.end != 0 && to >= v.end:
		n := (to-v.end)/period(l) + 1 // windows that have begun
		if v.tokens >= 0 || n > (l.Burst-v.tokens)/l.Burst {
			v.tokens = l.Burst
		} else {
			v.tokens = min(l.Burst, v.tokens+n*l.Burst)
		}
		v.end += n * period(l)
	}
}

// refill adds what flows in during dt nanoseconds.
func (v *level) refill(l *api.LimitInfo, dt uint64) {
	hi, lo := bits.Mul64(uint64(l.Rate), dt)
	lo, carry := bits.Add64(lo, v.frac, 0)
	hi += carry
	if hi >= uint64(l.Per) { // 2^64 tokens and more
		*v = level{tokens: l.Burst}
		return
	}
	tokens, frac := bits.Div64(hi, lo, uint64(l.Per))
	if v.tokens >= l.Burst || tokens >= uint64(l.Burst-v.tokens) {
		*v = level{tokens: l.Burst}
		return
	}
	v.tokens, v.frac = v.tokens+int64(tokens), frac
}

// less tells whether v has less than w, of the same token bucket.
func (v level) less(w level) bool {
	return v.tokens < w.tokens || v.tokens == w.tokens && v.frac < w.frac
}

// charge takes tokens out, into debt if need be.
func (v *level) charge(l *api.LimitInfo, now, tokens int64) {
	if tokens > 0 && v.end == 0 && isWindow(l) {
		v.end = now + period(l)
	}
	v.tokens = max(v.tokens-tokens, deepest)
}

// refund puts tokens in, up to the burst.
func (v *level) refund(l *api.LimitInfo, tokens int64) {
	if v.tokens += tokens; v.tokens >= l.Burst {
		v.tokens, v.frac = l.Burst, 0
	}
}

// wait is the nanoseconds after which there are want tokens; want is at most the
// burst.
func (v *level) wait(l *api.LimitInfo, now, want int64) int64 {
	switch {
	case v.tokens >= want:
		return 0
	case !isWindow(l):
		hi, lo := bits.Mul64(uint64(want-v.tokens), uint64(l.Per))
		lo, borrow := bits.Sub64(lo, v.frac, 0)
		hi -= borrow
		lo, carry := bits.Add64(lo, uint64(l.Rate)-1, 0) // round up
		hi += carry
		if hi >= uint64(l.Rate) {
			return never
		}
		ns, _ := bits.Div64(hi, lo, uint64(l.Rate))
		return int64(min(ns, uint64(never)))
	case v.end == 0:
		return never // of a window that nobody began there is all
	}
	n := int64(1) // windows that must begin
	if v.tokens < 0 {
		n = (want - v.tokens + l.Burst - 1) / l.Burst
	}
	if n > forever/period(l) {
		return never
	}
	return v.end - now + (n-1)*period(l)
}

// told is the level that an answer of the store describes, as of now. It is no
// fuller than the bucket is, for the store rounds against the caller.
func (v *level) told(l *api.LimitInfo, now int64, a api.LimitValues) {
	retry, reset := nanos(a.RetryAfter), nanos(a.ResetAfter)
	if !isWindow(l) {
		*v = lacking(l, reset)
		// Where a fraction is lost to rounding, whole tokens are what counts.
		if a.Remaining > 0 && v.tokens != a.Remaining || a.Remaining == 0 && v.tokens > 0 {
			*v = level{tokens: a.Remaining}
		}
		return
	}
	switch {
	case a.Remaining >= l.Burst:
		v.tokens = l.Burst // and the windows stay where they are
	case a.Remaining > 0 || retry == 0:
		v.tokens, v.end = a.Remaining, now+min(reset, period(l))
	case retry >= reset: // the next window to be there is whole
		v.tokens, v.end = 0, now+retry
	default: // it is in debt: of the next one there is one token at least
		v.tokens, v.end = 1-l.Burst, now+retry
	}
}

// lacking is the level of a token bucket that is full after so many nanoseconds.
func lacking(l *api.LimitInfo, reset int64) level {
	hi, lo := bits.Mul64(uint64(l.Rate), uint64(reset))
	if hi >= uint64(l.Per) {
		return level{tokens: deepest}
	}
	tokens, frac := bits.Div64(hi, lo, uint64(l.Per))
	if frac > 0 {
		tokens, frac = tokens+1, uint64(l.Per)-frac
	}
	if tokens > uint64(l.Burst-deepest) {
		return level{tokens: deepest}
	}
	return level{tokens: l.Burst - int64(tokens), frac: frac}
}

// nanos is the nanoseconds of microseconds, as far as times are counted here.
func nanos(us uint64) int64 { return int64(min(us, uint64(forever)/1000) * 1000) }
