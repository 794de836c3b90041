package server

import "testing"

func TestTheHeadroomIsAFixedAmountWithinBounds(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, maxGrowth},
		{1 << 20, maxGrowth},
		{32 << 20, 400},
		{128 << 20, 100},
		{512 << 20, 25},
		{1 << 40, minGrowth},
	} {
		if got := growth(tt.live); got != tt.want {
			t.Errorf("%d bytes live: %d %%, want %d", tt.live, got, tt.want)
		}
	}
}
