package raftnode

import (
	"context"
	"io"
	"slices"

	"github.com/hashicorp/raft"
)

// storedLog is what inbound calls are compared with: the group's log.
type storedLog interface {
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	GetLog(index uint64, entry *raft.Log) error
	// known and settle are as of a parallelLog.
	known(committed uint64) uint64
	settle(ctx context.Context) error
}

// serve begins to hand on what comes over the streams. servers is the group's latest
// configuration.
func (t *transport) serve(servers func() []raft.Server) {
	t.merged.Go(func() { t.merge(servers) })
}

func (t *transport) merge(servers func() []raft.Server) {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if t.repair.refuses(rpc.Command) {
				refuse(rpc, errLost)
				continue
			}
			if t.log.settle(t.ctx) != nil { // written as a leader, and asked for as a follower
				if t.ctx.Err() != nil {
					return
				}
				refuse(rpc, errUnwritten)
				continue
			}
			switch args := rpc.Command.(type) {
			case *raft.InstallSnapshotRequest:
				if t.caughtUp() && covers(t.log, args.LastLogIndex, args.LastLogTerm) {
					go skipSnapshot(rpc, args)
					continue
				}
			case *raft.RequestVoteRequest:
				t.introduce(&args.RPCHeader, args.LastLogIndex, args.LastLogTerm, servers)
			case *raft.RequestPreVoteRequest:
				t.introduce(&args.RPCHeader, args.LastLogIndex, args.LastLogTerm, servers)
			}
			if !t.hand(rpc) {
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// hand gives a call to the group's Raft; false if the transport was closed first.
func (t *transport) hand(rpc raft.RPC) bool {
	select {
	case t.rpcs <- rpc:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// caughtUp returns once Raft has done all that was handed to it before, so that the log
// stays as it is until the next call; false if the transport was closed. Raft takes a
// call when it is done with the one before. This one it refuses for its version
// before it looks at anything else.
func (t *transport) caughtUp() bool {
	return t.hand(raft.RPC{
		Command:  &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax + 1}},
		RespChan: make(chan raft.RPCResponse, 1),
	})
}

// covers tells whether a log has all that a snapshot up to an entry stands for: that
// entry, and so all before it. What the log no longer has is in a snapshot already.
func covers(log storedLog, index, term uint64) bool {
	first, err := log.FirstIndex()
	if err != nil || first == 0 {
		return false
	}
	if index < first {
		return true
	}
	var e raft.Log
	return log.GetLog(index, &e) == nil && e.Term == term
}

// skipSnapshot answers for a snapshot that has nothing new: the leader goes on behind
// it.
//
// The library would install it and empty the log, with the entries behind the snapshot,
// but go on as if it had them: it would panic at the next commit, looking for one, or
// stand for election with a log that it has lost. It takes a follower that has written
// entries, and whose answer was lost.
func skipSnapshot(rpc raft.RPC, args *raft.InstallSnapshotRequest) {
	_, err := io.Copy(io.Discard, rpc.Reader)
	rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: args.Term, Success: err == nil}, err)
}

// introduce lets the library judge a candidate, by its log and its term, that has no
// vote in this node's configuration but a newer log: one that may hold the
// configuration in which it has one.
//
// The library refuses whoever it does not know (github.com/hashicorp/raft/pull/526), a
// guard against the removed, who would ask again and again. So does a voter that was
// down while a node joined, and if one more voter fails, there is no majority for
// anybody though most are up. Raft itself has no such rule: a server grants its vote to
// a candidate that is not in its configuration (Ongaro's thesis, section 4.1). The
// removed have no newer log, or no majority.
//
// The id in the header serves that rule alone; the vote goes by the address. A voter
// that is known vouches.
func (t *transport) introduce(h *raft.RPCHeader, lastIndex, lastTerm uint64, servers func() []raft.Server) {
	list := servers()
	isVoter := func(s raft.Server) bool { return s.Suffrage == raft.Voter }
	known := slices.IndexFunc(list, isVoter)
	if known < 0 || slices.ContainsFunc(list, func(s raft.Server) bool { return isVoter(s) && string(s.ID) == string(h.ID) }) {
		return
	}
	last, err := t.log.LastIndex()
	if err != nil || last == 0 {
		return
	}
	var e raft.Log
	if err := t.log.GetLog(last, &e); err != nil || lastTerm < e.Term || lastTerm == e.Term && lastIndex <= last {
		return
	}
	h.ID = []byte(list[known].ID)
}
