package clustertest

import "syscall"

// dieWithParent makes the kernel end a node when the test process ends, however
// it does. The signal follows the thread that started the node; see spawn.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
