package raftnode

import "golang.org/x/sys/unix"

type bootClock struct{}

// BootClock returns the machine's CLOCK_BOOTTIME, which nobody can set and
// which counts the time that the machine was suspended.
func BootClock() Clock { return bootClock{} }

func (bootClock) Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // in Linux since 2.6.39
	}
	return t.Nano()
}
