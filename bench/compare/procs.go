package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// lab is where servers run: their files and their processes.
type lab struct {
	dir   string
	procs []*exec.Cmd
	n     int // names files
}

// folder makes a new folder.
func (l *lab) folder(name string) (string, error) {
	l.n++
	dir := filepath.Join(l.dir, fmt.Sprintf("%02d-%s", l.n, name))
	return dir, os.Mkdir(dir, 0o755)
}

// start starts a server, whose output goes to a file.
func (l *lab) start(name string, args ...string) error {
	l.n++
	out, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("%02d-%s.log", l.n, filepath.Base(name))))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// They end with this program even if it is killed, and Ctrl-C is left to it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.procs = append(l.procs, cmd)
	return nil
}

// stop ends all servers: by SIGTERM, and if that does not help by SIGKILL.
func (l *lab) stop() {
	for _, p := range l.procs {
		_ = p.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range l.procs {
		kill := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait() // how they end does not matter any more
		kill.Stop()
	}
	l.procs = nil
}

// output runs a program to its end and returns what it printed.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", cmd, err, out, errs.Bytes())
	}
	return string(out), err
}

// freePorts finds n free ports of the loopback interface.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// eventually polls until ready, or until a server had more than time enough.
func eventually(ctx context.Context, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
