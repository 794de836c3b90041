//go:build !linux

package raftnode

import "time"

type bootClock struct{ origin time.Time }

// BootClock returns the runtime's monotonic clock. Whether it counts the time
// that the machine was suspended depends on the operating system; where it
// does not, time stands still meanwhile, which is the safe side.
func BootClock() Clock { return bootClock{time.Now()} }

func (c bootClock) Now() int64 { return int64(time.Since(c.origin)) }
