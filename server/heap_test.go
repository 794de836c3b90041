package server

import "testing"

func TestTheHeadroomIsAFixedAmountWithinBounds(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, maxGrowth},
		{1 << 20, maxGrowth},
		{128 << 20, 200},
		{256 << 20, 100},
		{1 << 30, 25},
		{1 << 40, minGrowth},
	} {
		if got := growth(tt.live); got != tt.want {
			t.Errorf("%d bytes live: %d %%, want %d", tt.live, got, tt.want)
		}
	}
}
