package raftnode

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// Here come bytes that anybody who reaches the port of the nodes can send, and
// the node's own files after the worst a disk can do to them.

func FuzzFrame(f *testing.F) {
	f.Add(frame{id: 1, method: 3, payload: []byte("hello")}.append(nil))
	f.Add(frame{id: 1<<64 - 1, method: 3 | replyBit, status: replyProblem}.append(nil))
	f.Add(binary.BigEndian.AppendUint32(nil, maxFrame))
	r := bufio.NewReaderSize(nil, 64<<10)
	f.Fuzz(func(t *testing.T, b []byte) {
		r.Reset(bytes.NewReader(b))
		for {
			got, err := readFrame(r)
			if err != nil {
				return
			}
			enc := got.append(nil)
			if len(enc) > len(b) || !bytes.Equal(enc, b[:len(enc)]) {
				t.Fatalf("%+v was read from %x", got, b)
			}
			b = b[len(enc):]
		}
	})
}

// FuzzHello tries each input with its own checksum and with the right one, which
// goes where the input ends.
func FuzzHello(f *testing.F) {
	f.Add(hello{protocol: protocolRaft, group: 7, from: Identity{ClusterID: [16]byte{1}, NodeID: "n1"}}.append(nil))
	f.Add(hello{protocol: protocolCalls, from: Identity{NodeID: "n1"}, to: "n2"}.append(nil))
	f.Add(hello{protocol: protocolCalls, from: Identity{NodeID: strings.Repeat("x", maxNodeID)}}.append(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{protocolRaft, helloVersion + 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		hellos(t, b)
		if n := len(b) - 4; n >= 0 {
			hellos(t, binary.BigEndian.AppendUint32(bytes.Clone(b[:n]), crc32.Checksum(b[:n], castagnoli)))
		}
	})
}

func hellos(t *testing.T, b []byte) {
	r := bytes.NewReader(b)
	h, err := readHello(r)
	if err != nil {
		var version helloVersionError
		if !errors.Is(err, errGarbage) && !errors.As(err, &version) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errSilent) {
			t.Fatalf("%x: %v is none of the errors of a hello", b, err)
		}
		return
	}
	if read := b[:len(b)-r.Len()]; !bytes.Equal(h.append(nil), read) {
		t.Fatalf("%x was read for %+v", read, h)
	}
	if len(h.from.NodeID) > maxNodeID || len(h.to) > maxNodeID {
		t.Fatalf("%+v has an id that is too long", h)
	}
}

func FuzzWelcome(f *testing.F) {
	f.Add(appendWelcome(nil, welcomeNoGroup, "does not know group 3 yet"))
	f.Add(appendWelcome(nil, welcomeOK, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		status, message, err := readWelcome(bytes.NewReader(b))
		if err != nil {
			return
		}
		if status >= welcomeStatuses || status != b[0] || strings.ContainsAny(message, "\n\x1b") {
			t.Fatalf("status %d, %q", status, message)
		}
	})
}

// FuzzCalls: the bodies of calls and of their answers, but for those that
// packages api and fsm decode.
func FuzzCalls(f *testing.F) {
	id := strings.Repeat("0a", 16)
	m := Member{ID: "n1", Raft: "127.0.0.1:9101", HTTP: "http://127.0.0.1:8101"}
	for i, v := range []any{
		status{Member: m, ClusterID: id, Groups: []groupStatus{{ID: 1, Term: 1 << 63}}, Strangers: []Member{m}},
		plan{ClusterID: id, Shards: 6, Members: []Member{m}},
		joinAnswer{ClusterID: id, Shards: 6, Members: []Member{m}},
		catalogAnswer{Index: 7, Result: fsm.CatalogResult{Err: api.NewProblem(api.RevisionConflict, "it is 8")}},
		problemFrame{api.NewProblem(api.Overloaded, "full"), 1e9},
		m,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		switch kind % 5 {
		case 0:
			if s := new(status); json.Unmarshal(body, s) == nil {
				p := newPeers(nil)
				p.meet(s.Member)
				p.note(*s, Member{})
				p.measure(*s, s.Groups)
				if _, ok := p.fresh(s.ID); !ok || len(p.strangers()) != 1 {
					t.Fatalf("%+v has been forgotten", s)
				}
			}
		case 1:
			if p := new(plan); json.Unmarshal(body, p) == nil && p.check() == nil {
				if !p.has(p.Members[0].ID) || p.has("") {
					t.Fatalf("%+v has no first member, or nobody as one", p)
				}
				rightIdentity(t, identity{Format: dataFormat, NodeID: "n1", Bootstrap: p})
			}
		case 2:
			if a := new(joinAnswer); json.Unmarshal(body, a) == nil && checkCluster(a.ClusterID, a.Shards, a.Members) == nil {
				rightIdentity(t, identity{Format: dataFormat, NodeID: "n1", ClusterID: a.ClusterID, Shards: a.Shards, Members: a.Members})
			}
		case 3:
			if a := new(catalogAnswer); json.Unmarshal(body, a) == nil && a.Result.Err != nil && a.Result.Err.Error() == "" {
				t.Fatal("a problem without words")
			}
		case 4:
			r := result("peer", frame{status: replyProblem, payload: body})
			var p *api.Problem
			if r.err == nil || errors.As(r.err, &p) && p.Outcome != api.NotApplied && p.Outcome != api.Unknown {
				t.Fatalf("%q is %+v, %v", body, r, r.err)
			}
		}
	})
}

// FuzzIdentity: what is read of a node.json is kept as it was read.
func FuzzIdentity(f *testing.F) {
	id := strings.Repeat("0a", 16)
	m := []Member{{ID: "n1", Raft: "127.0.0.1:9101", HTTP: "http://127.0.0.1:8101"}, {ID: "n2", Raft: "h:1"}}
	for _, v := range []identity{
		{Format: dataFormat, NodeID: "n1"},
		{Format: dataFormat, NodeID: "n1", ClusterID: id, Shards: 6, Members: m, Bootstrap: &plan{id, 6, m}, Complete: true},
		{Format: dataFormat + 1, NodeID: "n1"},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"format":1,"node_id":"n1","bootstrap":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum is right: what is wrong was written so.
		if v := (identity{}); json.Unmarshal(b, &v) == nil {
			v.Sum = v.sum()
			if b, _ = json.Marshal(v); len(b) == 0 {
				t.Fatalf("%+v can't be written", v)
			}
		}
		if v, err := decodeIdentity(b); err == nil {
			if said := v.said(); v.ClusterID == "" != (said.ClusterID == [16]byte{}) && strings.Trim(v.ClusterID, "0") != "" {
				t.Fatalf("the node says that it is %+v", said)
			}
			rightIdentity(t, v)
		}
	})
}

// rightIdentity checks that an identity that was taken can be kept and read.
func rightIdentity(t *testing.T, v identity) {
	t.Helper()
	v.Sum = v.sum()
	once, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeIdentity(once)
	if err != nil {
		t.Fatalf("%s can't be read: %v", once, err)
	}
	if twice, err := json.Marshal(again); err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%s came back as %s, %v", once, twice, err)
	}
}
