// Package sim runs a whole cluster in one process and in virtual time, breaks
// it, and has what its callers saw checked.
//
// A simulation follows from a seed: the number of nodes and shards, the
// policies, what callers ask for and when, and which fault falls when. The nodes
// are those that `rlstore serve` runs, from the HTTP API down to the log store;
// only what is outside the process is simulated:
//
//   - the network, by connections that behave as TCP does (network.go);
//   - the disks, by stores that are slow, stuck or full, fail, and lose or keep
//     what a dying process was writing (disk.go);
//   - the boot clocks, which drift and jump (clock.go);
//   - all other time, by testing/synctest: half a minute passes in half a second.
//
// The faults are in nemesis.go, the callers in callers.go, their leases in
// lessee.go. Afterwards the
// history goes through package check together with what each node has applied,
// and each snapshot on each disk is held against a replay of the log.
//
// What it can't show: a process that stops and goes on (there is one process),
// half-written files (a write of the log is one transaction), and what the kernel
// and bbolt do. The fault runs of real processes are for those.
package sim
