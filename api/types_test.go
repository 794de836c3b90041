package api

import (
	"math"
	"testing"
	"time"
)

// The longest time that there is has a number of milliseconds, too: a bucket may take
// longer than that to fill.
func TestMillisecondsAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, math.MaxInt64: math.MaxInt64/1_000_000 + 1,
	} {
		if got := Millis(d); got != want {
			t.Errorf("%d ns are %d ms, want %d", d, got, want)
		}
	}
}
