package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cluster is three nodes, each a process.
type cluster struct {
	nodes []*node
}

// node is one `rlstore serve`.
type node struct {
	id, http, log string // log: file of all that its processes wrote
	bin           string
	args          []string
	cmd           *exec.Cmd
}

const nodes = 3

// startCluster starts a new cluster in dir and waits until it is ready.
func startCluster(ctx context.Context, bin, dir string, shards int) (_ *cluster, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2 * nodes)
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	defer func() {
		if err != nil {
			c.end()
		}
	}()
	join := strings.Join(addrs[nodes:], ",")
	for i := range nodes {
		id := fmt.Sprintf("n%d", i+1)
		n := &node{id: id, http: "http://" + addrs[i], log: filepath.Join(dir, id+".log"), bin: bin}
		n.args = []string{
			"serve", "--node-id", id, "--data-dir", filepath.Join(dir, id), "--http-addr", addrs[i],
			"--raft-addr", addrs[nodes+i], "--bootstrap-expect", strconv.Itoa(nodes), "--join", join, "--shards", strconv.Itoa(shards),
		}
		c.nodes = append(c.nodes, n)
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	for _, n := range c.nodes {
		if err := n.waitReady(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// freeAddrs returns addresses that nothing listens on.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (c *cluster) urls() (urls []string) {
	for _, n := range c.nodes {
		urls = append(urls, n.http)
	}
	return urls
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.kill()
	}
}

func (n *node) start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(n.bin, n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	return n.cmd.Start()
}

// kill ends the node the way kill -9 does.
func (n *node) kill() {
	if n.cmd != nil && n.cmd.Process != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
}

// stop ends the node cleanly.
func (n *node) stop() error {
	return errors.Join(n.cmd.Process.Signal(syscall.SIGTERM), n.cmd.Wait())
}

// waitReady waits until the node says that it can serve.
func (n *node) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		body, err := n.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("node %s is not ready: %w: %s", n.id, err, body)
		}
	}
}

// get fetches a page of the node's API; any status but 200 is an error.
func (n *node) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.http+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return body, err
}

// metric sums a metric of the node over its labels.
func (n *node) metric(ctx context.Context, name string) (sum float64, err error) {
	page, err := n.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(page)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// snapshots counts the snapshots that the node's log tells of.
func (n *node) snapshots() (int, error) {
	log, err := os.ReadFile(n.log)
	return bytes.Count(log, []byte(`msg="snapshot taken"`)), err
}

// worstApply returns the bound of the slowest entry that the node has applied
// to a state machine, as far as its histogram tells.
func (n *node) worstApply(ctx context.Context) (time.Duration, error) {
	page, err := n.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	worst := map[string]string{} // by shard
	last := map[string]float64{}
	for line := range strings.Lines(string(page)) {
		rest, ok := strings.CutPrefix(line, "rlstore_apply_seconds_bucket{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(strings.TrimSpace(rest), "} ")
		var shard, bound string
		for label := range strings.SplitSeq(labels, ",") {
			switch name, v, _ := strings.Cut(label, "="); name {
			case "shard":
				shard = v
			case "le":
				bound = strings.Trim(v, `"`)
			}
		}
		count, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		if count > last[shard] {
			worst[shard], last[shard] = bound, count
		}
	}
	var longest float64
	for _, bound := range worst {
		s, err := strconv.ParseFloat(bound, 64)
		if err != nil {
			return 0, err
		}
		longest = max(longest, s)
	}
	return time.Duration(min(longest, 3600) * float64(time.Second)), nil
}
