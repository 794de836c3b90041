package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

// A leader sends each follower a heartbeat every 100 to 200 ms, and every 200 to
// 400 ms an AppendEntries that tells how far the log is committed. The library has
// a connection for each group and peer, so with 64 idle shards that is a thousand
// times a second that processes wake each other for next to nothing. Hence calls
// without entries, of all groups, go to a node together as beats: those that come
// within a while are one call over one connection, and its answer holds those of
// each group's Raft. See transport for which calls go so.
//
// The shared connection is a convenience, and nothing hangs on it. Whatever it does
// not answer soon goes the usual way, over the group's own connection: a group that
// is slow to answer, a node that does not know this call, or a connection that has
// broken or is silent. A group that waits for its disk holds up the others for the
// patience of the follower, and no longer.
//
// These are divisors of an election timeout. What a beat waits for counts against the
// leader's lease, which is half of one: beatWait, beatLimit and the fifth from one
// heartbeat of the library to the next are 45 % of it together.
const (
	beatWait     = 20 // until the beats that have come go out
	beatLimit    = 5  // until a call without an answer is given up
	beatPatience = 40 // of the follower with groups that do not answer
)

// lineRest is how long a connection that failed is left alone.
const lineRest = 2 * time.Second

// beats are the calls without entries of all groups of a node.
type beats struct {
	mux                   *Mux
	wait, limit, patience time.Duration

	mu      sync.Mutex
	groups  map[uint32]*transport // that take beats of other nodes
	lines   map[string]*line      // by address, as for Mux.Call
	waiting bool                  // a timer is set that sends what has come
}

// line is what is to go to one node.
type line struct {
	calls   []byte        // as of appendBeat
	answers []chan []byte // one for each, which holds 1: its answer, nil if there is none
	rested  time.Time     // no beats before
}

func newBeats(m *Mux, election time.Duration) *beats {
	return &beats{
		mux: m, wait: election / beatWait, limit: election / beatLimit, patience: election / beatPatience,
		groups: map[uint32]*transport{}, lines: map[string]*line{},
	}
}

// add sends a call with the next ones to the node at addr. Its answer comes through
// the channel, nil if it has to go the usual way; there is no channel if it has to
// at once.
func (b *beats) add(addr string, group uint32, args *raft.AppendEntriesRequest) <-chan []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lines[addr]
	if l == nil {
		l = &line{}
		b.lines[addr] = l
	}
	if time.Now().Before(l.rested) {
		return nil
	}
	answer := make(chan []byte, 1)
	l.calls = appendBeat(l.calls, group, args)
	l.answers = append(l.answers, answer)
	if !b.waiting {
		b.waiting = true
		time.AfterFunc(b.wait, b.send)
	}
	return answer
}

// send lets go of what has come.
func (b *beats) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = false
	for addr, l := range b.lines {
		calls, answers := l.calls, l.answers
		l.calls, l.answers = nil, nil
		if len(answers) > 0 && !b.mux.spawn(func() { b.call(addr, l, calls, answers) }) {
			tell(nil, answers)
		}
	}
}

func (b *beats) call(addr string, l *line, calls []byte, answers []chan []byte) {
	ctx, cancel := context.WithTimeout(b.mux.ctx, b.limit)
	defer cancel()
	reply, err := b.mux.call(ctx, peerKey{addr, true}, methodBeat, calls)
	var each [][]byte
	if err == nil {
		each, err = records(reply, len(answers))
	}
	if err != nil {
		b.mu.Lock()
		l.rested = time.Now().Add(lineRest)
		b.mu.Unlock()
	}
	tell(each, answers)
}

// tell hands out answers, none where there is none.
func tell(each [][]byte, answers []chan []byte) {
	for i, a := range answers {
		if i < len(each) && len(each[i]) > 0 {
			a <- each[i]
		} else {
			a <- nil
		}
	}
}

// serve answers the beats of another node.
func (b *beats) serve(ctx context.Context, from Identity, req []byte) ([]byte, error) {
	var none [16]byte
	if own := b.mux.ident().ClusterID; own == none || from.ClusterID != own {
		return nil, api.NewProblem(api.NoLeader, "nodes that are not of one cluster")
	}
	calls, err := records(req, -1)
	if err != nil {
		return nil, api.NewProblem(api.InvalidRequest, "heartbeats can't be read: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	answers := make([]chan raft.RPCResponse, len(calls)) // nil of a call that is not delivered
	var busy []func()
	for i, call := range calls {
		group, args, err := decodeBeat(call)
		if err != nil {
			return nil, api.NewProblem(api.InvalidRequest, "a heartbeat can't be read: %v", err)
		}
		b.mu.Lock()
		t := b.groups[group]
		b.mu.Unlock()
		if t == nil || t.repair.refuses(args) {
			continue
		}
		answer := make(chan raft.RPCResponse, 1)
		rpc := raft.RPC{Command: args, RespChan: answer}
		select {
		case t.rpcs <- rpc:
			answers[i] = answer
		default:
			busy = append(busy, func() { // after those that take it at once
				select {
				case t.rpcs <- rpc:
					answers[i] = answer
				case <-ctx.Done():
				}
			})
		}
	}
	for _, deliver := range busy {
		deliver()
	}
	var reply []byte
	for _, answer := range answers {
		reply = appendBeatReply(reply, received(ctx, answer))
	}
	return reply, nil
}

// received is what a group's Raft answers before ctx ends, nil if nothing.
func received(ctx context.Context, answer <-chan raft.RPCResponse) *raft.AppendEntriesResponse {
	var r raft.RPCResponse
	select {
	case r = <-answer:
	default:
		select {
		case r = <-answer:
		case <-ctx.Done():
			return nil
		}
	}
	resp, _ := r.Response.(*raft.AppendEntriesResponse)
	if r.Error != nil {
		return nil
	}
	return resp
}

// Both ways, beats are records in the order of the calls, each a u16 length and as
// many bytes. All numbers are big-endian. A call is:
//
//	u32 group, u64 term, u64 index and u64 term of the entry before, u64 commit
//	index, the header
//
// its answer, which is empty if there is none:
//
//	u64 term, u64 last index, u8 1 success + 2 no back-off, the header
//
// and the header, which ends both: u8 version of the protocol, u16 length of the
// node's id and the id; the rest is its address.
const beatSize, beatReplySize, beatHeader = 4 + 4*8, 2*8 + 1, 3

var errShortBeat = errors.New("it is cut short")

// records cuts b into want records, or as many as there are if that is negative.
func records(b []byte, want int) (each [][]byte, err error) {
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, errShortBeat
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > len(b)-2 {
			return nil, errShortBeat
		}
		each = append(each, b[2:2+n])
		b = b[2+n:]
	}
	if want >= 0 && len(each) != want {
		return nil, errors.New("answers are missing, or too many")
	}
	return each, nil
}

// record adds to b what f adds to it, under its length.
func record(b []byte, f func([]byte) []byte) []byte {
	at := len(b)
	b = f(append(b, 0, 0))
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

func appendBeat(b []byte, group uint32, args *raft.AppendEntriesRequest) []byte {
	return record(b, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, group)
		for _, v := range []uint64{args.Term, args.PrevLogEntry, args.PrevLogTerm, args.LeaderCommitIndex} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		return appendBeatHeader(b, args.RPCHeader)
	})
}

func decodeBeat(b []byte) (group uint32, args *raft.AppendEntriesRequest, err error) {
	if len(b) < beatSize {
		return 0, nil, errShortBeat
	}
	be := binary.BigEndian
	args = &raft.AppendEntriesRequest{
		Term: be.Uint64(b[4:]), PrevLogEntry: be.Uint64(b[12:]), PrevLogTerm: be.Uint64(b[20:]), LeaderCommitIndex: be.Uint64(b[28:]),
	}
	args.RPCHeader, err = decodeBeatHeader(b[beatSize:])
	return be.Uint32(b), args, err
}

// appendBeatReply adds an answer, or that there is none.
func appendBeatReply(b []byte, resp *raft.AppendEntriesResponse) []byte {
	return record(b, func(b []byte) []byte {
		if resp == nil {
			return b
		}
		b = binary.BigEndian.AppendUint64(b, resp.Term)
		b = binary.BigEndian.AppendUint64(b, resp.LastLog)
		var flags byte
		if resp.Success {
			flags |= 1
		}
		if resp.NoRetryBackoff {
			flags |= 2
		}
		return appendBeatHeader(append(b, flags), resp.RPCHeader)
	})
}

func decodeBeatReply(b []byte) (*raft.AppendEntriesResponse, error) {
	if len(b) < beatReplySize {
		return nil, errShortBeat
	}
	be := binary.BigEndian
	h, err := decodeBeatHeader(b[beatReplySize:])
	flags := b[beatReplySize-1]
	return &raft.AppendEntriesResponse{
		RPCHeader: h, Term: be.Uint64(b), LastLog: be.Uint64(b[8:]), Success: flags&1 != 0, NoRetryBackoff: flags&2 != 0,
	}, err
}

func appendBeatHeader(b []byte, h raft.RPCHeader) []byte {
	b = append(b, byte(h.ProtocolVersion))
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.ID)))
	return append(append(b, h.ID...), h.Addr...)
}

func decodeBeatHeader(b []byte) (raft.RPCHeader, error) {
	if len(b) < beatHeader {
		return raft.RPCHeader{}, errShortBeat
	}
	n, rest := int(binary.BigEndian.Uint16(b[1:])), b[beatHeader:]
	if n > len(rest) {
		return raft.RPCHeader{}, errShortBeat
	}
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(b[0]), ID: rest[:n], Addr: rest[n:]}, nil
}
