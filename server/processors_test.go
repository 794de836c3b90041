package server

import (
	"runtime"
	"testing"
)

func TestWhoWaitsForTheDiskTakesNobodysPlace(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	t.Setenv("GOMAXPROCS", "")
	addDiskWaiters()
	if got := runtime.GOMAXPROCS(3); got != 3+diskWaiters {
		t.Errorf("%d goroutines run at once, want %d", got, 3+diskWaiters)
	}
	t.Setenv("GOMAXPROCS", "3")
	addDiskWaiters()
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("%d goroutines run at once where an operator has chosen 3", got)
	}
}
