package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/server"
)

const (
	keys   = 100_000
	policy = `{"name":"bench","limits":[{"rate":1,"per":"1h","burst":2000000000}]}`
)

// cluster is three nodes in this process, shared by all benchmarks of a run.
var cluster struct {
	once sync.Once
	urls []string
	err  error
	stop func()
}

// TestMain gives the process what four of them would have: a goroutine that waits
// for the disk keeps its processor for a while.
func TestMain(m *testing.M) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(4 * runtime.NumCPU())
	}
	m.Run()
	if cluster.stop != nil {
		cluster.stop()
	}
}

// startCluster returns the base URLs of a running cluster with the policy
// "bench", which admits everything.
func startCluster(b *testing.B) []string {
	b.Helper()
	cluster.once.Do(func() { cluster.err = launch() })
	if cluster.err != nil {
		b.Fatal(cluster.err)
	}
	return cluster.urls
}

func launch() error {
	dir, err := os.MkdirTemp("", "rlstore-bench-")
	if err != nil {
		return err
	}
	const nodes = 3
	var join []string
	for range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		join = append(join, l.Addr().String())
		l.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	cluster.stop = func() { cancel(); wg.Wait(); os.RemoveAll(dir) }
	for i := range nodes {
		s, err := server.New(server.Config{
			NodeID: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(dir, fmt.Sprint(i)),
			HTTPAddr: "127.0.0.1:0", RaftAddr: join[i], BootstrapExpect: nodes, Join: join, Shards: shards(), LogStore: logStore(),
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			return err
		}
		cluster.urls = append(cluster.urls, s.HTTPURL())
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				panic(err)
			}
		})
		defer func() {
			select {
			case <-s.Ready():
			case <-time.After(30 * time.Second):
			}
		}()
	}
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		req, _ := http.NewRequest("PUT", cluster.urls[0]+"/v1/policies/bench", bytes.NewBufferString(policy))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 300 {
			return nil
		}
		last = fmt.Errorf("put the policy: %s: %s", resp.Status, body)
	}
	return last
}

func newClient(b *testing.B) *client.Client {
	b.Helper()
	c, err := client.New(startCluster(b), client.WithTimeout(10*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if _, err := c.Take(context.Background(), "bench", "warm-up", 1); err != nil {
		b.Fatal(err)
	}
	return c
}

func key(i int) string { return fmt.Sprintf("bench:key:%09d", i%keys) }

// BenchmarkClusterOneCaller is one take at a time through the Go client; set
// its p50 beside BenchmarkEngine's.
func BenchmarkClusterOneCaller(b *testing.B) {
	c := newClient(b)
	drive(b, 1, 1, func(_, i int) error {
		_, err := c.Take(context.Background(), "bench", key(i), 1)
		return err
	})
}

// BenchmarkCluster64Callers is 64 goroutines, one take a call, coalesced by the
// Go client.
func BenchmarkCluster64Callers(b *testing.B) {
	c := newClient(b)
	drive(b, 64, 1, func(_, i int) error {
		_, err := c.Take(context.Background(), "bench", key(i*7919), 1)
		return err
	})
}

// BenchmarkClusterBatches is 8 callers with batches of 1,000 takes each.
func BenchmarkClusterBatches(b *testing.B) { driveBatches(b, 8) }

// BenchmarkClusterManyBatches is 64 of them, which is what keeps the processors
// busy.
func BenchmarkClusterManyBatches(b *testing.B) { driveBatches(b, 64) }

func driveBatches(b *testing.B, callers int) {
	const size = 1000
	c := newClient(b)
	drive(b, callers, size, func(_, i int) error {
		reqs := make([]client.Request, size)
		for j := range reqs {
			reqs[j] = client.Request{Policy: "bench", Key: key((i*size + j) * 7919), Cost: 1}
		}
		res, err := c.TakeBatch(context.Background(), reqs)
		if err != nil {
			return err
		}
		for _, r := range res {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	})
}

// BenchmarkClusterJSON is 64 keep-alive connections with one JSON take a
// request, all to one node.
func BenchmarkClusterJSON(b *testing.B) {
	url := startCluster(b)[0] + "/v1/take"
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	drive(b, 64, 1, func(_, i int) error {
		body, err := json.Marshal(map[string]any{"policy": "bench", "key": key(i * 7919)})
		if err != nil {
			return err
		}
		resp, err := hc.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, answer)
		}
		return err
	})
}
