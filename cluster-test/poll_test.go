package clustertest

import (
	"errors"
	"testing"
	"time"
)

// patience bounds every wait for what must come: ten elections fit into it,
// also on a machine that is busy with several other things.
const patience = 2 * time.Minute

// eventually polls until f returns nil, and fails the test with f's last error
// when patience runs out.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not come about that %s: %v", what, err)
		}
	}
}

// outage lets real time pass while something is down. It is the length of a
// fault, and never a wait for something to happen.
func outage(d time.Duration) { <-time.After(d) }

var errNotYet = errors.New("not yet")
