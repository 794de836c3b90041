package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

// eventually polls cond until it holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// testMux is a started mux on a port of the loopback interface.
type testMux struct {
	*Mux
	addr string
	log  *lockedBuffer

	mu sync.Mutex
	id Identity
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (m *testMux) become(id Identity) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
}

// newTestMux makes a mux of the cluster with this number, 0 for none. before
// runs before it starts. It is closed at the test's end, and nothing of it may
// be left then.
func newTestMux(t *testing.T, cluster byte, before func(*Mux)) *testMux {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &testMux{addr: ln.Addr().String(), log: new(lockedBuffer)}
	m.id = Identity{ClusterID: [16]byte{15: cluster}, NodeID: "node-" + ln.Addr().String()}
	m.Mux = NewMux(ln, m.addr, func() Identity {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.id
	}, slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if before != nil {
		before(m.Mux)
	}
	m.Start()
	t.Cleanup(func() {
		m.Close()
		goleak.VerifyNone(t, leaks)
		m.Mux.mu.Lock()
		defer m.Mux.mu.Unlock()
		if n := len(m.conns); n > 0 {
			t.Errorf("%d connections are tracked after Close", n)
		}
	})
	return m
}

func (m *testMux) openConns() int {
	m.Mux.mu.Lock()
	defer m.Mux.mu.Unlock()
	return len(m.conns)
}

func TestStreamsReachTheGroupTheyAreFor(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 1, nil)
	for _, id := range []uint32{0, 3} {
		from, to := a.Group(id), b.Group(id)
		if got := to.Addr().String(); got != b.addr {
			t.Fatalf("the layer's address is %s, want the advertised %s", got, b.addr)
		}
		out, err := from.Dial(raft.ServerAddress(b.addr), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		in, err := to.Accept()
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("group %d", id)
		go io.WriteString(out, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
			t.Fatalf("got %q, %v; want %q", got, err, text)
		}
	}
}

func TestTwoClustersNeverSpeak(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 2, func(m *Mux) { m.Handle(1, echo) })
	ga := a.Group(1)
	b.Group(1)
	_, err := ga.Dial(raft.ServerAddress(b.addr), time.Second)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Retryable {
		t.Fatalf("a stream into another cluster: %v; want a refusal for good", err)
	}
	if want := "the node at " + b.addr + " belongs to another cluster"; !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %q, want it to say %q", err, want)
	}
	if _, err := a.Call(t.Context(), b.addr, 1, nil); !errors.Is(err, ErrNotSent) || !errors.As(err, &refused) {
		t.Errorf("a call into another cluster: %v; want a refusal, not sent", err)
	}
	eventually(t, "the refusal is logged", func() bool { return strings.Contains(b.log.String(), "another cluster") })
}

// Behind a stale address, nobody answers in the place of the node that was meant.
func TestOnlyTheNodeThatIsMeantAnswers(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 1, func(m *Mux) { m.Handle(1, echo) })
	ga := a.Group(1)
	b.Group(1)
	for _, dial := range []func(addr string) error{
		func(addr string) error {
			_, err := ga.Dial(raft.ServerAddress(addr), time.Second)
			return err
		},
		func(addr string) error {
			_, err := a.Call(t.Context(), addr, 1, nil)
			return err
		},
	} {
		var refused *RefusedError
		err := dial(addrOf("n2", b.addr))
		if !errors.As(err, &refused) || !refused.Retryable || !strings.Contains(err.Error(), "is "+b.ident().NodeID+", not n2") {
			t.Errorf("n2 was meant: %v", err)
		}
		for _, addr := range []string{addrOf(b.ident().NodeID, b.addr), b.addr} {
			if err := dial(addr); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
		}
	}
}

func TestNodesWithoutAClusterHaveNoRaft(t *testing.T) {
	for _, c := range []struct {
		from, to  byte
		retryable bool
		says      string
	}{
		{1, 0, true, "belongs to no cluster yet"},
		{0, 0, true, "belongs to no cluster yet"},
		{0, 1, false, "belongs to a cluster, and the caller to none"},
	} {
		a, b := newTestMux(t, c.from, nil), newTestMux(t, c.to, nil)
		b.Group(1)
		_, err := a.Group(1).Dial(raft.ServerAddress(b.addr), time.Second)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Retryable != c.retryable || !strings.Contains(err.Error(), c.says) {
			t.Errorf("from cluster %d to %d: %v; want retryable %v, %q", c.from, c.to, err, c.retryable, c.says)
		}
	}
}

func TestAGroupThatIsNotThereYetIsRetryable(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 1, nil)
	ga := a.Group(3)
	_, err := ga.Dial(raft.ServerAddress(b.addr), time.Second)
	var refused *RefusedError
	if !errors.As(err, &refused) || !refused.Retryable || !strings.Contains(err.Error(), "does not know group 3 yet") {
		t.Fatalf("got %v", err)
	}
	gb := b.Group(3)
	if _, err := ga.Dial(raft.ServerAddress(b.addr), time.Second); err != nil {
		t.Fatalf("after the group came: %v", err)
	}
	gb.Close()
	if _, err := ga.Dial(raft.ServerAddress(b.addr), time.Second); !errors.As(err, &refused) {
		t.Fatalf("after the group went: %v", err)
	}
	b.Group(3) // may come again
}

func TestAClosedGroupLeavesNoConnection(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 1, nil)
	ga, gb := a.Group(1), b.Group(1)
	taken, err := ga.Dial(raft.ServerAddress(b.addr), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in, err := gb.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ga.Dial(raft.ServerAddress(b.addr), time.Second); err != nil {
		t.Fatal(err) // stays in gb's queue
	}
	eventually(t, "both are open", func() bool { return b.openConns() == 2 })
	gb.Close()
	if _, err := gb.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("an accepted connection is open after Close")
	}
	if _, err := taken.Read(make([]byte, 1)); err == nil {
		t.Error("the other end is open after Close")
	}
	ga.Close()
	eventually(t, "no connection is left", func() bool { return a.openConns() == 0 && b.openConns() == 0 })
	if _, err := ga.Dial(raft.ServerAddress(b.addr), time.Second); err == nil {
		t.Error("a closed group dials")
	}
}

func TestGarbageIsClosedWithOneClearLine(t *testing.T) {
	good := hello{protocol: protocolCalls, from: Identity{ClusterID: [16]byte{15: 1}, NodeID: "n1"}}.append(nil)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1
	for name, c := range map[string]struct {
		bytes []byte
		says  string
	}{
		"HTTP":        {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "an HTTP request"},
		"CONNECT":     {[]byte("CONNECT x HTTP/1.1\r\n\r\n"), "an HTTP request"},
		"TLS":         {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "a TLS hello"},
		"random":      {[]byte("\xde\xad\xbe\xef"), "it began with 0xdead"},
		"flipped bit": {flipped, "a wrong checksum"},
		"cut short":   {good[:12], "unexpected EOF"},
		"long id":     {append(bytes.Clone(good[:22]), 0x81, 0x01), "a node id of 129 bytes"},
		"endless id":  {append(bytes.Clone(good[:22]), 0xff, 0xff, 0xff), "a node id of more than 128 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestMux(t, 1, nil)
			conn, err := net.Dial("tcp", m.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(c.bytes)
			conn.(*net.TCPConn).CloseWrite()
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) || n > 0 {
				t.Errorf("got %d bytes, %v; want a closed connection", n, err)
			}
			local := conn.LocalAddr().String()
			eventually(t, "a line with the reason and the address", func() bool {
				l := m.log.String()
				return strings.Contains(l, c.says) && strings.Contains(l, local) && strings.Count(l, "level=WARN") == 1
			})
		})
	}
}

func TestWhoKeepsANodeWaitingIsToldOfInWords(t *testing.T) {
	for sent, says := range map[string]string{"": "sent nothing for 50ms", "C\x02abc": "sent only part of a hello in 50ms"} {
		m := newTestMux(t, 1, func(m *Mux) { m.patience = 50 * time.Millisecond })
		conn, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, sent)
		local := conn.LocalAddr().String()
		eventually(t, "a line that says "+says, func() bool {
			l := m.log.String()
			return strings.Contains(l, says) && strings.Contains(l, local)
		})
		if l := m.log.String(); strings.Contains(l, "i/o timeout") {
			t.Errorf("the log has %s", l)
		}
	}
}

func TestWarningsAboutStrangersAreLimited(t *testing.T) {
	m := newTestMux(t, 1, nil)
	for range 50 {
		conn, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("nonsense"))
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	if n := strings.Count(m.log.String(), "level=WARN"); n < 1 || n > 15 {
		t.Errorf("50 strangers made %d lines", n)
	}
}

func TestAnotherVersionIsTold(t *testing.T) {
	m := newTestMux(t, 1, nil)
	conn, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(append([]byte{protocolRaft, 1}, make([]byte, 1000)...))
	status, message, err := readWelcome(conn)
	if err != nil || status != welcomeVersion || message != "speaks version 2 of the node protocol, not 1" {
		t.Errorf("got %d, %q, %v", status, message, err)
	}
}

func TestADiallerGetsAClearErrorFromAStranger(t *testing.T) {
	m := newTestMux(t, 1, nil)
	for answer, says := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n": "not a node of rlstore",
		"":                             "closed the connection instead of answering",
		string(appendWelcome(nil, welcomeVersion, "speaks version 2 of the node protocol, not 1")): "speaks version 2",
		string(appendWelcome(nil, welcomeNoGroup, "has a \x1b[31mred\xff message")):                "has a ?[31mred? message",
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := ln.Accept(); err == nil {
				readHello(c)
				io.WriteString(c, answer)
				c.Close()
			}
		}()
		_, err = m.Call(t.Context(), ln.Addr().String(), 1, nil)
		if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), ln.Addr().String()) {
			t.Errorf("answered with %q: %v; want %q", answer, err, says)
		}
		ln.Close()
	}
}

func TestHalfOpenConnectionsHoldNothingForLong(t *testing.T) {
	m := newTestMux(t, 1, func(m *Mux) {
		m.patience = 100 * time.Millisecond
		m.Handle(1, echo)
	})
	const strangers = maxHandshakes + 20
	for range strangers {
		conn, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, "some handshakes are under way", func() bool { return m.openConns() > 0 })
	if n := m.openConns(); n > maxHandshakes {
		t.Errorf("%d handshakes at once", n)
	}
	eventually(t, "all are closed", func() bool { return m.openConns() == 0 })
	if _, err := m.Call(t.Context(), m.addr, 1, nil); err != nil {
		t.Errorf("a node that comes after them: %v", err)
	}
}

func TestADiallerWaitsForAHandshakeNoLongerThanBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	m := newTestMux(t, 1, func(m *Mux) { m.patience = 50 * time.Millisecond })
	_, err = m.Group(1).Dial(raft.ServerAddress(ln.Addr().String()), time.Minute)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
}

func TestRaftTransportsRunOverTheMux(t *testing.T) {
	a, b := newTestMux(t, 1, nil), newTestMux(t, 1, nil)
	transport := func(m *testMux) *raft.NetworkTransport {
		tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: m.Group(2), MaxPool: 2, MaxRPCsInFlight: 1, Timeout: 2 * time.Second,
		})
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	ta, tb := transport(a), transport(b)
	if _, ok := any(ta).(raft.WithPreVote); !ok {
		t.Error("no pre-vote through the transport")
	}
	go func() {
		for range 3 {
			rpc := <-tb.Consumer()
			rpc.Respond(&raft.AppendEntriesResponse{Term: rpc.Command.(*raft.AppendEntriesRequest).Term, Success: true}, nil)
		}
	}()
	for term := range uint64(3) {
		var resp raft.AppendEntriesResponse
		req := &raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{Data: make([]byte, 1<<20)}}}
		if err := ta.AppendEntries("b", tb.LocalAddr(), req, &resp); err != nil || resp.Term != term || !resp.Success {
			t.Fatalf("term %d: %+v, %v", term, resp, err)
		}
	}
	if n := a.openConns(); n != 1 {
		t.Errorf("%d connections for RPCs one after the other", n)
	}
}
