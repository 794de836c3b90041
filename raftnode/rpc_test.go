package raftnode

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func echo(_ context.Context, _ Identity, payload []byte) ([]byte, error) { return payload, nil }

func TestManyCallsAtOnceGetTheirOwnReplies(t *testing.T) {
	b := newTestMux(t, 1, func(m *Mux) { m.Handle(1, echo); m.Handle(2, echo) })
	a := newTestMux(t, 1, nil)
	var wg sync.WaitGroup
	for caller := range 32 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(caller)))
			for range 200 {
				payload := make([]byte, rng.IntN(2000))
				for i := range payload {
					payload[i] = byte(rng.Uint32())
				}
				got, err := a.Call(t.Context(), b.addr, uint8(1+rng.IntN(2)), payload)
				if err != nil || !bytes.Equal(got, payload) {
					t.Errorf("caller %d: %d bytes came back as %d, %v", caller, len(payload), len(got), err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := a.openConns(); n != 1 {
		t.Errorf("%d connections to one address", n)
	}
}

func TestPayloadsUpToTheLargestFramePass(t *testing.T) {
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, echo)
		m.Handle(2, func(context.Context, Identity, []byte) ([]byte, error) { return make([]byte, maxPayload+1), nil })
	})
	for _, n := range []int{0, 1, 1<<20 - 1, 1 << 20, 3<<20 + 5, maxPayload} {
		payload := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
		got, err := b.Call(t.Context(), b.addr, 1, payload)
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
	}
	if _, err := b.Call(t.Context(), b.addr, 1, make([]byte, maxPayload+1)); !errors.Is(err, &api.Problem{Code: api.PayloadTooLarge}) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := b.Call(t.Context(), b.addr, 2, nil); !errors.Is(err, &api.Problem{Code: api.Internal}) {
		t.Errorf("a reply of one byte more: %v", err)
	}
}

func TestAHandlersProblemArrivesAsItWas(t *testing.T) {
	sent := api.NewProblem(api.NoLeader, "shard %d has none", 3)
	shard := uint32(0) // the catalog, which is not the same as none
	sent.Shard, sent.RetryAfter = &shard, 250*time.Millisecond
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(context.Context, Identity, []byte) ([]byte, error) { return nil, sent })
		m.Handle(2, func(context.Context, Identity, []byte) ([]byte, error) { return nil, errors.New("no problem") })
	})
	_, err := b.Call(t.Context(), b.addr, 1, nil)
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != sent.Code || p.Outcome != sent.Outcome || p.Detail != sent.Detail ||
		p.Shard == nil || *p.Shard != 0 || p.RetryAfter != sent.RetryAfter || p.Status != sent.Status || !p.Retryable {
		t.Errorf("got %+v, want %+v", p, sent)
	}
	if _, err := b.Call(t.Context(), b.addr, 2, nil); !errors.As(err, &p) || p.Code != api.Internal || p.Outcome != api.Unknown {
		t.Errorf("a plain error came as %v", err)
	}
	if _, err := b.Call(t.Context(), b.addr, 99, nil); !errors.As(err, &p) || p.Code != api.NotFound || p.Outcome != api.NotApplied {
		t.Errorf("a method without a handler: %v", err)
	}
}

func TestHandlersSeeWhoCalls(t *testing.T) {
	callers := make(chan Identity, 1)
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(_ context.Context, from Identity, _ []byte) ([]byte, error) {
			callers <- from
			return nil, nil
		})
	})
	a := newTestMux(t, 0, nil)
	for _, id := range []Identity{{NodeID: "n9"}, {NodeID: "n9", ClusterID: [16]byte{15: 1}}} {
		// The second time, the node has got its cluster: a new connection says so.
		a.become(id)
		if _, err := a.Call(t.Context(), b.addr, 1, nil); err != nil {
			t.Fatal(err)
		}
		if got := <-callers; got != id {
			t.Errorf("the handler saw %+v, want %+v", got, id)
		}
	}
	eventually(t, "the connection of the old identity is closed", func() bool { return a.openConns() == 1 })
}

func TestAConnectionEndsWhenTheClustersComeToDiffer(t *testing.T) {
	b := newTestMux(t, 0, func(m *Mux) { m.Handle(1, echo) })
	a := newTestMux(t, 1, nil)
	if _, err := a.Call(t.Context(), b.addr, 1, nil); err != nil {
		t.Fatal(err)
	}
	b.become(Identity{ClusterID: [16]byte{15: 2}, NodeID: "b"})
	if _, err := a.Call(t.Context(), b.addr, 1, nil); !errors.Is(err, ErrNoReply) {
		t.Errorf("on the old connection: %v", err)
	}
	var refused *RefusedError
	if _, err := a.Call(t.Context(), b.addr, 1, nil); !errors.As(err, &refused) || !errors.Is(err, ErrNotSent) {
		t.Errorf("on a new one: %v", err)
	}
}

func TestACallToNobodyIsNotSent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	a := newTestMux(t, 1, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := a.Call(t.Context(), addr, 1, nil); !errors.Is(err, ErrNotSent) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestABrokenConnectionFailsItsCallsAtOnceAndIsDialledAgain(t *testing.T) {
	entered := make(chan struct{}, 10)
	var ended atomic.Int32
	block := func(ctx context.Context, _ Identity, _ []byte) ([]byte, error) {
		entered <- struct{}{}
		<-ctx.Done()
		ended.Add(1)
		return nil, ctx.Err()
	}
	b := newTestMux(t, 1, func(m *Mux) { m.Handle(1, block); m.Handle(2, echo) })
	a := newTestMux(t, 1, nil)
	const calls = 5
	results := make(chan error, calls)
	for range calls {
		go func() {
			_, err := a.Call(t.Context(), b.addr, 1, []byte("x"))
			results <- err
		}()
	}
	for range calls {
		<-entered
	}
	b.Mux.mu.Lock()
	for c := range b.conns {
		c.Close() // the network's doing
	}
	b.Mux.mu.Unlock()
	for range calls {
		if err := <-results; !errors.Is(err, ErrNoReply) {
			t.Errorf("a call on the broken connection: %v", err)
		}
	}
	eventually(t, "the handlers' contexts end", func() bool { return ended.Load() == calls })
	eventually(t, "calls pass again", func() bool {
		_, err := a.Call(t.Context(), b.addr, 2, nil)
		return err == nil
	})
}

func TestACallWhoseContextEndsSaysWhetherItWasSent(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(context.Context, Identity, []byte) ([]byte, error) {
			entered <- struct{}{}
			<-release
			return nil, nil
		})
		m.Handle(2, echo)
	})
	a := newTestMux(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	if _, err := a.Call(ctx, b.addr, 1, nil); !errors.Is(err, ErrNoReply) || !errors.Is(err, context.Canceled) {
		t.Errorf("left while the handler ran: %v", err)
	}
	close(release)
	if got, err := a.Call(t.Context(), b.addr, 2, []byte("y")); err != nil || string(got) != "y" {
		t.Errorf("the next call got %q, %v", got, err)
	}
	if _, err := a.Call(ctx, b.addr, 2, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("with an ended context: %v", err)
	}
}

// stalledPeer answers hellos and then reads nothing.
func stalledPeer(t *testing.T) (addr string, conns <-chan net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ch := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(ch)
				return
			}
			readHello(c)
			c.Write(appendWelcome(nil, welcomeOK, ""))
			ch <- c
		}
	}()
	return ln.Addr().String(), ch
}

func TestACallStillInTheQueueIsWithdrawn(t *testing.T) {
	addr, conns := stalledPeer(t)
	a := newTestMux(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 20)
	for range 2 { // more than the kernel buffers for a peer that does not read
		go func() {
			_, err := a.Call(ctx, addr, 1, make([]byte, maxPayload))
			results <- err
		}()
	}
	conn := <-conns
	defer conn.Close()
	p := a.peer(peerKey{addr: addr})
	eventually(t, "the writer is at work", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.conn != nil && p.conn.busy()
	})
	short, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	if _, err := a.Call(short, addr, 1, []byte("late")); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call behind a stuck write: %v; want not sent", err)
	}
	cancel()
	for range 2 {
		if err := <-results; !errors.Is(err, ErrNoReply) && !errors.Is(err, ErrNotSent) {
			t.Errorf("a big call: %v", err)
		}
	}
}

func TestASilentPeerIsGivenUp(t *testing.T) {
	addr, conns := stalledPeer(t)
	a := newTestMux(t, 1, func(m *Mux) { m.tick = 5 * time.Millisecond })
	_, err := a.Call(t.Context(), addr, 1, []byte("anyone?"))
	if !errors.Is(err, ErrNoReply) {
		t.Errorf("got %v", err)
	}
	(<-conns).Close()
}

func TestASlowHandlerOnALivePeerIsWaitedFor(t *testing.T) {
	release := make(chan struct{})
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(context.Context, Identity, []byte) ([]byte, error) { <-release; return []byte("done"), nil })
	})
	a := newTestMux(t, 1, func(m *Mux) { m.tick = 20 * time.Millisecond })
	time.AfterFunc(20*(silentTicks+5)*time.Millisecond, func() { close(release) })
	if got, err := a.Call(t.Context(), b.addr, 1, nil); err != nil || string(got) != "done" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestMoreCallsThanAPeerMayRunAreOverloaded(t *testing.T) {
	release := make(chan struct{})
	var running, most atomic.Int32
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(context.Context, Identity, []byte) ([]byte, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for {
				old := most.Load()
				if n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			<-release
			return nil, nil
		})
	})
	a := newTestMux(t, 1, nil)
	const extra = 100
	results := make(chan error, maxHandlers+extra)
	for range maxHandlers + extra {
		go func() {
			_, err := a.Call(t.Context(), b.addr, 1, nil)
			results <- err
		}()
	}
	for range extra {
		var p *api.Problem
		if err := <-results; !errors.As(err, &p) || p.Code != api.Overloaded || p.Outcome != api.NotApplied {
			t.Fatalf("got %v, want overloaded", err)
		}
	}
	close(release)
	for range maxHandlers {
		if err := <-results; err != nil {
			t.Fatalf("one of those that ran: %v", err)
		}
	}
	if n := most.Load(); n > maxHandlers {
		t.Errorf("%d handlers at once", n)
	}
}

func TestAPeerThatBreaksTheProtocolIsCutOff(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"a reply as a call": frame{id: 1, method: 1 | replyBit}.append(nil),
		"a huge frame":      {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0},
		"a tiny frame":      {0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0},
	} {
		m := newTestMux(t, 1, func(m *Mux) { m.Handle(1, echo) })
		conn, err := m.dial(m.ctx, m.addr, hello{protocol: protocolCalls})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(bytes)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := io.Copy(io.Discard, conn); n > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %d bytes, %v; want a closed connection", name, n, err)
		}
		m.drop(conn)
	}
}

func TestCloseEndsCallsBothWays(t *testing.T) {
	entered := make(chan struct{})
	b := newTestMux(t, 1, func(m *Mux) {
		m.Handle(1, func(ctx context.Context, _ Identity, _ []byte) ([]byte, error) {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	})
	a := newTestMux(t, 1, nil)
	result := make(chan error, 1)
	go func() {
		_, err := a.Call(t.Context(), b.addr, 1, nil)
		result <- err
	}()
	<-entered
	b.Close()
	if err := <-result; !errors.Is(err, ErrNoReply) {
		t.Errorf("a call to the closed node: %v", err)
	}
	a.Close()
	if _, err := a.Call(t.Context(), b.addr, 1, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("a call from a closed node: %v", err)
	}
}

func BenchmarkCall(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	m := NewMux(ln, ln.Addr().String(), func() Identity { return Identity{} }, nil)
	m.Handle(1, echo)
	m.Start()
	defer m.Close()
	payload := make([]byte, 64)
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Call(b.Context(), m.advertise, 1, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := m.Call(b.Context(), m.advertise, 1, payload); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
