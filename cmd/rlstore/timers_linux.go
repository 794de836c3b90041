package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is by how much the kernel may delay what a server waits for, to
	// wake it once for several things.
	timerSlack = 500 * time.Microsecond
	// defaultSlack is what Linux gives a process that nobody gave another one.
	defaultSlack = 50 * time.Microsecond
)

// coarseTimers begins this program again, as the same process, with a timer slack
// that suits a server. Who set another slack than the default has the last word.
// Where it cannot be done the program goes on as it is.
//
// It is for a thread that Go starts before any code of a program runs: the runtime's
// monitor. It looks for goroutines that are long in the kernel every 20 µs while
// there are some, and a node that syncs its log hundreds of times a second always
// has one. With the default slack that is 10,000 wakings a second, each of which
// interrupts what runs. A slack is inherited by new threads, and survives exec.
//
// See docs/decisions/0019.
func coarseTimers() {
	runtime.LockOSThread() // a slack is a thread's own, and that of exec counts
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(slack) != defaultSlack {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(self, os.Args, os.Environ()) // returns only if it fails
}
