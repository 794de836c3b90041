package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Every thread of a server has the slack, the runtime's monitor included, which Go
// started before the program could ask for any; and what an operator has set stays.
// The second beginning finds what the first one was given: a configuration in a pipe.
func TestAServerHasCoarseTimers(t *testing.T) {
	const chosen = 3 * time.Millisecond
	for _, x := range []struct {
		name        string
		given, want time.Duration
		gone        bool // the program's file, so that it cannot begin again
	}{
		{name: "by default", given: defaultSlack, want: timerSlack},
		{name: "chosen by the operator", given: chosen, want: chosen},
		{name: "without a file to begin again from", given: defaultSlack, want: defaultSlack, gone: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			cmd := serveCommand(t, x.gone)
			cmd.Stdin = pipeOf(t, "node-id: piped\nbootstrap-expect: 1\nhttp-addr: 127.0.0.1:0\nraft-addr: 127.0.0.1:0\n")
			log, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			cmd.Stderr = log
			startWithSlack(t, cmd, x.given)
			pid := cmd.Process.Pid
			defer func() {
				cmd.Process.Kill()
				cmd.Wait()
			}()
			deadline := time.Now().Add(starting)
			for !serves(log.Name(), "piped") {
				if time.Now().After(deadline) {
					said, _ := os.ReadFile(log.Name())
					t.Fatalf("it does not serve:\n%s", said)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !x.gone {
				if name, err := os.ReadFile(proc(pid, "comm")); string(name) != "rlstore\n" {
					t.Errorf("the process is called %q (%v)", name, err)
				}
			}
			// Go raises the limit at the start of each process, of this one, too.
			if got, want := openFiles(t, pid), openFiles(t, os.Getpid()); got != want {
				t.Errorf("at most %s open files, want %s", got, want)
			}
			got, err := slacks(pid)
			if errors.Is(err, unix.EPERM) {
				t.Skip("it serves; to read another process's timer slack takes CAP_SYS_NICE")
			}
			if err != nil || len(got) < 2 {
				t.Fatalf("slacks %v, %v", got, err)
			}
			for _, s := range got {
				if s != x.want {
					t.Fatalf("the threads' slacks are %v, want %v each", got, x.want)
				}
			}
		})
	}
}

// serveCommand is rlstore serve with its configuration from its input. With gone the
// program has no file any more when it runs.
func serveCommand(t *testing.T, gone bool) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "rlstore") // the name by which TestMain knows it
	args := []string{program, "serve", "--config", "/dev/stdin", "--data-dir", filepath.Join(dir, "data")}
	if !gone {
		if err := os.Symlink(self, program); err != nil {
			t.Fatal(err)
		}
		return &exec.Cmd{Path: program, Args: args}
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	left, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { left.Close() })
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{Path: "/proc/self/fd/3", Args: args, ExtraFiles: []*os.File{left}}
}

func pipeOf(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return r
}

// startWithSlack starts cmd with the timer slack that its parent has.
func startWithSlack(t *testing.T, cmd *exec.Cmd, slack time.Duration) {
	t.Helper()
	// A thread that a goroutine locked and did not unlock ends with it.
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		setSlack(slack)
		err <- cmd.Start()
	}()
	if err := <-err; err != nil {
		t.Fatal(err)
	}
}

// serves tells whether a log says that this node is ready.
func serves(log, node string) bool {
	said, _ := os.ReadFile(log)
	return bytes.Contains(said, []byte("msg=ready node="+node+"\n"))
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// openFiles is how many files a process may have open.
func openFiles(t *testing.T, pid int) string {
	t.Helper()
	limits, err := os.ReadFile(proc(pid, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("no limit of open files in\n%s", limits)
	return ""
}

// slacks are those of a process's threads.
func slacks(pid int) (all []time.Duration, err error) {
	threads, err := os.ReadDir(proc(pid, "task"))
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		b, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
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
