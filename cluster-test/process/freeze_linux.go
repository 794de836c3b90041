package process

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Freeze stops the process in its tracks, and returns when it stands still. SIGSTOP
// alone is no more than sent then: until the thread that gets it has a processor, all
// the others go on.
func (p *Process) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		// Without taking the news from who waits for the process's end.
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD): // it has ended
			return nil
		default:
			return err
		}
	}
}
