package check

import (
	"math"
	"math/big"
	"time"

	"github.com/rlstore/rlstore/api"
)

// The windows, as docs/policies.md has them.

// maxWall is the last time of day that there is, in the year 2116. A window that
// begins after the one behind it never comes.
const maxWall = 1 << 62

// A fixed window. What is charged is one line of tokens, of which each window
// takes rate: so a debt of the window that runs is what the ones behind it pay.

// segment is the number of the offset that holds at t, that offset in
// nanoseconds, and the end of its time.
func (l *limit) segment(t int64) (i int, offset, end int64) {
	end = math.MaxInt64
	for k, z := range l.zone {
		if at := z.At() * 1e9; k > 0 && at > t {
			end = at
			break
		}
		i, offset = k, z.Offset()*1e9
	}
	return i, offset, end
}

// label numbers windows along local time, and labelled is the local time at which
// one begins: "where local time, counted from 1970-01-01 00:00, is a multiple of
// per", or "on the first of a month".
func (l *limit) label(local int64) int64 {
	if l.per == 0 {
		t := time.Unix(0, local).UTC()
		return int64(t.Year()-1970)*12 + int64(t.Month()) - 1
	}
	n := local / l.per
	if local%l.per < 0 {
		n--
	}
	return n
}

func (l *limit) labelled(label int64) int64 {
	if l.per == 0 {
		return time.Date(1970, time.January+time.Month(label), 1, 0, 0, 0, 0, time.UTC).UnixNano()
	}
	return label * l.per
}

// windowOf is the start of the window of t: "A window [...] that local time leaves
// at such a moment ends there, and one that it stays inside of goes on", and "the
// hour that the clocks show twice is two windows".
func (l *limit) windowOf(t int64) int64 {
	for {
		i, offset, _ := l.segment(t)
		label := l.label(t + offset)
		start := l.labelled(label) - offset
		if i == 0 {
			return start
		}
		shift := l.zone[i].At() * 1e9
		if start >= shift {
			return start
		}
		_, before, _ := l.segment(shift - 1)
		if l.label(shift-1+before) != label {
			return shift
		}
		t = shift - 1
	}
}

// windowAfter is the start of the n-th window that begins after t, if it comes.
func (l *limit) windowAfter(t, n int64) (start int64, ok bool) {
	for n > 0 {
		_, offset, end := l.segment(t)
		label := l.label(t + offset)
		if end == math.MaxInt64 || n <= l.label(end-1+offset)-label {
			return l.labelled(min(label+n, l.label(maxWall)+1)) - offset, label+n <= l.label(maxWall)+1
		}
		n -= l.label(end-1+offset) - label
		if t = end; l.windowOf(end) == end {
			n--
		}
	}
	return t, true
}

// windowsUntil counts the windows that begin after a, up to b.
func (l *limit) windowsUntil(a, b int64) (n int64) {
	for a < b {
		_, offset, end := l.segment(a)
		if b < end {
			return n + l.label(b+offset) - l.label(a+offset)
		}
		n += l.label(end-1+offset) - l.label(a+offset)
		if a = end; l.windowOf(end) == end {
			n++
		}
	}
	return n
}

// turn begins the windows up to that of wall.
func (l *limit) turn(v *level, wall, leased int64) {
	if start := l.windowOf(wall); start > v.start {
		if leased > 0 {
			l.turnLeased(v, l.windowsUntil(v.start, start), leased)
		} else if n := l.windowsUntil(v.start, start); n > v.spent[0]/l.rate {
			v.spent[0] = 0
		} else {
			v.spent[0] = max(0, v.spent[0]-n*l.rate)
		}
		v.start = start
	}
}

func (l *limit) untilWindow(v *level, wall, cost int64) uint64 {
	missing := v.spent[0] + cost - l.rate
	if missing <= 0 {
		return 0
	}
	start, ok := l.windowAfter(v.start, (missing+l.rate-1)/l.rate)
	if !ok {
		return math.MaxUint64
	}
	return uint64(start - wall)
}

// spendWindow: "A window charges the tokens where the wait ends: what is left of
// the windows before goes to nobody."
func (l *limit) spendWindow(v *level, wall, cost int64, wait uint64) bool {
	if wait > uint64(maxWall-wall) {
		return false
	}
	n := max(0, l.windowsUntil(v.start, wall+int64(wait)))
	if wait == 0 {
		n = 0
	}
	if n > maxNumber {
		return false
	}
	v.spent[0] = max(v.spent[0], n*l.rate) + cost
	return true
}

// A sliding window: "a take passes if and only if
//
//	previous*(per-e) + (current+cost)*per <= rate*per".

func (l *limit) number(now uint64) int64 { return int64(now / uint64(l.per)) }

func (l *limit) slide(v *level, now uint64, leased int64) {
	for n := l.number(now); v.start < n; v.start++ {
		if v.spent == [3]int64{0, leased, 0} {
			v.start = n
			return
		}
		// "move on to the next one when that begins"
		v.spent = [3]int64{max(0, v.spent[1]-leased), v.spent[2] + leased, 0}
	}
}

// slidingUsed is "what is used in the running window and charged to the next, and
// of the window before what its weight comes to, rounded up".
func (l *limit) slidingUsed(v *level, now uint64) int64 {
	weight := big.NewInt(l.per - int64(now%uint64(l.per)))
	weight.Mul(weight, big.NewInt(v.spent[0])).Add(weight, big.NewInt(l.per-1)).Div(weight, l.bigPer)
	return weight.Int64() + v.spent[1] + v.spent[2]
}

// opens is the smallest e at which a take of cost passes in a window, if there is
// one.
func (l *limit) opens(previous, current, cost int64) (e int64, ok bool) {
	free := l.rate - current - cost
	switch {
	case free < 0:
		return 0, false
	case previous <= free:
		return 0, true
	}
	most := new(big.Int).Mul(big.NewInt(free), l.bigPer) // of previous*(per-e)
	e = l.per - most.Div(most, big.NewInt(previous)).Int64()
	return e, e < l.per
}

func (l *limit) untilSliding(v *level, now uint64, cost int64) uint64 {
	e, spent := int64(now%uint64(l.per)), v.spent
	for begins := -e; ; begins += l.per {
		if at, ok := l.opens(spent[0], spent[1], cost); ok && spent[2] == 0 {
			return uint64(max(0, begins+at))
		}
		spent = [3]int64{spent[1], spent[2], 0}
	}
}

// spendSliding: "A sliding window lends from the next window, and not from one
// beyond".
func (l *limit) spendSliding(v *level, now uint64, cost int64, wait uint64) bool {
	per := uint64(l.per)
	if wait >= 2*per {
		return false
	}
	ahead := (now%per + wait) / per
	if ahead > 1 || v.spent[1+ahead]+cost > maxNumber {
		return false
	}
	v.spent[1+ahead] += cost
	return true
}

// timeOfDay is the clock that a shard goes by in windows of the calendar: cluster
// time and an offset.
type timeOfDay struct {
	set    bool
	offset int64
	at     uint64 // the last correction
	peak   int64  // the latest time that it showed
}

// instant is the time at now. "The time of day never goes back."
func (c timeOfDay) instant(now uint64) instant {
	return instant{now, min(max(c.peak, int64(min(now, maxWall))+c.offset), maxWall)}
}

// correct: "at most a hundredth of the time since the last correction, never by a
// jump", of which no more than ten seconds count; "A shard that holds no such
// window takes a later time over at once."
func (c timeOfDay) correct(measured int64, now uint64, slew bool) timeOfDay {
	step := measured - c.offset
	if c.set {
		most := int64(min(now-c.at, 10e9) / 100)
		if step = max(step, -most); slew {
			step = min(step, most)
		}
	}
	return timeOfDay{true, c.offset + step, now, c.peak}
}

// calendar says whether a limit of the set goes by the time of day.
func (s *numbers) calendar() bool {
	for i := range s.limits {
		if s.limits[i].algorithm == api.FixedWindow {
			return true
		}
	}
	return false
}
