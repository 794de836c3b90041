package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/time/rate"
)

const (
	// helloTimeout bounds a handshake, on both sides.
	helloTimeout = 3 * time.Second

	// maxHandshakes is how many connections may be in their handshake at once.
	// Further ones wait in the kernel's queue.
	maxHandshakes = 256

	// lingerTimeout is how long a refused dialler may take to read why.
	lingerTimeout = 500 * time.Millisecond
)

// keepAlive finds out within 11 s that a machine behind an idle connection is
// gone. TCP_NODELAY is Go's default.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// Mux carries everything between nodes over one TCP port: a stream layer for
// each Raft group, and calls. The first bytes of a connection say which it is;
// see hello.
//
//  1. Give it groups and handlers, then Start it. Groups may come and go later.
//  2. Identity is asked at each handshake and each call, so it may change: a
//     node gets its cluster id while it runs. It must be cheap.
//  3. Nodes of different clusters never speak. A node without a cluster may
//     call and be called, since that is how it gets into one, but has no Raft.
//  4. Close leaves no connection and no goroutine behind.
type Mux struct {
	ln        net.Listener
	advertise string
	ident     func() Identity
	log       *slog.Logger

	handlers [methods]Handler                                         // fixed once started
	dialConn func(ctx context.Context, addr string) (net.Conn, error) // fixed once started
	onLeft   func(ctx context.Context, node string)                   // a connection for its calls has ended; fixed once started

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	handshakes chan struct{}  // a token for each handshake under way
	tasks      sync.WaitGroup // added to under mu, while not closed
	tick       time.Duration  // callTick, but in tests
	patience   time.Duration  // helloTimeout, but in tests

	warnings   *rate.Limiter
	suppressed atomic.Uint64 // warnings since the last one that was logged

	mu      sync.Mutex
	started bool
	closed  bool
	conns   map[net.Conn]struct{} // all that are open
	groups  map[uint32]*groupLayer
	peers   map[peerKey]*peer // one for each that was ever called
}

// NewMux returns a mux over ln, which it owns. advertise is the address under
// which other nodes reach ln.
func NewMux(ln net.Listener, advertise string, ident func() Identity, log *slog.Logger) *Mux {
	ctx, cancel := context.WithCancel(context.Background())
	return &Mux{
		ln: ln, advertise: advertise, ident: ident, log: log,
		ctx: ctx, cancel: cancel,
		handshakes: make(chan struct{}, maxHandshakes),
		dialConn:   dialTCP,
		onLeft:     func(context.Context, string) {},
		tick:       callTick,
		patience:   helloTimeout,
		warnings:   rate.NewLimiter(rate.Every(time.Second), 5),
		conns:      make(map[net.Conn]struct{}),
		groups:     make(map[uint32]*groupLayer),
		peers:      make(map[peerKey]*peer),
	}
}

// Start begins to accept connections.
func (m *Mux) Start() {
	m.mu.Lock()
	m.started = true
	m.mu.Unlock()
	m.spawn(m.accept)
}

// Close closes the listener and every connection, fails the calls under way,
// and waits for the mux's goroutines, so for handlers too: their contexts end.
func (m *Mux) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	groups := make([]*groupLayer, 0, len(m.groups))
	for _, g := range m.groups {
		groups = append(groups, g)
	}
	m.mu.Unlock()

	m.cancel()
	err := m.ln.Close()
	for _, g := range groups {
		g.Close()
	}
	m.mu.Lock()
	conns := make([]net.Conn, 0, len(m.conns))
	for c := range m.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	for _, c := range conns {
		m.drop(c)
	}
	m.tasks.Wait()
	return err
}

// spawn runs f in a goroutine that Close waits for; false if it is too late.
func (m *Mux) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.tasks.Go(f)
	return true
}

// track enters c among the open connections; if it is too late, it closes c.
func (m *Mux) track(c net.Conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		c.Close()
		return net.ErrClosed
	}
	m.conns[c] = struct{}{}
	return nil
}

// drop closes a tracked connection.
func (m *Mux) drop(c net.Conn) {
	m.mu.Lock()
	delete(m.conns, c)
	m.mu.Unlock()
	c.Close()
}

// warn logs what strangers can cause, a few lines at once and one a second.
func (m *Mux) warn(msg string, args ...any) {
	if !m.warnings.Allow() {
		m.suppressed.Add(1)
		return
	}
	if n := m.suppressed.Swap(0); n > 0 {
		args = append(args, "suppressed", n)
	}
	m.log.Warn(msg, args...)
}

func (m *Mux) accept() {
	const maxPause = time.Second
	pause := time.Duration(0)
	for {
		select {
		case m.handshakes <- struct{}{}:
		case <-m.ctx.Done():
			return
		}
		conn, err := m.ln.Accept()
		if err == nil && m.spawn(func() { m.serve(conn) }) {
			pause = 0
			continue
		}
		<-m.handshakes
		switch {
		case err == nil:
			conn.Close()
			return
		case m.ctx.Err() != nil:
			return
		}
		// Such as too many open files: it may pass.
		pause = min(max(2*pause, 5*time.Millisecond), maxPause)
		m.warn("cannot accept a connection of another node", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
	}
}

// serve takes an accepted connection through its handshake, which holds a
// token of handshakes, and then to the group or into the calls it is for.
func (m *Mux) serve(conn net.Conn) {
	h, g, err := m.welcome(conn)
	<-m.handshakes
	switch {
	case err != nil:
		m.drop(conn)
	case g != nil:
		g.offer(conn)
	default:
		m.serveCalls(conn, h.from)
		m.drop(conn)
	}
}

// welcome does the accepting side of the handshake: TLS would begin here, as it
// would in dial. It returns the group of a Raft stream, nil for calls.
func (m *Mux) welcome(conn net.Conn) (hello, *groupLayer, error) {
	if err := m.track(conn); err != nil {
		return hello{}, nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepAlive)
	}
	conn.SetDeadline(time.Now().Add(m.patience))
	remote := conn.RemoteAddr().String()
	h, err := readHello(conn)
	var version helloVersionError
	switch {
	case errors.As(err, &version):
		m.warn("refused a connection of a node of another version", "remote", remote, "reason", err)
		m.refuse(conn, welcomeVersion, err.Error())
		return h, nil, err
	case errors.Is(err, io.EOF):
		return h, nil, err // a probe that only looks whether the port is open
	case err != nil:
		reason := err.Error()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			what := "only part of a hello in"
			if errors.Is(err, errSilent) {
				what = "nothing for"
			}
			reason = fmt.Sprintf("sent %s %v", what, m.patience)
		}
		m.warn("closed a connection to the port for nodes", "remote", remote, "reason", reason)
		return h, nil, err
	}
	g, status, message := m.judge(h)
	if status != welcomeOK {
		err := errors.New(message)
		if status == welcomeOtherCluster {
			m.warn("refused a connection of a node of another cluster", "remote", remote, "peer", printable(h.from.NodeID))
		} else {
			m.log.Debug("refused a connection of a node", "remote", remote, "peer", printable(h.from.NodeID), "reason", message)
		}
		m.refuse(conn, status, message)
		return h, nil, err
	}
	if _, err := conn.Write(appendWelcome(nil, welcomeOK, "")); err != nil {
		return h, nil, err
	}
	return h, g, conn.SetDeadline(time.Time{})
}

// judge decides on a hello: the group, or a status and what this node does.
func (m *Mux) judge(h hello) (g *groupLayer, status byte, message string) {
	var none [16]byte
	own, theirs := m.ident().ClusterID, h.from.ClusterID
	if own != none && theirs != none && own != theirs {
		return nil, welcomeOtherCluster, "belongs to another cluster"
	}
	if self := m.ident().NodeID; h.to != "" && h.to != self {
		return nil, welcomeOtherNode, fmt.Sprintf("is %s, not %s", self, printable(h.to))
	}
	if h.protocol == protocolCalls {
		return nil, welcomeOK, ""
	}
	if own == none {
		return nil, welcomeNoCluster, "belongs to no cluster yet"
	}
	if theirs == none {
		return nil, welcomeOtherCluster, "belongs to a cluster, and the caller to none"
	}
	m.mu.Lock()
	g = m.groups[h.group]
	m.mu.Unlock()
	if g == nil {
		return nil, welcomeNoGroup, fmt.Sprintf("does not know group %d yet", h.group)
	}
	return g, welcomeOK, ""
}

// refuse answers a hello and lets the dialler read it: closing on bytes that
// are unread here could take the answer away from it.
func (m *Mux) refuse(conn net.Conn, status byte, message string) {
	if _, err := conn.Write(appendWelcome(nil, status, message)); err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
	conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, conn, 4096)
}

// addrOf is the address of a node for dial: it means that node and no other. Its
// last @ is where the address begins, which has none.
func addrOf(node, addr string) string { return node + "@" + addr }

// dial connects to a node and does the dialling side of the handshake. addr is one
// of addrOf, or an address alone for whoever answers there. ctx must descend from
// m.ctx. The connection is tracked.
func (m *Mux) dial(ctx context.Context, addr string, h hello) (net.Conn, error) {
	if i := strings.LastIndexByte(addr, '@'); i >= 0 {
		h.to, addr = addr[:i], addr[i+1:]
	}
	dctx, cancel := context.WithTimeout(ctx, m.patience)
	conn, err := m.dialConn(dctx, addr)
	cancel()
	if err != nil {
		return nil, err
	}
	if err := m.track(conn); err != nil {
		return nil, err
	}
	if err := m.greet(ctx, conn, addr, h); err != nil {
		m.drop(conn)
		return nil, err
	}
	return conn, nil
}

// dialTCP connects to a node on the network.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	return d.DialContext(ctx, "tcp", addr)
}

func (m *Mux) greet(ctx context.Context, conn net.Conn, addr string, h hello) error {
	deadline := time.Now().Add(m.patience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	if _, err := conn.Write(h.append(nil)); err != nil {
		return fmt.Errorf("greet the node at %s: %w", addr, err)
	}
	status, message, err := readWelcome(conn)
	switch {
	case errors.Is(err, errGarbage):
		return fmt.Errorf("the server at %s is %w", addr, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server at %s closed the connection instead of answering the hello", addr)
	case err != nil:
		return fmt.Errorf("greet the node at %s: %w", addr, err)
	case status != welcomeOK:
		return &RefusedError{Addr: addr, Message: message, Retryable: status != welcomeOtherCluster && status != welcomeVersion}
	}
	return conn.SetDeadline(time.Time{})
}

// Group registers a Raft group and returns its stream layer; closing that takes
// it off again. A group that is registered already is a bug, and panics.
func (m *Mux) Group(id uint32) raft.StreamLayer {
	g := &groupLayer{
		mux: m, id: id,
		accepted: make(chan net.Conn, 16),
		done:     make(chan struct{}),
		conns:    make(map[net.Conn]struct{}),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.groups[id] != nil {
		panic(fmt.Sprintf("raftnode: group %d is on the mux already", id))
	}
	m.groups[id] = g
	return g
}
