package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// knowsBeats is a node that answers beats, as all of this version do.
func knowsBeats(m *Mux, b *beats) { m.Handle(methodBeat, b.serve) }

// openTransports opens group 1 on nodes that know each other, over loopback. Their
// beats go out at once and wait for as long as it takes.
func openTransports(t *testing.T, handle func(*Mux, *beats), ids ...string) (list []*transport) {
	t.Helper()
	var members []Member
	for _, id := range ids {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, Member{ID: id, Raft: ln.Addr().String()})
		m := NewMux(ln, ln.Addr().String(), func() Identity { return Identity{ClusterID: [16]byte{1}, NodeID: id} }, slog.New(slog.DiscardHandler))
		p := newPeers(nil)
		b := newBeats(m, time.Second)
		b.wait, b.limit, b.patience = time.Millisecond, time.Minute, time.Minute
		handle(m, b)
		tr := openTransport(t, m, b, p, 1)
		m.Start()
		t.Cleanup(func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
			m.Close()
		})
		list = append(list, tr)
	}
	for _, tr := range list {
		tr.peers.learn(members)
	}
	return list
}

func openTransport(t *testing.T, m *Mux, b *beats, p *peers, group uint32) *transport {
	tr := unserved(m, b, p, group, emptyLog(t))
	tr.serve(func() []raft.Server { return nil })
	return tr
}

// unserved is a transport to which nothing comes in yet.
func unserved(m *Mux, b *beats, p *peers, group uint32, log storedLog) *transport {
	return newTransport(group, raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: m.Group(group), MaxPool: 1, Timeout: time.Minute, ServerAddressProvider: addressProvider{p},
	}), b, p, nil, log)
}

// appendTo makes a call to the node b; its error comes through the channel, and resp
// may be read after it.
func (t *transport) appendTo(args raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) <-chan error {
	args.RPCHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a"), Addr: []byte("the address of a")}
	ended := make(chan error, 1)
	go func() { ended <- t.AppendEntries("b", "nowhere", &args, resp) }()
	return ended
}

// next is the next call that a group's Raft gets.
func (t *transport) next(tt *testing.T) (raft.RPC, *raft.AppendEntriesRequest) {
	tt.Helper()
	select {
	case rpc := <-t.Consumer():
		args, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if !ok {
			tt.Fatalf("got %T", rpc.Command)
		}
		return rpc, args
	case <-time.After(time.Minute):
		tt.Fatal("the call never came")
	}
	panic("unreachable")
}

// Heartbeats reach the main goroutine like any other call, also when the library has
// set a handler to get them past; with those of other groups, and on their own.
func TestHeartbeatsWaitTheirTurn(t *testing.T) {
	for name, handle := range map[string]func(*Mux, *beats){
		"with others":                  knowsBeats,
		"to a node that knows no beat": func(*Mux, *beats) {},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := openTransports(t, handle, "a", "b")
			nodes[1].SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat got past the main goroutine") })
			for range 2 {
				var resp raft.AppendEntriesResponse
				ended := nodes[0].appendTo(raft.AppendEntriesRequest{Term: 7}, &resp)
				rpc, args := nodes[1].next(t)
				if args.Term != 7 || string(args.ID) != "a" || string(args.Addr) != "the address of a" {
					t.Errorf("got %+v", args)
				}
				rpc.Respond(&raft.AppendEntriesResponse{Term: 8, LastLog: 4, Success: true}, nil)
				if err := <-ended; err != nil || resp.Term != 8 || resp.LastLog != 4 || !resp.Success {
					t.Errorf("answer %+v, error %v", resp, err)
				}
			}
		})
	}
}

// What is meant for a node that is not known any more does not reach another one that
// lives at its address: a snapshot would take back what that one has got since.
func TestCallsReachNobodyElse(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	m, ok := nodes[0].peers.member("b")
	if !ok {
		t.Fatal("b is unknown")
	}
	at := raft.ServerAddress(m.Raft)
	head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a")}
	go func() {
		for {
			select {
			case rpc := <-nodes[1].Consumer():
				t.Errorf("b got %T", rpc.Command)
				rpc.Respond(nil, errors.New("not for me"))
			case <-nodes[1].ctx.Done():
				return
			}
		}
	}()
	for name, call := range map[string]func() error{
		"AppendEntries": func() error {
			return nodes[0].AppendEntries("gone", at, &raft.AppendEntriesRequest{RPCHeader: head, Term: 7, PrevLogEntry: 3}, &raft.AppendEntriesResponse{})
		},
		"InstallSnapshot": func() error {
			return nodes[0].InstallSnapshot("gone", at, &raft.InstallSnapshotRequest{RPCHeader: head, Term: 7, Size: 1}, &raft.InstallSnapshotResponse{}, strings.NewReader("s"))
		},
		"RequestVote": func() error {
			return nodes[0].RequestVote("gone", at, &raft.RequestVoteRequest{RPCHeader: head, Term: 7}, &raft.RequestVoteResponse{})
		},
		"RequestPreVote": func() error {
			return nodes[0].RequestPreVote("gone", at, &raft.RequestPreVoteRequest{RPCHeader: head, Term: 7}, &raft.RequestPreVoteResponse{})
		},
		"TimeoutNow": func() error {
			return nodes[0].TimeoutNow("gone", at, &raft.TimeoutNowRequest{RPCHeader: head}, &raft.TimeoutNowResponse{})
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "is b, not gone") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Only what a follower has and knows already may wait: never an entry, nor a commit
// that it has not heard of, nor what holds up the next entry.
func TestWhatIsNewNeverWaits(t *testing.T) {
	tr := openTransports(t, knowsBeats, "a")[0]
	const b = raft.ServerID("b")
	call := func(term, prev, commit uint64, entries ...*raft.Log) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev, PrevLogTerm: 1, LeaderCommitIndex: commit, Entries: entries}
	}
	waits := func(what string, args *raft.AppendEntriesRequest, want bool) <-chan struct{} {
		t.Helper()
		got, hurry := tr.canWait(b, args)
		if got != want {
			t.Errorf("%s: waits %v, want %v", what, got, want)
		}
		return hurry
	}
	waits("a heartbeat", &raft.AppendEntriesRequest{Term: 3}, true)
	waits("what was never confirmed", call(3, 9, 9), false)

	tr.appending(10)
	tr.confirm(b, call(3, 9, 9, &raft.Log{Index: 10}), true)
	waits("an entry", call(3, 10, 9, &raft.Log{Index: 11}), false)
	waits("news of a commit", call(3, 10, 10), false)
	waits("the next term", call(4, 10, 9), false)
	waits("the same again", call(3, 10, 9), true)

	tr.confirm(b, call(3, 10, 10), true)
	hurry := waits("the same again, with the commit", call(3, 10, 10), true)
	tr.appending(11)
	select {
	case <-hurry:
	default:
		t.Error("an entry does not hurry what waits")
	}
	waits("a call behind an entry on its way to the log", call(3, 10, 10), false)

	tr.confirm(b, call(3, 10, 12, &raft.Log{Index: 11}), true)
	waits("a follower that has not all that is committed", call(3, 11, 12), false)
	tr.confirm(b, call(3, 11, 11), true)
	waits("the same again", call(3, 11, 11), true)
	tr.confirm(b, call(3, 11, 11), false)
	waits("what was refused", call(3, 11, 11), false)
}

// What waits goes out as soon as there is an entry to send.
func TestAnEntryHurriesWhatWaits(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	nodes[0].beats.wait = time.Hour
	args := raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 10, PrevLogTerm: 3, LeaderCommitIndex: 10}
	nodes[0].confirm("b", &args, true)
	var resp raft.AppendEntriesResponse
	ended := nodes[0].appendTo(args, &resp)
	eventually(t, "the call waits", func() bool {
		nodes[0].beats.mu.Lock()
		defer nodes[0].beats.mu.Unlock()
		return nodes[0].beats.waiting
	})
	nodes[0].appending(11)
	rpc, got := nodes[1].next(t)
	if got.PrevLogEntry != 10 || got.LeaderCommitIndex != 10 {
		t.Errorf("got %+v", got)
	}
	rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
	if err := <-ended; err != nil || !resp.Success {
		t.Errorf("answer %+v, error %v", resp, err)
	}
}

// A group that does not answer holds up no other one: its call goes on alone.
func TestASlowGroupHoldsUpNoOther(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	a, b := nodes[0], nodes[1]
	a2, b2 := openTransport(t, a.beats.mux, a.beats, a.peers, 2), openTransport(t, b.beats.mux, b.beats, b.peers, 2)
	defer a2.Close()
	defer b2.Close()
	b.beats.patience = time.Millisecond
	a.beats.wait = 50 * time.Millisecond // both go together, as a rule

	var slow, quick raft.AppendEntriesResponse
	slowEnded := a.appendTo(raft.AppendEntriesRequest{Term: 3}, &slow)
	quickEnded := a2.appendTo(raft.AppendEntriesRequest{Term: 5}, &quick)
	rpc, _ := b2.next(t)
	rpc.Respond(&raft.AppendEntriesResponse{Term: 5, Success: true}, nil)
	if err := <-quickEnded; err != nil || quick.Term != 5 {
		t.Errorf("answer %+v, error %v", quick, err)
	}
	for { // what was given up may be here first
		select {
		case rpc := <-b.Consumer():
			rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
		case err := <-slowEnded:
			if err != nil || slow.Term != 3 {
				t.Errorf("answer %+v, error %v", slow, err)
			}
			return
		}
	}
}

// A connection without an answer is given up, and what waited goes on alone.
func TestASilentConnectionIsGivenUp(t *testing.T) {
	silent := make(chan struct{})
	defer close(silent)
	nodes := openTransports(t, func(m *Mux, b *beats) {
		m.Handle(methodBeat, func(ctx context.Context, _ Identity, _ []byte) ([]byte, error) {
			select {
			case <-silent:
			case <-ctx.Done():
			}
			return nil, ctx.Err()
		})
	}, "a", "b")
	nodes[0].beats.limit = 10 * time.Millisecond
	var resp raft.AppendEntriesResponse
	ended := nodes[0].appendTo(raft.AppendEntriesRequest{Term: 3}, &resp)
	rpc, _ := nodes[1].next(t)
	rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
	if err := <-ended; err != nil || !resp.Success {
		t.Errorf("answer %+v, error %v", resp, err)
	}
	if nodes[0].beats.add(addrOf("b", string(nodes[1].LocalAddr())), 1, &raft.AppendEntriesRequest{}) != nil {
		t.Error("the next one would wait for the same connection")
	}
}

func TestACloseEndsCallsThatWait(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	var resp raft.AppendEntriesResponse
	ended := nodes[0].appendTo(raft.AppendEntriesRequest{Term: 1}, &resp)
	nodes[1].next(t) // and no answer
	if err := nodes[0].Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a call without an answer succeeded")
	}
}

// What is pooled to a peer has ended once that was started again. A vote and a
// hand-over get there nevertheless, at the first try.
func TestVotesAndHandOversPassEndedConnections(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	a, b := nodes[0], nodes[1]
	head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a"), Addr: []byte("the address of a")}
	go func() {
		for {
			select {
			case rpc := <-b.Consumer():
				switch rpc.Command.(type) {
				case *raft.AppendEntriesRequest:
					rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
				case *raft.RequestVoteRequest:
					rpc.Respond(&raft.RequestVoteResponse{Term: 7, Granted: true}, nil)
				case *raft.RequestPreVoteRequest:
					rpc.Respond(&raft.RequestPreVoteResponse{Term: 7, Granted: true}, nil)
				default:
					rpc.Respond(&raft.TimeoutNowResponse{RPCHeader: head}, nil)
				}
			case <-b.ctx.Done():
				return
			}
		}
	}()
	for _, call := range []struct {
		name string
		make func() error
	}{
		{"RequestVote", func() error {
			return a.RequestVote("b", "nowhere", &raft.RequestVoteRequest{RPCHeader: head, Term: 7}, &raft.RequestVoteResponse{})
		}},
		{"RequestPreVote", func() error {
			return a.RequestPreVote("b", "nowhere", &raft.RequestPreVoteRequest{RPCHeader: head, Term: 7}, &raft.RequestPreVoteResponse{})
		}},
		{"TimeoutNow", func() error {
			return a.TimeoutNow("b", "nowhere", &raft.TimeoutNowRequest{RPCHeader: head}, &raft.TimeoutNowResponse{})
		}},
	} {
		var resp raft.AppendEntriesResponse
		if err := <-a.appendTo(raft.AppendEntriesRequest{Term: 7, Entries: []*raft.Log{{Index: 1, Term: 7}}}, &resp); err != nil {
			t.Fatal(err)
		}
		b.endConns()
		if err := call.make(); err != nil {
			t.Errorf("%s over a connection that has ended: %v", call.name, err)
		}
	}
	b.endConns()
	b.beats.mux.Close()
	if err := a.TimeoutNow("b", "nowhere", &raft.TimeoutNowRequest{RPCHeader: head}, &raft.TimeoutNowResponse{}); err == nil {
		t.Error("a node that is gone was told to stand for election")
	}
}

// endConns closes the connections that others have to the group.
func (t *transport) endConns() {
	t.beats.mux.mu.Lock()
	g := t.beats.mux.groups[t.group]
	t.beats.mux.mu.Unlock()
	g.mu.Lock()
	conns := slices.Collect(maps.Keys(g.conns))
	g.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}
