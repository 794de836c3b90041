package fsm

import (
	"fmt"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

func lease(key string, n byte, want, need, ttlMS int64) api.Op {
	return api.Op{Kind: api.Lease, Key: key, Cost: want, Hold: &api.Hold{ID: holdID(key, n), TTL: ttlMS, Need: need}}
}

func limitSet(limits ...api.LimitInfo) *policy.Set {
	return policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: limits})
}

var peek = api.Op{Kind: api.Peek, Key: "k"}

func TestALeaseIsAFairShareAndAtLeastWhatIsNeeded(t *testing.T) {
	r := newRig(t)
	s := testSet("p", 1, 1, maxPer, 100)
	want(t, "half to the first", r.one(0, s, lease("k", 1, 80, 1, 60_000)), "leased 50 of 50")
	want(t, "a third to the second", r.one(0, s, lease("k", 2, 80, 1, 60_000)), "leased 34 of 16")
	want(t, "no more than it wants", r.one(0, s, lease("k", 3, 3, 1, 60_000)), "leased 31 of 3")
	want(t, "what it needs", r.one(0, s, lease("k", 4, 30, 30, 60_000)), "leased 1 of 30")
	want(t, "the last one", r.one(0, s, lease("k", 5, 30, 1, 60_000)), "leased 0 of 1")
	want(t, "again", r.one(0, s, lease("k", 2, 80, 1, 60_000)), "leased again 0 of 16")
	want(t, "none", r.one(0, s, lease("k", 6, 1, 1, 60_000)), "denied 0")
	want(t, "more than ever passes", r.one(0, s, lease("k", 7, 200, 101, 60_000)), "error cost-exceeds-burst")
	want(t, "under the id of another", r.one(0, s, lease("k", 8, 1, 1, 60_000)), "denied 0")
	want(t, "settled", r.one(0, s, onHold(api.Settle, "k", 1, 20)), "settled 20-30+0")
	want(t, "settled again", r.one(0, s, onHold(api.Settle, "k", 1, 20)), "error not-found")
	want(t, "cancelled", r.one(0, s, onHold(api.Cancel, "k", 3, 0)), "settled 0-3+0")
	want(t, "not renewed", r.one(0, s, onHold(api.Renew, "k", 2, 1000)), "error not-found")
	want(t, "what came back", r.one(0, s, take("k", 33)), "allowed 0")
	if st := r.m.Stats(); st.Leases != 3 || st.Leased != 47 || st.Holds != 3 {
		t.Errorf("%+v", st)
	}
	want(t, "expired, and spent", r.one(60*second, s, take("k", 1)), "denied 0")
	if st := r.m.Stats(); st.Leases != 0 || st.Leased != 0 || st.Expired != 47 || st.Settled != 0 {
		t.Errorf("%+v", st)
	}
	if len(r.m.holds.byBucket) != 0 || len(r.m.holds.leased) != 0 {
		t.Error("something is left behind")
	}
}

// What is out counts against the burst: the bucket does not fill beyond what is
// left of it, whenever it is looked at.
func TestABucketFillsUpToWhatIsNotLeased(t *testing.T) {
	for _, tt := range []struct {
		name           string
		l              api.LimitInfo
		later, expired string // what a peek shows a period later, and when the lease has expired since
	}{
		{"token bucket", api.LimitInfo{Rate: 10, Per: 10 * second, Burst: 10}, "state 5", "state 10"},
		{"fixed window", api.LimitInfo{Algorithm: api.FixedWindow, Rate: 10, Per: 10 * second, Burst: 10}, "state 5", "state 10"},
		// The window before counts in full when a window begins.
		{"sliding window", api.LimitInfo{Algorithm: api.SlidingWindow, Rate: 10, Per: 10 * second, Burst: 10}, "state 5", "state 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.l.Name = "l"
			s := limitSet(tt.l)
			want(t, "lease", r.one(0, s, lease("k", 1, 5, 1, 15_000)), "leased 5 of 5")
			want(t, "later", r.one(10*second, s, peek), tt.later)
			want(t, "expired", r.one(20*second, s, peek), tt.expired)
		})
	}
}

// A retry at the time that a denial names passes, and not a moment before, also
// where it takes leases to expire first.
func TestADenialMindsTheLeases(t *testing.T) {
	for _, l := range []api.LimitInfo{
		{Rate: 3, Per: second, Burst: 10},
		{Algorithm: api.FixedWindow, Rate: 10, Per: 7 * second, Burst: 10},
		{Algorithm: api.SlidingWindow, Rate: 10, Per: 7 * second, Burst: 10},
	} {
		for cost := int64(1); cost <= 10; cost++ {
			r := newRig(t)
			l.Name = "l"
			s := limitSet(l)
			r.one(0, s, lease("k", 1, 10, 4, 5000))
			r.one(0, s, lease("k", 2, 10, 4, 9000))
			want(t, "the rest", r.one(0, s, take("k", 1)), "allowed 0")
			r.one(0, s, onHold(api.Cancel, "k", 3, 0))
			denied := r.one(second/10, s, take("k", cost))
			if denied.Status != api.StatusDenied {
				t.Fatalf("%+v", denied)
			}
			at := second/10 + 1000*denied.Limits[0].RetryAfter
			if early := r.one(at-1001, s, take("k", cost)); early.Status != api.StatusDenied {
				t.Errorf("algorithm %d, cost %d: it passes before the time to retry", l.Algorithm, cost)
			}
			if retry := r.one(at, s, take("k", cost)); retry.Status != api.StatusAllowed {
				t.Errorf("algorithm %d, cost %d: denied at the time to retry, %d, with %d left", l.Algorithm, cost, at, retry.Limits[0].Remaining)
			}
		}
	}
}

func TestASyncChargesAllThatWasSpent(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    api.LimitInfo
	}{
		{"token bucket", api.LimitInfo{Rate: 1, Per: second, Burst: 10}},
		{"fixed window", api.LimitInfo{Algorithm: api.FixedWindow, Rate: 10, Per: 10 * second, Burst: 10}},
		{"sliding window", api.LimitInfo{Algorithm: api.SlidingWindow, Rate: 10, Per: 10 * second, Burst: 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.l.Name = "l"
			s := limitSet(tt.l)
			sync := func(now uint64, spent int64) api.Result {
				return r.one(now, s, api.Op{Kind: api.Sync, Key: "k", Cost: spent, Instance: 7})
			}
			want(t, "nothing spent", sync(0, 0), "state 10")
			if st := r.m.Stats(); st.Buckets != 0 {
				t.Error("a sync of nothing makes a bucket")
			}
			want(t, "some", sync(0, 4), "state 6")
			owing := sync(0, 15)
			want(t, "more than there is", owing, "state 0")
			at := 1000 * owing.Limits[0].RetryAfter
			want(t, "before the debt is paid", r.one(at-1001, s, take("k", 1)), "denied 0")
			if paid := r.one(at, s, take("k", 1)); paid.Status != api.StatusAllowed {
				t.Errorf("after the debt is paid: %s", holdText(&paid))
			}
			for range 3 { // as deep as it goes
				sync(at, api.MaxCost)
			}
			want(t, "the deepest debt", r.one(at, s, take("k", 1)), "denied 0")
		})
	}
	t.Run("once", func(t *testing.T) {
		r := newRig(t)
		op := api.Op{Kind: api.Sync, Key: "k", Cost: 4, RequestID: "id"}
		s := testSet("p", 1, 1, maxPer, 10)
		want(t, "first", r.one(0, s, op), "state 6")
		want(t, "second", r.one(0, s, op), "state again 6")
		want(t, "the bucket", r.one(0, s, peek), "state 6")
	})
}

func TestAResetTakesLeasesAlong(t *testing.T) {
	r := newRig(t)
	s := testSet("p", 1, 1, maxPer, 10)
	want(t, "lease", r.one(0, s, lease("k", 1, 6, 6, 60_000)), "leased 4 of 6")
	want(t, "reset", r.one(0, s, api.Op{Kind: api.Reset, Key: "k"}), "reset")
	want(t, "all is there", r.one(0, s, peek), "state 10")
	want(t, "settle", r.one(0, s, onHold(api.Settle, "k", 1, 1)), "error not-found")
	if st := r.m.Stats(); st.Leases != 0 || st.Leased != 0 {
		t.Errorf("%+v", st)
	}
}

func TestLeasesOfOneBucketAreBounded(t *testing.T) {
	r := newRig(t)
	s := testSet("p", 1, 1, maxPer, maxBurst)
	var b api.Batch
	for i := range maxLeases {
		b.Add(api.Op{Kind: api.Lease, Key: "k", Cost: 1, Hold: &api.Hold{ID: api.NewHoldID("k", [14]byte{1: byte(i), 2: byte(i >> 8)}), TTL: 1000, Need: 1}})
	}
	r.do(0, &b, s)
	if one := r.one(0, s, lease("k", 1, 1, 1, 1000)); one.Code != api.Overloaded {
		t.Errorf("%+v", one)
	}
	if one := r.one(second, s, lease("k", 1, 1, 1, 1000)); one.Status != api.StatusLeased {
		t.Errorf("when they are overdue: %+v", one)
	}
	restart(t, r)
}

func TestWhatIsLeasedCountsInALimitThatIsNew(t *testing.T) {
	r := newRig(t)
	s := testSet("p", 1, 1, maxPer, 100)
	want(t, "lease", r.one(0, s, lease("k", 1, 50, 1, 60_000)), "leased 50 of 50")
	more := policy.NewSet(api.SetInfo{Policy: "p", Revision: 2, Limits: []api.LimitInfo{
		{Name: "a", Rate: 1, Per: maxPer, Burst: 100}, {Name: "b", Rate: 1, Per: maxPer, Burst: 55},
		{Name: "c", Algorithm: api.SlidingWindow, Rate: 80, Per: maxPer, Burst: 80}, {Name: "d", Algorithm: api.FixedWindow, Rate: 60, Per: maxPer, Burst: 60},
	}})
	want(t, "too much", r.one(0, more, take("k", 6)), "denied 50 5 30 10")
	want(t, "take", r.one(0, more, take("k", 1)), "allowed 49 4 29 9")
	want(t, "settle", r.one(0, more, onHold(api.Settle, "k", 1, 15)), "settled 15-35+0")
	want(t, "peek", r.one(0, more, peek), "state 84 39 64 44")
	less := testSet("p", 3, 1, maxPer, 10)
	want(t, "less", r.one(0, less, lease("k", 2, 50, 1, 60_000)), "denied 0")
}

func TestALeaseOfWhatIsNotEnforcedIsFree(t *testing.T) {
	for _, enforcement := range []uint8{api.Shadow, api.Off} {
		t.Run(fmt.Sprint(enforcement), func(t *testing.T) {
			r := newRig(t)
			s := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Enforcement: enforcement, Limits: testSet("p", 1, 1, maxPer, 10).Limits})
			first, left := "leased 5 of 5", int64(5)
			if enforcement == api.Off {
				first, left = "leased 10 of 9", 10
			}
			want(t, "first", r.one(0, s, lease("k", 1, 9, 1, 60_000)), first)
			beyond := r.one(0, s, lease("k", 2, 9, 8, 60_000))
			want(t, "beyond", beyond, fmt.Sprintf("leased %d of 9", left))
			if beyond.Shadowed != (enforcement == api.Shadow) {
				t.Errorf("%+v", beyond)
			}
			want(t, "settle", r.one(0, s, onHold(api.Settle, "k", 2, 3)), "settled 0-0+0")
			want(t, "peek", r.one(0, s, peek), fmt.Sprint("state ", left))
		})
	}
}

func TestALeaseLivesAsLongAsItsPolicyLetsIt(t *testing.T) {
	r := newRig(t)
	info := testSet("p", 1, 1, maxPer, 10).SetInfo
	info.Mode, info.LeaseTTL = api.Leased, 500
	s := policy.NewSet(info)
	want(t, "lease", r.one(0, s, lease("k", 1, 4, 4, 60_000)), "leased 6 of 4")
	restart(t, r)
	want(t, "in time", r.one(second/2-1, s, lease("k", 1, 4, 4, 60_000)), "leased again 6 of 4")
	want(t, "too late", r.one(second/2, s, onHold(api.Settle, "k", 1, 0)), "error not-found")
	want(t, "the same id again", r.one(second/2, s, lease("k", 1, 4, 2, 60_000)), "leased 3 of 3")
}
