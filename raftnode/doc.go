// Package raftnode is consensus: the Raft groups of one node, over one TCP
// port, with their disks, their time, and the way into their logs.
//
// A node takes part in group 0, the catalog, and in every shard, 1 to N. The
// package promises:
//
//  1. A proposal's Done is called exactly once, with one of three outcomes: a
//     reply (committed on a majority's disks and applied here), a problem that
//     is not applied, or a problem that is unknown. See outcome.go.
//  2. A group serves only after the Barrier of its term, so nothing decides on
//     a state that lacks a committed entry.
//  3. Cluster time never runs faster than real time, and never backwards,
//     across leaders, restarts and clock jumps. See timekeeper.go.
//  4. A write that fails or hangs ends the process: a node whose disk lies must
//     not vote.
//  5. A node that lost its data folder never votes under its old id again.
//
// A user calls [Open], waits for [Node.Formed], and closes with [Node.Drain]
// and [Node.Close].
package raftnode
