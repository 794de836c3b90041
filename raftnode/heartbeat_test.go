package raftnode

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A heartbeat reaches the main goroutine like any other call, also when the
// library has set a handler to get it past.
func TestHeartbeatsWaitTheirTurn(t *testing.T) {
	open := func() inOrder {
		trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { trans.CloseStreams(); trans.Close() })
		return inOrder{trans, newPeers(nil)}
	}
	from, to := open(), open()
	to.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat got past the main goroutine") })
	sent := make(chan error, 1)
	go func() {
		// This is what the transport takes for a heartbeat.
		beat := &raft.AppendEntriesRequest{Term: 7, RPCHeader: raft.RPCHeader{Addr: []byte("a")}}
		sent <- from.AppendEntries("b", to.LocalAddr(), beat, &raft.AppendEntriesResponse{})
	}()
	select {
	case rpc := <-to.Consumer():
		if beat, ok := rpc.Command.(*raft.AppendEntriesRequest); !ok || beat.Term != 7 {
			t.Errorf("got %+v", rpc.Command)
		}
		rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
	case <-time.After(10 * time.Second):
		t.Fatal("the heartbeat never came")
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
