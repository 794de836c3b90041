package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Every thread of a server has the slack, the runtime's monitor included, which Go
// started before the program could ask for any; and what an operator has set stays.
func TestAServerHasCoarseTimers(t *testing.T) {
	const chosen = 3 * time.Millisecond
	for _, x := range []struct {
		name        string
		given, want time.Duration
	}{
		{"by default", defaultSlack, timerSlack},
		{"chosen by the operator", chosen, chosen},
	} {
		t.Run(x.name, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			program := filepath.Join(dir, "rlstore") // which TestMain knows by this name
			if err := os.Symlink(self, program); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "serve", "--node-id", "n1", "--data-dir", filepath.Join(dir, "data"),
				"--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0", "--bootstrap-expect", "1")
			var log bytes.Buffer
			cmd.Stderr = &log
			startWithSlack(t, cmd, x.given)
			defer func() {
				cmd.Process.Kill()
				cmd.Wait()
				if t.Failed() {
					t.Log(log.String())
				}
			}()

			deadline := time.Now().Add(starting)
			for {
				got, err := slacks(cmd.Process.Pid)
				if errors.Is(err, unix.EPERM) {
					t.Skip("to read another process's timer slack takes CAP_SYS_NICE")
				}
				if err == nil && serving(cmd.Process.Pid) && len(got) > 1 && allAre(got, x.want) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("the threads' slacks are %v (%v), want %v each", got, err, x.want)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// startWithSlack starts cmd with the timer slack that its parent has.
func startWithSlack(t *testing.T, cmd *exec.Cmd, slack time.Duration) {
	t.Helper()
	// A thread that a goroutine locked and did not unlock ends with it.
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		if e := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); e != nil {
			err <- e
			return
		}
		err <- cmd.Start()
	}()
	if err := <-err; err != nil {
		t.Fatal(err)
	}
}

// slacks are those of a process's threads.
func slacks(pid int) (all []time.Duration, err error) {
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		b, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"))
		if err != nil {
			return nil, err
		}
		ns, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, err
		}
		all = append(all, time.Duration(ns))
	}
	return all, nil
}

func allAre(got []time.Duration, want time.Duration) bool {
	for _, s := range got {
		if s != want {
			return false
		}
	}
	return true
}

// serving tells that a process listens, and so has begun for good.
func serving(pid int) bool {
	files, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	for _, f := range files {
		var s syscall.Stat_t
		if syscall.Stat(f, &s) == nil && s.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			return true
		}
	}
	return false
}
