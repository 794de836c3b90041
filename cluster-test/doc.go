// Package clustertest runs rlstore the way its users do, as processes of their
// own with folders and ports of their own, and breaks them while they count:
// kill -9, SIGSTOP, restarts, jumping clocks, strangers on the ports.
//
// It holds tests only. README.md says which promise each of them shows.
package clustertest
