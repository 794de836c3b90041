package fsm

import "github.com/rlstore/rlstore/api"

// The concurrency limit: at most burst permits live at once. A permit takes one
// slot, whatever its cost, and gives it back when it is released or expires; see
// [hold].
//
// The level of a record is always that of a fresh bucket: what counts is the
// permits themselves. So, in memory only, a level is, as tokens, the slots that
// are free, and, as frac, the stamp at which the next one is if no permit is
// renewed or released before; it means something only if none is free now.

func (l *limit) checkSlots(v level) ResetReason {
	if v.tokens != l.burst || v.frac != 0 {
		return ResetBadTokens
	}
	return ResetNone
}

func (l *limit) slotWait(v level, now uint64) uint64 {
	if v.tokens >= 1 {
		return 0
	}
	return v.frac - now
}

// countPermits notes the permits that live in a bucket.
func (m *Buckets) countPermits(b *bucket, key string) {
	if !b.set.concurrency {
		return
	}
	b.permits = m.holds.permits(b.set.policy, key, m.last)
	held := int64(len(b.permits))
	for i := range b.set.limits {
		l := &b.set.limits[i]
		if l.algorithm != api.Concurrency {
			continue
		}
		v := level{tokens: l.burst - held}
		if v.tokens < 1 {
			v.frac = b.permits[held-l.burst].expires
		}
		b.lim[i] = v
	}
}

// withoutPermits makes b what a record holds.
func (b *bucket) withoutPermits() {
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm == api.Concurrency {
			b.lim[i] = level{tokens: l.burst}
		}
	}
}

// admits says whether every limit has a slot or cost tokens, whichever it
// counts.
func (b *bucket) admits(cost int64) bool {
	for i := range b.set.limits {
		l, want := &b.set.limits[i], cost
		if l.algorithm == api.Concurrency {
			want = 1
		}
		if l.left(b.lim[i], b.at) < want {
			return false
		}
	}
	return true
}

// describePermits completes what describe tells: all slots are free when the
// last permit has expired.
func (b *bucket) describePermits(res *api.Result) {
	var last uint64
	if n := len(b.permits); n > 0 {
		last = b.permits[n-1].expires - b.at.now
	}
	for i := range b.set.limits {
		if b.set.limits[i].algorithm == api.Concurrency {
			res.Limits[i].ResetAfter = micros(last)
		}
	}
}
