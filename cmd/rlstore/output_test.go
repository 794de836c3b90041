package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func TestAStateTellsOnlyWhatIsKnown(t *testing.T) {
	for want, s := range map[string]api.State{
		"allowed  3 of 5 left, full in 2ms (policy p, revision 7, shard 1 index 9)\n": {
			Policy: "p", PolicyRevision: 7, Limit: 5, Remaining: 3, ResetAfterMS: 2, Commit: api.Commit{Shard: 1, Index: 9}},
		"allowed  3 of 5 left, full in 2ms (policy p, revision 7)\n": { // of a local bucket
			Policy: "p", PolicyRevision: 7, Limit: 5, Remaining: 3, ResetAfterMS: 2},
		"allowed (policy p, revision 7)\n": {Policy: "p", PolicyRevision: 7}, // by the rule open
	} {
		var out strings.Builder
		if writeState(&out, "allowed", s); out.String() != want {
			t.Errorf("got  %swant %s", out.String(), want)
		}
	}
}

// The longest time that there is has a number of milliseconds, too: a bucket may take
// longer than that to fill.
func TestMillisecondsAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, math.MaxInt64: math.MaxInt64/1_000_000 + 1,
	} {
		if got := ms(d); got != want {
			t.Errorf("%d ns are %d ms, want %d", d, got, want)
		}
	}
}
