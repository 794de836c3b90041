package fsm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// TestKeysThatNeverComeBackDoNotPileUp takes from ever new keys. Of the
// buckets, those of the last second are not full yet.
func TestKeysThatNeverComeBackDoNotPileUp(t *testing.T) {
	for _, ops := range []int{1, 50, 1000} {
		r := newRig(t)
		set := testSet("p", 1, 1, second, 5)
		const perSecond = 5000
		next := 0
		for next < 8*perSecond {
			var b api.Batch
			for range ops {
				b.Add(take(fmt.Sprint("key", next), 1))
				next++
			}
			r.do(uint64(next)*second/perSecond, &b, set)
		}
		if n := r.m.Stats().Buckets; n < perSecond || n > perSecond*3/2 {
			t.Errorf("in entries of %d: %d buckets, of which %d cannot be dropped yet", ops, n, perSecond)
		}
	}
}

// TestTicksEmptyAnIdleShard counts the ticks that it takes.
func TestTicksEmptyAnIdleShard(t *testing.T) {
	r := newRig(t)
	set := testSet("p", 1, 1, second, 5)
	const keys = 50_000
	for i := 0; i < keys; i += 10_000 {
		var b api.Batch
		for k := range 10_000 {
			b.Add(take(fmt.Sprint("key", i+k), 1))
		}
		r.do(0, &b, set)
	}
	ticks := 0
	for ; r.m.Stats().Buckets > 0; ticks++ {
		if ticks > 2*keys/sweepTick {
			t.Fatalf("after %d ticks there are %d buckets", ticks, r.m.Stats().Buckets)
		}
		r.apply(EncodeTick(second))
	}
	if st := r.m.Stats(); st.Dropped != keys || st.Sets != 0 || st.Bytes > stripes*2*pageSize {
		t.Fatalf("%+v", st)
	}
	if ticks < keys/sweepTick {
		t.Fatalf("%d ticks dropped %d buckets: each one's work is not bounded", ticks, keys)
	}
}

// TestStoredAnswersAreBounded: one session's answers fill the memory that all
// share, and free it when they are acknowledged.
func TestStoredAnswersAreBounded(t *testing.T) {
	r := newRig(t)
	r.m.sessions.maxBytes = 1000
	set := testSet("p", 1, 1, second, 1000)
	send := func(id byte, seq, acked uint64) api.Result {
		b := api.Batch{Session: api.Session{ID: [16]byte{id}, Seq: seq, Acked: acked}}
		for range 20 {
			b.Add(take("k", 1))
		}
		res, _ := r.do(0, &b, set)
		return res[0]
	}
	seq := uint64(1)
	for ; send(1, seq, 0).Code != api.Overloaded; seq++ {
		if seq > 100 {
			t.Fatal("a session stores without bound")
		}
	}
	if code := send(2, 1, 0).Code; code != api.Overloaded {
		t.Fatalf("another session gets %q while the memory is full", code)
	}
	if res := send(1, seq, seq-1); res.Status != api.StatusAllowed {
		t.Fatalf("after acknowledging: %+v", res)
	}
	if res := send(2, 1, 0); res.Status != api.StatusAllowed {
		t.Fatalf("another session then: %+v", res)
	}
}

func TestEveryReasonHasAName(t *testing.T) {
	for r := range ResetReasons {
		if name := r.String(); name == "" || strings.ToLower(name) != name {
			t.Errorf("reason %d is named %q", r, name)
		}
	}
}
