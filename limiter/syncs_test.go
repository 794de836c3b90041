package limiter

import (
	"reflect"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

func TestSyncsTellInstancesBoundAndOvershoot(t *testing.T) {
	info := testSet("s", 1, 100).SetInfo // 100 a second, burst 100
	info.Mode, info.SyncInterval = api.Soft, 500
	sets := []*policy.Set{policy.NewSet(info)}
	var s syncs
	sync := func(now time.Duration, instance uint64, retry time.Duration) {
		var b api.Batch
		b.Ref("s")
		b.Add(api.Op{Kind: api.Sync, Cost: 1, Key: "k", Instance: instance})
		b.Add(api.Op{Kind: api.Take, Cost: 1, Key: "k"})
		reply := api.BeginReply(nil, 2, api.Commit{})
		for range 2 { // a take is no sync, whatever its wait
			reply = api.AppendResult(reply, &api.Result{Status: api.StatusState, Limits: []api.LimitValues{{RetryAfter: uint64(retry.Microseconds())}}})
		}
		s.observe(now, &b, sets, api.FinishReply(reply, 0, [][]byte{sets[0].Encoded}))
	}
	sync(time.Second, 1, 10*time.Millisecond) // empty, and not below
	want := func(now time.Duration, instances int, bound, overshoot int64) {
		t.Helper()
		if got := s.seen(now); !reflect.DeepEqual(got, []seenSync{{"s", instances, bound, overshoot}}) {
			t.Errorf("at %v: %+v", now, got)
		}
	}
	want(2*time.Second, 1, 0, 0)
	sync(3*time.Second, 2, 510*time.Millisecond) // 50 below zero
	sync(4*time.Second, 2, 110*time.Millisecond)
	want(5*time.Second, 2, 100+100, 50)
	sync(50*time.Second, 2, 0)
	want(62*time.Second, 1, 0, 50)
	sync(63*time.Second, 3, 0)
	want(65*time.Second, 2, 200, 50)
	sync(122*time.Second, 3, 0)
	want(122*time.Second, 1, 0, 0)
	if got := s.seen(200 * time.Second); len(got) != 0 || len(s.policies) != 0 {
		t.Errorf("long after: %+v", got)
	}
}

func TestDebtOfWindowsIsWholeWindows(t *testing.T) {
	l := api.LimitInfo{Algorithm: api.FixedWindow, Rate: 7, Per: int64(time.Minute), Burst: 7}
	for wait, want := range map[time.Duration]int64{0: 0, time.Second: 0, time.Minute: 0, 61 * time.Second: 7, 3 * time.Minute: 14} {
		if got := debt(&l, api.LimitValues{RetryAfter: uint64(wait.Microseconds())}); got != want {
			t.Errorf("%v: %d, not %d", wait, got, want)
		}
	}
}
