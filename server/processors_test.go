package server

import (
	"runtime"
	"testing"
)

func TestWhoWaitsForTheDiskTakesNobodysPlace(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, x := range []struct {
		set  string // GOMAXPROCS
		want int
	}{
		{"", processors + diskWaiters},
		{"5", processors}, // which Go has read at the start
	} {
		t.Setenv("GOMAXPROCS", x.set)
		runtime.GOMAXPROCS(processors)
		addProcessors()
		addProcessors() // another server of the same process adds none
		if got := runtime.GOMAXPROCS(0); got != x.want {
			t.Errorf("with GOMAXPROCS=%q: %d goroutines at once, want %d", x.set, got, x.want)
		}
	}
}
