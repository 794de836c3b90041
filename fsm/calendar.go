package fsm

import (
	"math"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// Windows of the calendar, in integers.
//
// Local time is UTC and the offset of the zone at that moment. A window of a
// duration begins where local time, counted from 1970-01-01 00:00, is a multiple
// of it; one of a month where local time is the first instant of a month. Where
// the zone's offset shifts, the window that is running goes on if local time is
// still inside of it and did not come back to its very beginning; else another
// one begins there. So a day has 23 or 25 hours then, and the hour that occurs
// twice in autumn is two windows.
//
// A window is named by its start, in nanoseconds of UTC since 1970.

// maxWall bounds the time of day: the year 2116, so that sums fit 64 bits.
const maxWall = 1 << 62

// zone is a time zone as a list of offsets, each from a moment on. A nil zone is
// UTC.
type zone struct {
	from   []int64 // ascending; the first is the beginning of time
	offset []int64 // nanoseconds east of UTC
}

func newZone(shifts []api.ZoneShift) *zone {
	if len(shifts) == 0 {
		return nil
	}
	z := &zone{}
	for i, s := range shifts {
		from := s.At() * 1e9
		if i == 0 {
			from = math.MinInt64
		}
		z.from = append(z.from, from)
		z.offset = append(z.offset, s.Offset()*1e9)
	}
	return z
}

func (z *zone) same(o *zone) bool {
	if z == nil || o == nil {
		return z == o
	}
	return slices.Equal(z.from, o.from) && slices.Equal(z.offset, o.offset)
}

// at returns the number of the offset that holds at t.
func (z *zone) at(t int64) int {
	if z == nil {
		return 0
	}
	i, found := slices.BinarySearch(z.from, t)
	if found {
		return i
	}
	return i - 1
}

// span returns the offset of this number, when it begins, and when the next one
// does; the last one ends never.
func (z *zone) span(i int) (offset, from, to int64) {
	if z == nil {
		return 0, math.MinInt64, math.MaxInt64
	}
	to = math.MaxInt64
	if i+1 < len(z.from) {
		to = z.from[i+1]
	}
	return z.offset[i], z.from[i], to
}

// label numbers the windows along local time.
func (l *limit) label(local int64) int64 {
	if l.per != 0 {
		return floorDiv(local, int64(l.per))
	}
	year, month := civil(floorDiv(local, day))
	return year*12 + month - 1
}

// begin is the local time at which the window of this label begins.
func (l *limit) begin(label int64) int64 {
	if l.per != 0 {
		return label * int64(l.per)
	}
	year := floorDiv(label, 12)
	return daysUntil(year, label-year*12+1) * day
}

// start returns the start of the window that t lies in.
func (l *limit) start(t int64) int64 {
	for i := l.zone.at(t); ; i-- {
		offset, from, _ := l.zone.span(i)
		label := l.label(t + offset)
		if s := l.begin(label) - offset; s >= from {
			return s
		}
		// It goes on from before the shift, unless another one ended there.
		before, _, _ := l.zone.span(i - 1)
		if l.label(from-1+before) != label {
			return from
		}
		t = from - 1
	}
}

// startsAt says whether a window begins with the shift number i.
func (l *limit) startsAt(i int) bool {
	offset, from, _ := l.zone.span(i)
	before, _, _ := l.zone.span(i - 1)
	label := l.label(from + offset)
	return l.begin(label)-offset == from || l.label(from-1+before) != label
}

// starts counts the windows that begin after a, up to b.
func (l *limit) starts(a, b int64) (n int64) {
	for i := l.zone.at(a); a < b; i++ {
		offset, _, to := l.zone.span(i)
		if b < to {
			return n + l.label(b+offset) - l.label(a+offset)
		}
		n += l.label(to-1+offset) - l.label(a+offset)
		if l.startsAt(i + 1) {
			n++
		}
		a = to
	}
	return n
}

// nth returns the start of the n-th window that begins after t, n being 1 or
// more. It is false for one that is too far away to be named.
func (l *limit) nth(t, n int64) (start int64, ok bool) {
	for i := l.zone.at(t); ; i++ {
		offset, _, to := l.zone.span(i)
		if to != math.MaxInt64 {
			if here := l.label(to-1+offset) - l.label(t+offset); n > here {
				n -= here
				if l.startsAt(i + 1) {
					if n--; n == 0 {
						return to, true
					}
				}
				t = to
				continue
			}
		}
		label := l.label(t+offset) + n
		if last := l.label(maxWall) + 1; label > last {
			return 0, false
		}
		return l.begin(label) - offset, true
	}
}

const day = 24 * 3600 * 1_000_000_000

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// The civil calendar, proleptic and Gregorian, after Howard Hinnant's
// "chrono-compatible low-level date algorithms": years begin in March, so that a
// leap day is a year's last, and 400 of them are an era of 146,097 days.

// civil returns the year and the month, from 1, of a day counted from 1970-01-01.
func civil(days int64) (year, month int64) {
	days += 719_468
	era := floorDiv(days, 146_097)
	doe := days - era*146_097
	yoe := (doe - doe/1460 + doe/36_524 - doe/146_096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	year = yoe + era*400
	if mp < 10 {
		return year, mp + 3
	}
	return year + 1, mp - 9
}

// daysUntil returns the days from 1970-01-01 to the first of a month.
func daysUntil(year, month int64) int64 {
	if month <= 2 {
		year--
	}
	era := floorDiv(year, 400)
	yoe := year - era*400
	mp := (month + 9) % 12
	doe := yoe*365 + yoe/4 - yoe/100 + (153*mp+2)/5
	return era*146_097 + doe - 719_468
}
