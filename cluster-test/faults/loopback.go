package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

// loopback is the network where the machine allows no namespaces: each slot has
// an address of 127.0.0.0/8, and its processes hold their connections' bytes back
// while a file says that the link is cut. To open connections that looks like
// lost packets; a new one is accepted by the kernel all the same, and then silent.
//
// Links go from address to address, so it needs a system where all of 127.0.0.0/8
// is the machine itself, such as Linux.
type loopback struct {
	dir    string // of the links' files, for all processes
	prefix string // of addresses
}

// linksEnv tells a process where the files are, and hostEnv who it is.
const (
	linksEnv = "RLSTORE_FAULTS_LINKS"
	hostEnv  = "RLSTORE_FAULTS_HOST"
)

var loopbacks atomic.Int64

func newLoopback(slots int) (network, error) {
	dir, err := os.MkdirTemp("", "rlstore-links-")
	if err != nil {
		return nil, err
	}
	pid, run := os.Getpid(), loopbacks.Add(1)
	n := &loopback{dir: dir, prefix: fmt.Sprintf("127.%d.%d.", 1+(pid+int(run))%254, 1+pid/254%254)}
	l, err := net.Listen("tcp", net.JoinHostPort(n.host(slots), "0"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no namespaces and no addresses of 127.0.0.0/8: %w", err), n.close())
	}
	return n, l.Close()
}

func (n *loopback) host(slot int) string {
	if slot == callers {
		return n.prefix + "200"
	}
	return n.prefix + strconv.Itoa(slot)
}

func (n *loopback) command(slot int, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{linksEnv + "=" + n.dir, hostEnv + "=" + n.host(slot)}
	return cmd
}

// dial is from an address that no link is about.
func (n *loopback) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(n.prefix + "250")}}
	return d.DialContext(ctx, network, addr)
}

func (n *loopback) setLink(from, to int, open bool) error {
	file := linkFile(n.dir, n.host(from), n.host(to))
	if open {
		return os.Remove(file)
	}
	return os.WriteFile(file, nil, 0o600)
}

func (n *loopback) setSlow(slot int, slow bool) error {
	file := linkFile(n.dir, n.host(slot), "slow")
	if !slow {
		return os.Remove(file)
	}
	return os.WriteFile(file, nil, 0o600)
}

func (n *loopback) close() error  { return os.RemoveAll(n.dir) }
func (n *loopback) about() string { return "loopback, " + n.prefix + "0/24" }

func linkFile(dir, from, to string) string { return filepath.Join(dir, from+"-"+to) }

// ends are the connections of a process in a loopback network; nil is every other.
type ends struct{ dir, host string }

// ownEnds is what the runner told this process.
func ownEnds() *ends {
	if dir := os.Getenv(linksEnv); dir != "" {
		return &ends{dir, os.Getenv(hostEnv)}
	}
	return nil
}

// dial connects from the process's own address, by which the other side knows
// it.
func (e *ends) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if e == nil {
		return d.DialContext(ctx, network, addr)
	}
	d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(e.host)}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return e.end(conn), nil
}

// listen is net.Listen whose connections obey the links.
func (e *ends) listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil || e == nil {
		return l, err
	}
	return endsListener{l, e}, nil
}

type endsListener struct {
	net.Listener
	ends *ends
}

func (l endsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.ends.end(conn), nil
}

func (e *ends) end(conn net.Conn) net.Conn {
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	return &linkedConn{Conn: conn, cut: linkFile(e.dir, e.host, host), slow: linkFile(e.dir, e.host, "slow"), closed: make(chan struct{})}
}

// linkedConn sends nothing while its link is cut: a writer waits, as behind a
// send buffer that is full.
type linkedConn struct {
	net.Conn
	cut, slow string // files that are there while the link is so
	isClosed  atomic.Bool
	closed    chan struct{}
	deadline  atomic.Int64 // of writes, Unix nanoseconds; 0 is none
}

func (c *linkedConn) SetDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.Conn.SetDeadline(t)
}

func (c *linkedConn) SetWriteDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *linkedConn) noteDeadline(t time.Time) {
	if t.IsZero() {
		c.deadline.Store(0)
		return
	}
	c.deadline.Store(t.UnixNano())
}

func (c *linkedConn) Close() error {
	if !c.isClosed.Swap(true) {
		close(c.closed)
	}
	return c.Conn.Close()
}

func (c *linkedConn) Write(b []byte) (int, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	pay := time.Now()
	if exists(c.slow) {
		pay = pay.Add(time.Duration(len(b)) * time.Second / slowLink)
	}
	for exists(c.cut) || time.Now().Before(pay) {
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		case <-tick.C:
		}
		if d := c.deadline.Load(); d != 0 && time.Now().UnixNano() > d {
			return 0, os.ErrDeadlineExceeded
		}
	}
	return c.Conn.Write(b)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
