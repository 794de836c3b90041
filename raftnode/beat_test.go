package raftnode

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
)

func TestBeatsReadBackWhole(t *testing.T) {
	h := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1"), Addr: []byte("127.0.0.1:9101")}
	args := &raft.AppendEntriesRequest{
		RPCHeader: h, Term: 7, PrevLogEntry: 1 << 40, PrevLogTerm: 6, LeaderCommitIndex: 99,
	}
	calls, err := records(appendBeat(appendBeat(nil, 12, args), 13, args), 2)
	if err != nil {
		t.Fatal(err)
	}
	for i, call := range calls {
		group, got, err := decodeBeat(call)
		if err != nil || group != uint32(12+i) || !reflect.DeepEqual(got, args) {
			t.Errorf("group %d, %+v, error %v; want %+v of %d", group, got, err, args, 12+i)
		}
	}
	answers := []*raft.AppendEntriesResponse{
		{RPCHeader: h, Term: 8, LastLog: 1 << 41, Success: true},
		nil,
		{RPCHeader: h, Term: 9, LastLog: 3, NoRetryBackoff: true},
	}
	var reply []byte
	for _, a := range answers {
		reply = appendBeatReply(reply, a)
	}
	each, err := records(reply, len(answers))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range answers {
		if want == nil {
			if len(each[i]) != 0 {
				t.Errorf("no answer is %x", each[i])
			}
			continue
		}
		if got, err := decodeBeatReply(each[i]); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, error %v; want %+v", got, err, want)
		}
	}
	if _, err := records(reply, 2); err == nil {
		t.Error("three answers to two calls")
	}
}

func TestABeatCutShortIsRefused(t *testing.T) {
	h := raft.RPCHeader{ID: []byte("n1")}
	beat := appendBeat(nil, 1, &raft.AppendEntriesRequest{RPCHeader: h})
	for n := 1; n < len(beat); n++ {
		if _, err := records(beat[:n], -1); err == nil {
			t.Errorf("the first %d of %d bytes of a beat are taken for one", n, len(beat))
		}
	}
	for n := range len(beat) - 2 {
		if _, _, err := decodeBeat(beat[2 : 2+n]); err == nil {
			t.Errorf("a beat of %d of its %d bytes is taken for one", n, len(beat)-2)
		}
	}
	reply := appendBeatReply(nil, &raft.AppendEntriesResponse{RPCHeader: h})[2:]
	for n := range reply {
		if _, err := decodeBeatReply(reply[:n]); err == nil {
			t.Errorf("the first %d of %d bytes of a reply are taken for one", n, len(reply))
		}
	}
}

// FuzzBeats reads what another node may send, as calls and as answers.
func FuzzBeats(f *testing.F) {
	h := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1"), Addr: []byte("127.0.0.1:9101")}
	f.Add(appendBeat(nil, 12, &raft.AppendEntriesRequest{RPCHeader: h, Term: 7}))
	f.Add(appendBeatReply(appendBeatReply(nil, nil), &raft.AppendEntriesResponse{RPCHeader: h, Term: 8}))
	f.Fuzz(func(t *testing.T, b []byte) {
		each, err := records(b, -1)
		if err != nil {
			return
		}
		for _, r := range each {
			if group, args, err := decodeBeat(r); err == nil {
				if again := appendBeat(nil, group, args); !bytes.Equal(again[2:], r) {
					t.Errorf("%x was read as %+v, which is %x", r, args, again)
				}
			}
			if resp, err := decodeBeatReply(r); err == nil {
				if again, err := decodeBeatReply(appendBeatReply(nil, resp)[2:]); err != nil || !reflect.DeepEqual(again, resp) {
					t.Errorf("%x was read as %+v and again as %+v, %v", r, resp, again, err)
				}
			}
		}
	})
}
