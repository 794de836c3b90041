// Package process is what tests of real nodes share: programs that do not outlive
// whoever started them, and a clock that can be moved while a node reads it.
package process

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Process is one run of a program.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it is gone
	err   error         // of its end; to be read once ended is closed
}

// Spawner is the function of the one goroutine that stays, for whoever looks for
// goroutines that were left behind.
const Spawner = "github.com/rlstore/rlstore/cluster-test/process.spawnAll"

// spawner starts every process from one thread that lives as long as this one: on
// Linux a child dies with the thread that started it, so nothing outlives its parent,
// however that ends.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go spawnAll(work)
	return work
})

func spawnAll(work <-chan func()) {
	runtime.LockOSThread()
	for f := range work {
		f()
	}
}

// Start starts cmd, whose output goes to the end of the file log.
func Start(cmd *exec.Cmd, log string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		out.Close()
		return nil, err
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		out.Close()
		close(p.ended)
	}()
	return p, nil
}

// Running tells whether it is there, be it stopped. Of no process it is false.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Ended is closed once the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err is how the process ended, as of [exec.Cmd.Wait]; it waits for that.
func (p *Process) Err() error {
	<-p.ended
	return p.err
}

// Signal sends s; a process that is gone does not hear it.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Kill ends the process as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.Signal(syscall.SIGKILL)
		<-p.ended
	}
}

// EndsWithin waits for the process to end by itself.
func (p *Process) EndsWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.ended:
		return true
	case <-t.C:
		return false
	}
}
