package main

import (
	"os"
	"os/exec"
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
// Where it cannot be done the program goes on as it is. It is to be called before
// anything is read or opened.
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
	if slack() != defaultSlack {
		return
	}
	program, err := itself()
	if err != nil {
		return
	}
	setSlack(timerSlack)
	defer setSlack(defaultSlack)
	if slack() != timerSlack { // or this would go on for ever
		return
	}
	// Go has raised the limit of open files for itself, and Exec gives it back first.
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
	}
	_ = syscall.Exec(program, os.Args, os.Environ()) // returns only if it fails
}

// itself is this program, by the name under which it was called if that can be told:
// the name of the process is that of the file that Exec gets.
func itself() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self, nil
	}
	a, errA := os.Stat(called)
	b, errB := os.Stat(self)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return called, nil
	}
	return self, nil
}

// slack is the timer slack of this thread; 0 if it is not known.
func slack() time.Duration {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}

func setSlack(d time.Duration) { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0) }
