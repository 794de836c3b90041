package limiter

import (
	"math"
	"testing"
)

// A wait never looks shorter than it is, however long.
func TestMicrosecondsAreRoundedUp(t *testing.T) {
	for ns, want := range map[int64]uint64{
		-1: 0, 0: 0, 1: 1, 999: 1, 1000: 1, 1001: 2,
		math.MaxInt64: math.MaxInt64/1000 + 1,
	} {
		if got := microsUp(ns); got != want {
			t.Errorf("%d ns are %d us, want %d", ns, got, want)
		}
	}
}
