package process

import "syscall"

// dieWithParent makes the kernel end a process when this one ends, however it does.
// The signal follows the thread that started it; see spawner.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
