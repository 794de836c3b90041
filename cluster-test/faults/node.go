package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/cluster-test/process"
)

// Ports of every node; the addresses differ.
const (
	httpPort = "8101"
	raftPort = "9101"
)

// diskSize of a node, MiB: many times what its budgets of log need.
const diskSize = 96

// node is a member of the cluster, and the processes that it has been, one
// after the other. A member that lost its disk ends here; another one follows
// in its slot.
type node struct {
	id    string
	slot  int
	host  string
	dir   string // holds data/, control/ and log
	args  []string
	net   network
	small bool // data is a small disk of its own

	// held is locked by the fault that has the node's process in its hands.
	held chan struct{} // capacity 1

	mu       sync.Mutex       // guards what follows
	proc     *process.Process // nil before the first start
	expected bool             // the process may end: a fault is at work
	damaged  string           // what a fault did to its files, "" if nothing
	retired  bool             // it will not start again
}

// newNode prepares a member; flags come on top of those that each has.
func newNode(root string, net network, id string, slot int, flags ...string) (*node, error) {
	n := &node{
		id: id, slot: slot, host: net.host(slot), dir: filepath.Join(root, id), net: net,
		held: make(chan struct{}, 1),
	}
	n.args = append([]string{
		"node", "--node-id=" + id, "--data-dir=" + n.data(),
		"--http-addr=" + n.http(), "--raft-addr=" + n.raft(),
	}, flags...)
	for _, dir := range []string{n.data(), n.control()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := n.setClock(0); err != nil {
		return nil, err
	}
	if err := n.setDisk(diskHealthy); err != nil {
		return nil, err
	}
	if err := mountSmall(n.data(), diskSize); err == nil {
		n.small = true
	}
	return n, nil
}

func (n *node) data() string    { return filepath.Join(n.dir, "data") }
func (n *node) control() string { return filepath.Join(n.dir, "control") }
func (n *node) log() string     { return filepath.Join(n.dir, "log") }
func (n *node) http() string    { return net.JoinHostPort(n.host, httpPort) }
func (n *node) raft() string    { return net.JoinHostPort(n.host, raftPort) }

// setClock moves the node's clock to so far off the machine's.
func (n *node) setClock(off time.Duration) error {
	return process.SetClock(filepath.Join(n.control(), "clock"), off)
}

// setDisk makes the disk do so from the next write on.
func (n *node) setDisk(f diskFault) error {
	return process.Overwrite(filepath.Join(n.control(), "disk"), []byte{byte(f)})
}

// start runs the node, unless it runs.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc.Running() || n.retired {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := n.net.command(n.slot, exe, n.args...)
	cmd.Env = append(append(os.Environ(), cmd.Env...), controlEnv+"="+n.control())
	p, err := process.Start(cmd, n.log())
	if err != nil {
		return fmt.Errorf("start node %s: %w", n.id, err)
	}
	n.proc, n.expected = p, false
	return nil
}

// process returns the node's newest process, nil before the first.
func (n *node) process() *process.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

func (n *node) running() bool { return n.process().Running() }

// expectEnd says that the process may end from here to the next start.
func (n *node) expectEnd() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = true
}

func (n *node) kill() {
	n.expectEnd()
	if p := n.process(); p != nil {
		p.Kill()
	}
}

// stopTimeout is above what a drain may take: see package server.
const stopTimeout = 40 * time.Second

// terminate asks the node to stop and waits for it.
func (n *node) terminate() error {
	n.expectEnd()
	p := n.process()
	if !p.Running() {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if !p.EndsWithin(stopTimeout) {
		p.Kill()
		return fmt.Errorf("node %s did not stop within %v of a SIGTERM", n.id, stopTimeout)
	}
	return nil
}

// ready asks the node whether it can serve. The error tells why not.
func (n *node) ready(ctx context.Context, c *http.Client) error {
	if p := n.process(); !p.Running() {
		return fmt.Errorf("node %s does not run", n.id)
	}
	return n.ask(ctx, c, "GET", "/readyz?verbose", nil, nil)
}

// status is what the node knows of the cluster.
func (n *node) status(ctx context.Context, c *http.Client) (s api.Cluster, err error) {
	err = n.ask(ctx, c, "GET", "/v1/cluster", nil, &s)
	return s, err
}

// ask makes one request of the node, as its operator.
func (n *node) ask(ctx context.Context, c *http.Client, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.http()+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", api.MediaJSON)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 300:
		return fmt.Errorf("node %s: %s %s: %s: %s", n.id, method, path, resp.Status, bytes.TrimSpace(b))
	case out != nil && len(b) > 0:
		return json.Unmarshal(b, out)
	}
	return nil
}

// waitReady polls until the node can serve, or has ended.
func (n *node) waitReady(ctx context.Context, c *http.Client, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := poll(ctx, func() error { return n.ready(ctx, c) }, func() bool { return !n.running() })
	if err != nil {
		return fmt.Errorf("node %s is not ready after %v: %w", n.id, within, err)
	}
	return nil
}

// pollEvery is how often a condition is looked at.
const pollEvery = 25 * time.Millisecond

// poll waits until f returns nil, and gives up with its last error when ctx
// ends or hopeless says so.
func poll(ctx context.Context, f func() error, hopeless func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || hopeless != nil && hopeless() {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// tail is the end of the node's log.
func (n *node) tail(most int) string {
	b, _ := os.ReadFile(n.log())
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// wipe empties the data folder.
func (n *node) wipe() error {
	list, err := os.ReadDir(n.data())
	if err != nil {
		return err
	}
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.data(), e.Name())))
	}
	return err
}

// keepData copies what is on a small disk beside it, for whoever looks into the
// run.
func (n *node) keepData() error {
	n.mu.Lock()
	small := n.small
	n.mu.Unlock()
	if !small {
		return nil
	}
	return os.CopyFS(filepath.Join(n.dir, "data.kept"), os.DirFS(n.data()))
}

// retire gives the member up for good, and its disk back.
func (n *node) retire() error {
	n.kill()
	n.mu.Lock()
	n.retired = true
	small := n.small
	n.small = false
	n.mu.Unlock()
	if small {
		return unmount(n.data())
	}
	return nil
}

// logSize is where the node's log stands.
func (n *node) logSize() int64 {
	info, err := os.Stat(n.log())
	if err != nil {
		return 0
	}
	return info.Size()
}

// logSince is what the node has logged since its log was at offset.
func (n *node) logSince(offset int64) string {
	b, _ := os.ReadFile(n.log())
	return string(b[min(offset, int64(len(b))):])
}
