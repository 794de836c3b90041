package check

import (
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// The token bucket, as the contract has it: in per nanoseconds rate tokens flow
// in, until there are burst. A level is counted in units of 1/per token, in
// which everything is a whole number: in dt nanoseconds rate*dt units flow in,
// and a token is per of them.

// numbers is a set of limits: a policy at a revision.
type numbers struct {
	policy   string
	revision uint64
	limits   []limit
	smallest int64    // of the bursts: the largest cost that can pass
	refusal  api.Code // why it can't decide; empty if it can
	shadow   bool     // a denial lets pass
	off      bool     // a take passes, and is not charged
	permits  bool     // a limit is of concurrency: no take is answered
	leaseTTL int64    // milliseconds that a lease lives at most, or 0
	mode     uint8    // as package api numbers them; auto is leased here
}

type limit struct {
	name      string
	algorithm uint8           // as package api numbers them
	rate, per int64           // tokens in each per nanoseconds; of a fixed window, 0 is a month
	burst     int64           // tokens: of a window the rate, of a concurrency limit the permits
	zone      []api.ZoneShift // of a fixed window

	bigRate, bigPer *big.Int
	full            *big.Int // units
}

// The bounds of a limit, as fsm documents them. A set outside decides nothing.
const (
	maxLimits = 16
	maxNumber = math.MaxInt32                   // of a rate and a burst
	minPer    = 1_000_000                       // 1 ms
	maxPer    = 366 * 24 * 3600 * 1_000_000_000 // 366 days
)

// complete fills in what follows from the numbers.
func (s *numbers) complete() {
	names := map[string]bool{}
	s.smallest = api.MaxCost
	for i := range s.limits {
		l := &s.limits[i]
		l.bigRate, l.bigPer = big.NewInt(l.rate), big.NewInt(l.per)
		l.full = new(big.Int).Mul(big.NewInt(l.burst), l.bigPer)
		if l.algorithm == api.Concurrency {
			s.permits = true // which take a slot, whatever their cost
		} else {
			s.smallest = min(s.smallest, l.burst)
		}
		if !l.sane() || names[l.name] {
			s.refusal = api.InvalidRequest
		}
		names[l.name] = true
	}
	switch {
	case len(s.limits) == 0: // "A set with no limits is that of an unknown policy."
		s.refusal = api.UnknownPolicy
	case len(s.limits) > maxLimits:
		s.refusal = api.InvalidRequest
	}
}

// sane says whether the numbers are within bounds.
func (l *limit) sane() bool {
	within := l.burst >= 1 && l.burst <= maxNumber
	if l.algorithm == api.Concurrency {
		return within && l.rate == 0 && l.per == 0
	}
	month := l.algorithm == api.FixedWindow && l.per == 0
	return within && l.algorithm < api.Concurrency && l.rate >= 1 && l.rate <= maxNumber &&
		(l.per >= minPer && l.per <= maxPer || month) && (l.algorithm == api.TokenBucket || l.burst == l.rate)
}

// same says whether two sets have the same numbers under the same names.
func (s *numbers) same(o *numbers) bool {
	if s.policy != o.policy || s.revision != o.revision || len(s.limits) != len(o.limits) {
		return false
	}
	for i := range s.limits {
		a, b := &s.limits[i], &o.limits[i]
		if a.name != b.name || a.algorithm != b.algorithm || a.rate != b.rate || a.per != b.per || a.burst != b.burst || !slices.Equal(a.zone, b.zone) {
			return false
		}
	}
	return true
}

func (s *numbers) String() string {
	text := fmt.Sprintf("%s@%d", s.policy, s.revision)
	for _, l := range s.limits {
		text += fmt.Sprintf(" %s=%d/%dns/%d", l.name, l.rate, l.per, l.burst)
	}
	return text
}

// resolve returns the numbers of a document.
func resolve(p *api.Policy) *numbers {
	s := &numbers{policy: p.Name, revision: p.Revision} // whose enforcement is also the cluster's matter
	switch p.Mode {
	case "leased", "auto":
		s.mode = api.Leased
	case "soft":
		s.mode = api.Soft
	}
	for _, l := range p.Limits {
		n := limit{name: l.Name, rate: l.Rate, per: int64(l.Per), burst: l.Burst}
		switch l.Algorithm {
		case "fixed_window":
			n.algorithm, n.burst, n.zone = api.FixedWindow, l.Rate, p.ZoneRules
			if l.Per == api.Month {
				n.per = 0
			}
		case "sliding_window":
			n.algorithm, n.burst = api.SlidingWindow, l.Rate
		case "concurrency":
			n.algorithm, n.burst = api.Concurrency, l.Max
		}
		s.limits = append(s.limits, n)
	}
	s.complete()
	return s
}

// refill lets dt nanoseconds pass.
func (l *limit) refill(v *big.Int, dt uint64) {
	if dt == 0 || v.Cmp(l.full) >= 0 {
		return
	}
	in := new(big.Int).SetUint64(dt)
	v.Add(v, in.Mul(in, l.bigRate))
	l.cap(v)
}

func (l *limit) cap(v *big.Int) {
	if v.Cmp(l.full) > 0 {
		v.Set(l.full)
	}
}

// give adds tokens, as many as fit.
func (l *limit) give(v *big.Int, tokens int64) {
	l.charge(v, -tokens)
	l.cap(v)
}

func (l *limit) charge(v *big.Int, tokens int64) {
	n := big.NewInt(tokens)
	v.Sub(v, n.Mul(n, l.bigPer))
}

// tokens is the whole tokens in v, rounded down, below 0 for a debt.
func (l *limit) tokens(v *big.Int) int64 {
	// Div rounds down when the divisor is positive.
	return new(big.Int).Div(v, l.bigPer).Int64()
}

// wait is the smallest number of nanoseconds after which want tokens are there,
// at most 2^64-1.
func (l *limit) wait(v *big.Int, want int64) uint64 {
	missing := big.NewInt(want)
	missing.Mul(missing, l.bigPer).Sub(missing, v)
	return l.time(missing)
}

// untilFull is the wait for the whole burst.
func (l *limit) untilFull(v *big.Int) uint64 { return l.time(new(big.Int).Sub(l.full, v)) }

// time is how long units take to flow in, rounded up.
func (l *limit) time(units *big.Int) uint64 {
	if units.Sign() <= 0 {
		return 0
	}
	units.Add(units, big.NewInt(l.rate-1)).Quo(units, l.bigRate)
	if !units.IsUint64() {
		return math.MaxUint64
	}
	return units.Uint64()
}

// edit carries a level over to other numbers: "what is consumed, the old burst
// less the tokens, stays consumed. [...] The fraction of a token is rescaled to
// the new period, rounded down."
func (l *limit) edit(v *big.Int, to *limit) *big.Int {
	n := new(big.Int).Mul(v, to.bigPer)
	n.Div(n, l.bigPer)
	return n.Add(n, new(big.Int).Mul(big.NewInt(to.burst-l.burst), to.bigPer))
}

// millis is nanoseconds as an answer tells them: in milliseconds, rounded up.
// That they were microseconds in between, rounded up as well, makes no
// difference.
func millis(ns uint64) int64 {
	ms := ns / 1e6
	if ns%1e6 != 0 {
		ms++
	}
	return int64(ms)
}
