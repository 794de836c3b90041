package raftnode

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// transport is what a group's Raft speaks through: the library's own transport, but
// that calls that can wait a moment go with those of other groups, as beats, and
// that heartbeats wait their turn.
//
// The library would take heartbeats in the goroutine of their connection, past
// the main goroutine. One of a higher term writes that term to the disk; if the
// disk is slow and the main goroutine has come to a yet higher one by then, as
// hand-overs in quick succession make it, the node's term goes back when the
// write ends. It then leads with entries of an older term behind those of a newer
// one, and may vote twice. In order, a heartbeat waits for the write that is under
// way, which takes milliseconds where an election takes a second.
//
// Two calls can wait: a heartbeat, which a goroutine of its own sends, and an
// AppendEntries that only repeats what the follower has confirmed. The goroutine
// that sends the latter has nothing else to send, and as soon as there is an entry,
// the call goes out at once instead. News of a commit never wait.
//
// What comes in passes merge, which knows better than the library what to do with
// some of it; see inbound.go.
type transport struct {
	*raft.NetworkTransport
	group uint32
	peers *peers
	beats *beats
	// repair keeps from the group what it must not answer yet.
	repair *repair
	log    storedLog

	rpcs   chan raft.RPC // from streams and beats, for the group's Raft
	ctx    context.Context
	cancel context.CancelFunc
	merged sync.WaitGroup

	mu        sync.Mutex                 // guards the next three
	confirmed map[raft.ServerID]position // by follower
	newest    uint64                     // index of the last entry that was given to the log
	hurry     chan struct{}              // closed when one is; nil if nobody waits
}

// position is how much of a leader's log a follower has and knows as committed, all
// of it.
type position struct{ term, index, commit uint64 }

var (
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// newTransport puts a group, whose log is given, on the network and among the beats.
// Nothing comes in before serve. Close takes it off.
func newTransport(group uint32, network *raft.NetworkTransport, b *beats, p *peers, r *repair, log storedLog) *transport {
	t := &transport{
		NetworkTransport: network, group: group, beats: b, peers: p, repair: r, log: log,
		rpcs: make(chan raft.RPC), confirmed: map[raft.ServerID]position{},
	}
	t.ctx, t.cancel = context.WithCancel(b.mux.ctx)
	b.mu.Lock()
	b.groups[group] = t
	b.mu.Unlock()
	return t
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// EncodePeer implements raft.Transport: what a node says of itself is its plain
// address, though others dial it by addrOf.
func (t *transport) EncodePeer(id raft.ServerID, addr raft.ServerAddress) []byte {
	if m, ok := t.peers.member(string(id)); ok {
		return []byte(m.Raft)
	}
	return []byte(addr)
}

// SetHeartbeatHandler implements raft.Transport: it may be ignored.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Close implements raft.WithClose. It may be called more than once.
func (t *transport) Close() error {
	t.beats.mu.Lock()
	if t.beats.groups[t.group] == t {
		delete(t.beats.groups, t.group)
	}
	t.beats.mu.Unlock()
	t.cancel()
	t.merged.Wait()
	return t.NetworkTransport.Close()
}

// appending hears of each write of entries to the group's log, before it begins:
// the index of the last one.
func (t *transport) appending(last uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest = last
	if t.hurry != nil {
		close(t.hurry)
		t.hurry = nil
	}
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := isHeartbeat(args)
	if !heartbeat {
		// A follower of the library takes as committed whatever it has up to there, also
		// what lies behind this call's entries, which may be those of an older leader.
		args.LeaderCommitIndex = min(t.log.known(args.LeaderCommitIndex), args.PrevLogEntry+uint64(len(args.Entries)))
	}
	if can, hurry := t.canWait(id, args); can && t.beat(id, args, resp, hurry) {
		return nil
	}
	err := t.NetworkTransport.AppendEntries(id, named(id, target), args, resp)
	if !heartbeat {
		t.confirm(id, args, err == nil && resp.Success)
	}
	return err
}

// named is where a call goes if no address of the node is known, such as of one that
// was removed a moment ago: the library then dials the one of its configuration, at
// which another node may live by now. That one refuses what is for somebody else. It
// must: what a leader sends one node would undo what it has sent another.
func named(id raft.ServerID, target raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(addrOf(string(id), string(target)))
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return pastEnded(func() error { return t.NetworkTransport.RequestVote(id, named(id, target), args, resp) })
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return pastEnded(func() error { return t.NetworkTransport.RequestPreVote(id, named(id, target), args, resp) })
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return pastEnded(func() error { return t.NetworkTransport.TimeoutNow(id, named(id, target), args, resp) })
}

// pooledConns is how many idle connections to a peer a group keeps.
const pooledConns = 2

// pastEnded makes a call that may be made twice, and makes it again if its connection
// had ended: the library keeps idle connections without a look at them, and after a
// restart of the peer each of them fails the next call. A vote would be missed in an
// election, and the leadership not handed over.
func pastEnded(call func() error) error {
	for ended := 0; ; ended++ {
		err := call()
		if ended == pooledConns || !hasEnded(err) {
			return err
		}
	}
}

// hasEnded tells whether a call failed because the other side ended the connection.
func hasEnded(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, named(id, target), args, resp, data)
}

// beat makes a call with those of other groups; false if it has to go the usual way.
func (t *transport) beat(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, hurry <-chan struct{}) bool {
	m, ok := t.peers.member(string(id))
	if !ok {
		return false
	}
	answer := t.beats.add(m.at(), t.group, args)
	if answer == nil {
		return false
	}
	select {
	case b := <-answer:
		r, err := decodeBeatReply(b)
		if err != nil {
			return false
		}
		*resp = *r
		return true
	case <-hurry:
	case <-t.ctx.Done():
	}
	return false
}

// isHeartbeat tells the calls that are nothing else, as the library does.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0
}

// canWait tells whether a call may wait for others, until hurry is closed.
func (t *transport) canWait(id raft.ServerID, args *raft.AppendEntriesRequest) (ok bool, hurry <-chan struct{}) {
	if isHeartbeat(args) {
		return true, nil
	}
	if len(args.Entries) > 0 {
		return false, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// An entry that is on its way to the log, or has just got there, is newer.
	if t.newest > args.PrevLogEntry || t.confirmed[id] != (position{args.Term, args.PrevLogEntry, args.LeaderCommitIndex}) {
		return false, nil
	}
	if t.hurry == nil {
		t.hurry = make(chan struct{})
	}
	return true, t.hurry
}

// confirm notes what a follower has said of a call.
func (t *transport) confirm(id raft.ServerID, args *raft.AppendEntriesRequest, success bool) {
	at := position{args.Term, args.PrevLogEntry, args.LeaderCommitIndex}
	if n := len(args.Entries); n > 0 {
		at.index = args.Entries[n-1].Index
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if success && at.commit <= at.index {
		t.confirmed[id] = at
	} else {
		delete(t.confirmed, id)
	}
}

// transportTimeout bounds a call from Raft to Raft.
const transportTimeout = 3 * time.Second
