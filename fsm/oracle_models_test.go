package fsm

import (
	"maps"
	"math/big"
	"time"

	"github.com/rlstore/rlstore/api"
)

// The oracle's limits, one type for each algorithm, written from the words of
// docs/policies.md: rationals of any size, windows found by Go's time package,
// and every wait by trying.

type model interface {
	clone() model
	advance(now uint64, wall int64)
	left() *big.Int                        // whole tokens; below 0 is a debt
	wait(cost int64) *big.Int              // nanoseconds
	charge(cost int64, wait *big.Int) bool // false: it lends no more
	refund(n int64) int64
	untilFresh() *big.Int
	consumed() int64

	lease(n int64) int64 // n tokens are out from now on; returns by how many there are fewer now
	unlease(n int64)     // so many come back of a lease that is over
	owe(n int64)         // so many were spent already
}

func freshModel(l api.LimitInfo, loc *time.Location, now uint64, wall int64) model {
	switch l.Algorithm {
	case api.FixedWindow:
		m := &fixedModel{l: l, loc: loc, wall: wall}
		m.start, m.end = m.window(wall)
		return m
	case api.SlidingWindow:
		return &slidingModel{l: l, now: now, used: map[uint64]int64{}}
	}
	return &tokenModel{l: l, now: now, tokens: rat(l.Burst)}
}

// editModel carries m over to other numbers.
func editModel(m model, to api.LimitInfo, loc *time.Location, now uint64, wall int64) model {
	var from api.LimitInfo
	switch m := m.(type) {
	case *tokenModel:
		if from = m.l; to.Algorithm == api.TokenBucket {
			left := new(big.Rat).Sub(rat(to.Burst), new(big.Rat).Sub(rat(from.Burst), m.tokens))
			// Only multiples of 1/per exist: what is between is lost.
			units := floor(new(big.Rat).Mul(left, rat(to.Per)))
			return &tokenModel{l: to, now: now, tokens: new(big.Rat).SetFrac(units, big.NewInt(to.Per))}
		}
	case *fixedModel:
		if from = m.l; to.Algorithm == api.FixedWindow && from.Per == to.Per && m.loc.String() == loc.String() {
			c := *m // the same window, whose used tokens stay
			c.l = to
			return &c
		}
	case *slidingModel:
		if from = m.l; to.Algorithm == api.SlidingWindow && from.Per == to.Per {
			c := m.clone().(*slidingModel)
			c.l = to
			return c
		}
	}
	used := min(m.consumed(), maxBurst)
	edited := freshModel(to, loc, now, wall)
	if used > 0 {
		switch e := edited.(type) {
		case *tokenModel:
			e.tokens.Sub(e.tokens, rat(used))
		case *fixedModel:
			e.used = used
		case *slidingModel:
			e.used[now/uint64(to.Per)] = used
		}
	}
	return edited
}

// tokenModel is a token bucket.
type tokenModel struct {
	l      api.LimitInfo
	now    uint64
	tokens *big.Rat
	leased int64
}

func (m *tokenModel) clone() model {
	return &tokenModel{m.l, m.now, new(big.Rat).Set(m.tokens), m.leased}
}

func (m *tokenModel) advance(now uint64, _ int64) {
	flow := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(m.l.Rate), new(big.Int).SetUint64(now-m.now)), big.NewInt(m.l.Per))
	m.tokens, m.now = minRat(rat(m.l.Burst-m.leased), flow.Add(flow, m.tokens)), now
}

func (m *tokenModel) left() *big.Int { return floor(m.tokens) }

func (m *tokenModel) wait(n int64) *big.Int {
	lack := new(big.Rat).Sub(rat(n), m.tokens)
	if lack.Sign() <= 0 {
		return new(big.Int)
	}
	return ceil(lack.Mul(lack, big.NewRat(m.l.Per, m.l.Rate)))
}

func (m *tokenModel) charge(cost int64, _ *big.Int) bool {
	m.tokens = new(big.Rat).Sub(m.tokens, rat(cost))
	return floor(m.tokens).Cmp(big.NewInt(m.l.Burst-maxBurst)) >= 0
}

func (m *tokenModel) refund(n int64) int64 {
	before := floor(m.tokens)
	m.tokens = minRat(rat(m.l.Burst), new(big.Rat).Add(m.tokens, rat(n)))
	return before.Sub(floor(m.tokens), before).Int64()
}

func (m *tokenModel) untilFresh() *big.Int { return m.wait(m.l.Burst) }

func (m *tokenModel) consumed() int64 { return m.l.Burst - floor(m.tokens).Int64() }

// fixedModel is a fixed window: used tokens from start on, of which each window
// holds rate, in their order.
type fixedModel struct {
	l          api.LimitInfo
	loc        *time.Location
	wall       int64
	start, end int64
	used       int64
	leased     int64
}

func (m *fixedModel) clone() model { c := *m; return &c }

// window returns the window around t. Of a zone, it looks at every minute.
func (m *fixedModel) window(t int64) (start, end int64) {
	at := time.Unix(0, t).In(m.loc)
	if m.l.Per == 0 {
		first := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, m.loc)
		return first.UnixNano(), first.AddDate(0, 1, 0).UnixNano()
	}
	local := func(t int64) int64 {
		_, offset := time.Unix(0, t).In(m.loc).Zone()
		return t + int64(offset)*1e9
	}
	div := func(v int64) int64 { return new(big.Int).Div(big.NewInt(v), big.NewInt(m.l.Per)).Int64() }
	if m.loc == time.UTC {
		return div(t) * m.l.Per, (div(t) + 1) * m.l.Per
	}
	const minute = 60e9
	begins := func(t int64) bool {
		return local(t) == div(local(t))*m.l.Per || div(local(t)) != div(local(t-1))
	}
	for start = t - t%minute; !begins(start); {
		start -= minute
	}
	for end = start + minute; !begins(end); {
		end += minute
	}
	return start, end
}

func (m *fixedModel) advance(_ uint64, wall int64) {
	m.wall = wall
	if start, end := m.window(wall); start > m.start {
		if m.leased >= m.l.Rate { // nothing is there to pay with
			m.start, m.end, m.used = start, end, max(m.used, m.leased)
			return
		}
		for m.start < start && m.used > m.l.Rate {
			m.used -= m.l.Rate - m.leased
			m.start, m.end = m.end, m.after(m.end)
		}
		if m.start < start {
			m.start, m.end, m.used = start, end, m.leased
		}
	}
}

func (m *fixedModel) after(start int64) int64 {
	_, end := m.window(start)
	return end
}

func (m *fixedModel) left() *big.Int { return big.NewInt(m.l.Rate - m.used) }

func (m *fixedModel) wait(cost int64) *big.Int {
	at, full := m.start, m.used
	for end := m.end; full+cost > m.l.Rate; end = m.after(end) {
		at, full = end, max(0, full-m.l.Rate)
	}
	if at == m.start {
		return new(big.Int)
	}
	return m.until(at)
}

// until is the time until a window begins, if it can be named.
func (m *fixedModel) until(start int64) *big.Int {
	if _, end := m.window(maxWall); start > end {
		return new(big.Int).SetUint64(never)
	}
	return big.NewInt(start - m.wall)
}

func (m *fixedModel) charge(cost int64, wait *big.Int) bool {
	held := int64(0) // what the windows before that of the take hold, full
	if wait.Sign() > 0 {
		for end := m.end; m.wall+wait.Int64() >= end; end = m.after(end) {
			held += m.l.Rate
		}
	}
	m.used = max(m.used, held) + cost
	return m.used <= maxBurst
}

func (m *fixedModel) refund(n int64) int64 {
	n = min(n, m.used)
	m.used -= n
	return n
}

func (m *fixedModel) untilFresh() *big.Int {
	if m.used == 0 {
		return new(big.Int)
	}
	at := m.end
	for used := m.used; used > m.l.Rate; used -= m.l.Rate {
		at = m.after(at)
	}
	return m.until(at)
}

func (m *fixedModel) consumed() int64 { return m.used }

// slidingModel is a sliding window: what each aligned window used.
type slidingModel struct {
	l      api.LimitInfo
	now    uint64
	used   map[uint64]int64
	leased int64
}

func (m *slidingModel) clone() model { return &slidingModel{m.l, m.now, maps.Clone(m.used), m.leased} }

func (m *slidingModel) per() uint64 { return uint64(m.l.Per) }

func (m *slidingModel) advance(now uint64, _ int64) {
	m.used[m.now/m.per()] -= m.leased // it moves on
	m.now = now
	m.used[m.now/m.per()] += m.leased
}

// passes says whether cost fits at a time in the window of this number.
func (m *slidingModel) passes(window, e uint64, cost int64) bool {
	if m.used[window+1] > 0 {
		return false
	}
	per := rat(m.l.Per)
	before := new(big.Rat).Mul(rat(m.used[window-1]), rat(int64(m.per()-e)))
	own := new(big.Rat).Mul(rat(m.used[window]+cost), per)
	return before.Add(before, own).Cmp(new(big.Rat).Mul(rat(m.l.Rate), per)) <= 0
}

func (m *slidingModel) wait(cost int64) *big.Int {
	window, e := m.now/m.per(), m.now%m.per()
	waited := new(big.Int)
	for {
		if m.passes(window, e, cost) {
			return waited
		}
		if m.passes(window, m.per()-1, cost) {
			low, high := e, m.per()-1 // it passes at high, and not at low
			for high-low > 1 {
				if mid := low + (high-low)/2; m.passes(window, mid, cost) {
					high = mid
				} else {
					low = mid
				}
			}
			return waited.Add(waited, new(big.Int).SetUint64(high-e))
		}
		waited.Add(waited, new(big.Int).SetUint64(m.per()-e))
		window, e = window+1, 0
	}
}

func (m *slidingModel) charge(cost int64, wait *big.Int) bool {
	at := new(big.Int).Add(new(big.Int).SetUint64(m.now), wait)
	window := at.Div(at, big.NewInt(m.l.Per)).Uint64()
	if window > m.now/m.per()+1 {
		return false
	}
	m.used[window] += cost
	return m.used[window] <= maxBurst
}

func (m *slidingModel) refund(n int64) (given int64) {
	window := m.now / m.per()
	for _, w := range []uint64{window + 1, window, window - 1} {
		back := min(n-given, m.used[w])
		m.used[w] -= back
		given += back
	}
	return given
}

func (m *slidingModel) consumed() int64 {
	window := m.now / m.per()
	weight := new(big.Rat).SetFrac(new(big.Int).SetUint64(m.per()-m.now%m.per()), big.NewInt(m.l.Per))
	return ceil(weight.Mul(weight, rat(m.used[window-1]))).Int64() + m.used[window] + m.used[window+1]
}

func (m *slidingModel) left() *big.Int {
	left := m.l.Rate - m.consumed()
	if m.used[m.now/m.per()+1] > 0 {
		left = min(left, 0) // the window is closed
	}
	return big.NewInt(left)
}

func (m *slidingModel) untilFresh() *big.Int {
	window := m.now / m.per()
	for n := int64(2); n >= 0; n-- {
		if m.used[window-1+uint64(n)] > 0 {
			until := new(big.Int).SetUint64(m.per() - m.now%m.per())
			return until.Add(until, new(big.Int).Mul(big.NewInt(n), big.NewInt(m.l.Per)))
		}
	}
	return new(big.Int)
}
