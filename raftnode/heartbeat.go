package raftnode

import "github.com/hashicorp/raft"

// inOrder is a transport whose heartbeats wait their turn.
//
// The library would take heartbeats in the goroutine of their connection, past
// the main goroutine. One of a higher term writes that term to the disk; if the
// disk is slow and the main goroutine has come to a yet higher one by then, as
// hand-overs in quick succession make it, the node's term goes back when the
// write ends. It then leads with entries of an older term behind those of a newer
// one, and may vote twice. In order, a heartbeat waits for the write that is under
// way, which takes milliseconds where an election takes a second.
type inOrder struct {
	*raft.NetworkTransport
	peers *peers
}

// EncodePeer implements raft.Transport: what a node says of itself is its plain
// address, though others dial it by addrOf.
func (t inOrder) EncodePeer(id raft.ServerID, addr raft.ServerAddress) []byte {
	if m, ok := t.peers.member(string(id)); ok {
		return []byte(m.Raft)
	}
	return []byte(addr)
}

// SetHeartbeatHandler implements raft.Transport: it may be ignored.
func (inOrder) SetHeartbeatHandler(func(raft.RPC)) {}

var (
	_ raft.WithPreVote = inOrder{}
	_ raft.WithClose   = inOrder{}
)
