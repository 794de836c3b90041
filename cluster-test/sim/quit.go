package sim

import "syscall"

// quit makes a Go program end and show its goroutines.
const quit = syscall.SIGQUIT
