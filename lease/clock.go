package lease

import "time"

// Clock is the time by which leases and local buckets go. It never runs back, and is
// safe for concurrent use.
type Clock interface {
	// Now is the time since any moment, which stays the same.
	Now() time.Duration
	// AfterFunc calls f once, d from now on, and not before it returns. stop
	// prevents that if it is not too late.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// Monotonic returns the machine's clock.
func Monotonic() Clock { return monotonic{time.Now()} }

type monotonic struct{ start time.Time }

func (m monotonic) Now() time.Duration { return time.Since(m.start) }

func (m monotonic) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
