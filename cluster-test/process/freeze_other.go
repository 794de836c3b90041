//go:build !linux

package process

import "syscall"

// Freeze stops the process, at once or a moment later.
func (p *Process) Freeze() error { return p.Signal(syscall.SIGSTOP) }
