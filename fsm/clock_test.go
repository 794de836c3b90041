package fsm

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// TestCorrectionsBendNoWindowByMoreThanAHundredth: however wrong the leaders'
// clocks are, and however often they tell them, in any span of cluster time the
// time of day moves by that span, give or take a hundredth and clockSlack.
func TestCorrectionsBendNoWindowByMoreThanAHundredth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c clock
		c.correct(rapid.Int64Range(-maxOffset, maxOffset).Draw(t, "first"), 0, true)
		type point struct {
			stamp uint64
			wall  int64
		}
		var seen []point
		now := uint64(maxOffset)
		for range rapid.IntRange(2, 40).Draw(t, "corrections") {
			now += rapid.OneOf(rapid.Uint64Range(0, 2*ClockInterval), rapid.Uint64Range(0, 1000*ClockInterval)).Draw(t, "dt")
			seen = append(seen, point{now, int64(now) + c.offset})
			c.correct(c.offset+rapid.Int64Range(-1000*second, 1000*second).Draw(t, "error"), now, true)
			seen = append(seen, point{now, int64(now) + c.offset})
		}
		for i, a := range seen {
			for _, b := range seen[i:] {
				span := int64(b.stamp - a.stamp)
				if bent := b.wall - a.wall - span; bent > span/100+clockSlack || -bent > span/100+clockSlack {
					t.Fatalf("between %d and %d the time of day moved by %d", a.stamp, b.stamp, b.wall-a.wall)
				}
			}
		}
	})
}

// TestTheTimeOfDayNeverGoesBack, whatever the leaders' clocks show, whether windows
// are held, and also for a replica that begins with a snapshot.
func TestTheTimeOfDayNeverGoesBack(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		r := newRig(t)
		daily := policy.NewSet(api.SetInfo{Policy: "d", Limits: []api.LimitInfo{{Name: "d", Algorithm: api.FixedWindow, Rate: 2, Per: day, Burst: 2}}})
		var now uint64
		wall, most := zoneRulesFrom.UnixNano(), int64(0)
		for range rapid.IntRange(2, 30).Draw(t, "steps") {
			now += rapid.Uint64Range(0, 2*ClockInterval).Draw(t, "dt")
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				r.one(now, daily, take("k", 1))
			case 1:
				r.one(now, daily, api.Op{Kind: api.Reset, Key: "k"})
			case 2:
				m := NewBuckets(testShard)
				if err := m.Restore(bytes.NewReader(takeSnapshot(tt, r.m))); err != nil {
					t.Fatal(err)
				}
				r.m = m
			default:
				r.apply(EncodeClock(now, wall+rapid.Int64Range(-400*day, 400*day).Draw(t, "error")))
			}
			shown := r.m.moment().wall
			if shown < most {
				t.Fatalf("at %d the time of day went back by %d", now, most-shown)
			}
			most = shown
		}
	})
}

// TestAWindowThatIsOverStaysSo for a bucket that was dropped since: the clock is set
// back right after the window has turned.
func TestAWindowThatIsOverStaysSo(t *testing.T) {
	r := newRig(t)
	daily := policy.NewSet(api.SetInfo{Policy: "d", Limits: []api.LimitInfo{{Name: "d", Algorithm: api.FixedWindow, Rate: 2, Per: day, Burst: 2}}})
	midnight := zoneRulesFrom.UnixNano() / day * day
	r.apply(EncodeClock(0, midnight-5*second))
	r.one(0, daily, take("k", 2))
	r.apply(EncodeTick(5 * second)) // drops the bucket of the day that is over
	if n := r.m.Stats().Buckets; n != 0 {
		t.Fatalf("%d buckets are left", n)
	}
	r.apply(EncodeClock(5*second, midnight-day))
	res := r.one(5*second, daily, take("k", 1))
	if left := uint64(day) - 1; res.Status != api.StatusAllowed || res.Limits[0].ResetAfter < left/1000 {
		t.Fatalf("%+v: the day before midnight has begun again", res)
	}
}

// TestTheClockIsSetOutrightWhileNoWindowRuns, and slewed while one does.
func TestTheClockIsSetOutrightWhileNoWindowRuns(t *testing.T) {
	r := newRig(t)
	daily := policy.NewSet(api.SetInfo{Policy: "d", Limits: []api.LimitInfo{{Name: "d", Algorithm: api.FixedWindow, Rate: 2, Per: day, Burst: 2}}})
	wall := zoneRulesFrom.UnixNano()
	r.apply(EncodeClock(second, wall))
	r.apply(EncodeClock(2*second, wall+3*day))
	if got := r.m.clock.wall(2 * second); got != wall+3*day {
		t.Fatalf("without a window the clock shows %d, want %d", got, wall+3*day)
	}
	r.one(3*second, daily, take("k", 1))
	r.apply(EncodeClock(12*second, wall+9*day))
	if got, want := r.m.clock.wall(12*second), wall+3*day+10*second+10*second/100; got != want {
		t.Fatalf("with a window the clock shows %d, want %d", got, want)
	}
	if s := r.m.Stats(); s.Calendar != 1 {
		t.Fatalf("%d sets of the calendar", s.Calendar)
	}
}

// TestNoReplyCarriesAZone: entries do, and a few hundred bytes of it.
func TestNoReplyCarriesAZone(t *testing.T) {
	r := newRig(t)
	rules, err := policy.ZoneRules("Europe/Berlin", zoneRulesFrom)
	if err != nil {
		t.Fatal(err)
	}
	s := policy.NewSet(api.SetInfo{Policy: "d", Zone: rules, Limits: []api.LimitInfo{{Name: "d", Algorithm: api.FixedWindow, Rate: 2, Per: day, Burst: 2}}})
	var b api.Batch
	b.Add(take("k", 1))
	_, reply := r.do(second, &b, s)
	if reply.Sets[0].Zone != nil {
		t.Fatalf("the reply has %+v", reply.Sets[0])
	}
	if res, stale := decodeReply(t, r.m.PeekStale(api.Op{Kind: api.Peek, Key: "k"}, s)); res[0].Limits[0].Remaining != 1 || stale.Sets[0].Zone != nil {
		t.Fatalf("a stale peek sees %+v", res[0])
	}
}
