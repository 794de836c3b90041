package fsm

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// TestWindowsAreThoseOfTheCalendar walks windows one by one, by Go's time
// package, and compares start, starts and nth; half of the walks begin just
// before a shift of the zone.
func TestWindowsAreThoseOfTheCalendar(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, name := range zones {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := policy.ZoneRules(name, zoneRulesFrom)
		if err != nil {
			t.Fatal(err)
		}
		for _, per := range []int64{60 * second, 3600 * second, 7 * 3600 * second, 24 * 3600 * second, 0} {
			info := api.LimitInfo{Algorithm: api.FixedWindow, Rate: 1, Per: per, Burst: 1}
			l := limit{rate: 1, per: uint64(per), burst: 1, algorithm: api.FixedWindow, zone: newZone(rules)}
			for range 30 {
				at := zoneRulesFrom.UnixNano() + r.Int64N(15*365*day)
				if len(rules) > 1 && r.IntN(2) == 0 { // not one of the last: the walk would outlast the rules
					at = rules[1+r.IntN(len(rules)*3/4)].At()*second - r.Int64N(3*3600*second)
				}
				m := &fixedModel{l: info, loc: loc}
				first, end := m.window(at)
				start := first
				for n := int64(0); n < 6; n++ {
					inside := start + r.Int64N(end-start)
					if got := l.start(inside); got != start {
						t.Fatalf("%s, per %d: %v lies in the window of %v, want %v", name, per, time.Unix(0, inside).In(loc), time.Unix(0, got).In(loc), time.Unix(0, start).In(loc))
					}
					if got := l.starts(first, inside); got != n {
						t.Fatalf("%s, per %d: %d windows begin between %v and %v, want %d", name, per, got, time.Unix(0, first).In(loc), time.Unix(0, inside).In(loc), n)
					}
					if got, ok := l.nth(first, n+1); !ok || got != end {
						t.Fatalf("%s, per %d: window %d after %v begins at %v, %v, want %v", name, per, n+1, time.Unix(0, first).In(loc), time.Unix(0, got).In(loc), ok, time.Unix(0, end).In(loc))
					}
					start, end = end, m.after(end)
				}
			}
		}
	}
}

// TestDaysAndHoursOfAShift spells out what the zones do to windows.
func TestDaysAndHoursOfAShift(t *testing.T) {
	const hour = 3600 * second
	for _, tt := range []struct {
		zone, at string // UTC
		per      int64
		start    string
		length   int64
	}{
		{"Europe/Berlin", "2026-03-29T12:00:00Z", day, "2026-03-28T23:00:00Z", 23 * hour},
		{"Europe/Berlin", "2026-10-25T12:00:00Z", day, "2026-10-24T22:00:00Z", 25 * hour},
		{"Europe/Berlin", "2026-10-25T00:30:00Z", hour, "2026-10-25T00:00:00Z", hour}, // 2 o'clock
		{"Europe/Berlin", "2026-10-25T01:30:00Z", hour, "2026-10-25T01:00:00Z", hour}, // and again
		{"America/New_York", "2026-03-08T12:00:00Z", day, "2026-03-08T05:00:00Z", 23 * hour},
		{"Asia/Kolkata", "2026-03-08T12:00:00Z", day, "2026-03-07T18:30:00Z", 24 * hour},
		{"Australia/Lord_Howe", "2026-04-04T20:00:00Z", day, "2026-04-04T13:00:00Z", 24*hour + hour/2},
		{"Australia/Lord_Howe", "2026-04-04T15:15:00Z", hour, "2026-04-04T14:00:00Z", hour + hour/2},
		{"Europe/Berlin", "2026-03-15T00:00:00Z", 0, "2026-02-28T23:00:00Z", 31*day - hour},
		{"UTC", "2028-02-10T00:00:00Z", 0, "2028-02-01T00:00:00Z", 29 * day},
	} {
		rules, err := policy.ZoneRules(tt.zone, zoneRulesFrom)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := time.Parse(time.RFC3339, tt.at)
		l := limit{rate: 1, per: uint64(tt.per), burst: 1, algorithm: api.FixedWindow, zone: newZone(rules)}
		start := l.start(at.UnixNano())
		end, _ := l.nth(start, 1)
		if got := time.Unix(0, start).UTC().Format(time.RFC3339); got != tt.start || end-start != tt.length {
			t.Errorf("%s in %s, per %v: the window begins at %s and lasts %v; want %s, %v",
				tt.at, tt.zone, time.Duration(tt.per), got, time.Duration(end-start), tt.start, time.Duration(tt.length))
		}
	}
}
