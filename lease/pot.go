package lease

import (
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
)

// pot is tokens that may be spent from memory until a time. It is the one place
// where takes of many goroutines meet: an atomic number, and no lock.
//
// Its tokens are counted already, by the store or by a local bucket, so whoever
// takes them out admits nothing that is not paid for.
type pot struct {
	tokens atomic.Int64 // left; closed once nobody may take any more
	asked  atomic.Bool  // more was asked for, since this one runs low

	// Fixed.
	until   int64 // nothing is spent from then on
	granted int64 // tokens at first
	low     int64 // with less than this left, more is asked for
	beside  int64 // tokens that the bucket has beside the pot, as last told
	binding int   // the limit that binds, of told.Set
	told    *Told

	// When the bucket is full again if nobody spends: at resetAt, and each
	// token that leaves the pot adds perToken nanoseconds.
	resetAt, perToken int64

	// Of a lease.
	id   api.HoldID
	made int64 // when it was asked for

	counted int64 // tokens spent that the demand has counted; guarded by the entry
}

const closed = -1

// spend takes cost tokens out, all or none.
func (p *pot) spend(cost int64) (left int64, ok bool) {
	for {
		have := p.tokens.Load()
		if have < cost {
			return 0, false
		}
		if p.tokens.CompareAndSwap(have, have-cost) {
			return have - cost, true
		}
	}
}

// put gives back tokens that were spent from this pot. It is false if that
// cannot be: it is closed, or they came from elsewhere.
func (p *pot) put(tokens int64) bool {
	for {
		have := p.tokens.Load()
		if have < 0 || have+tokens > p.granted {
			return false
		}
		if p.tokens.CompareAndSwap(have, have+tokens) {
			return true
		}
	}
}

// spent is the tokens that were spent so far, of a pot that is not closed.
func (p *pot) spent() int64 { return p.granted - max(0, p.tokens.Load()) }

// close ends the pot, once, and returns the tokens that were spent from it.
func (p *pot) close() (spent int64) { return p.granted - p.tokens.Swap(closed) }

// denial is a refusal that is remembered: takes of cost need not ask before until.
//
// In a bucket of this process, where asking costs little, that holds as long as
// nothing is spent. Where the store is to be asked, it holds for larger takes too,
// which are told to wait perToken nanoseconds longer for each token.
type denial struct {
	cost     int64
	exact    bool // it is of this process
	pot      *pot // then: what lay in front, of which nothing was spent; or nil
	until    int64
	retryAt  int64 // when a take of cost may pass
	perToken int64
	resetAt  int64
	left     int64
	binding  int
	told     *Told
}

// front is what most takes meet: a pot, and the last denial. Either may be nil.
type front struct {
	pot    atomic.Pointer[pot]
	denial atomic.Pointer[denial]
}

// allowed is the outcome of a take that left so many tokens in the pot.
func (p *pot) allowed(now, left int64) Outcome {
	return Outcome{
		Verdict: Allowed, Binding: p.binding, Told: p.told, Left: left + p.beside,
		ResetAfter: max(0, p.resetAt-now) + (p.granted-left)*p.perToken,
	}
}

// denied is the denial that holds for a take, or nil.
func (f *front) denied(now, cost int64) *denial {
	d := f.denial.Load()
	switch {
	case d == nil || now >= d.until || cost < d.cost:
		return nil
	case !d.exact:
		return d
	case cost != d.cost || d.pot != f.pot.Load() || d.pot != nil && d.pot.tokens.Load() != d.pot.granted:
		return nil
	}
	return d
}

func (d *denial) outcome(now, cost int64) Outcome {
	return Outcome{
		Verdict: Denied, Binding: d.binding, Told: d.told, Left: d.left,
		RetryAfter: max(1, d.retryAt-now) + (cost-d.cost)*d.perToken, ResetAfter: max(1, d.resetAt-now),
	}
}

// take decides by what lies in front, if that suffices.
func (f *front) take(now, cost int64) (out Outcome, ok bool) {
	if p := f.pot.Load(); p != nil && now < p.until {
		if left, ok := p.spend(cost); ok {
			return p.allowed(now, left), true
		}
	}
	if d := f.denied(now, cost); d != nil {
		return d.outcome(now, cost), true
	}
	return Outcome{}, false
}
