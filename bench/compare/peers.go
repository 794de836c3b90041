package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/bench/load"
	"github.com/rlstore/rlstore/client"
)

const (
	callers      = 64   // of single takes, and connections of HTTP
	batch        = 1000 // takes, or commands in a pipeline
	batchCallers = 64   // of batches: more add nothing but waiting
	hotCallers   = 16   // of batches on one key, which are one shard's
	redisCallers = 4    // of pipelines: Redis has one thread, and more only make its commands wait
	manyCallers  = 4000 // goroutines of single takes

	defaultPolicy = "bench" // of rlstore bench
)

func (r *run) redis(ctx context.Context, name string, args ...string) error {
	addrs, err := freePorts(1)
	if err != nil {
		return err
	}
	dir, err := r.folder(name)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	args = append(args, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "")
	if err := r.start("redis-server", args...); err != nil {
		return err
	}
	var s *redisStore
	if err := eventually(ctx, "redis", func() bool { s, err = dialRedis(addrs[0]); return err == nil }); err != nil {
		return err
	}
	defer s.Close()
	if err := r.drive(ctx, name+" 1", s, r.load(1, 1)); err != nil {
		return err
	}
	if err := r.drive(ctx, name+" 64", s, r.load(callers, 1)); err != nil {
		return err
	}
	return r.drive(ctx, name+" pipelined", s, r.load(redisCallers, batch))
}

func (r *run) etcd(ctx context.Context) error {
	const members = 3
	addrs, err := freePorts(2 * members)
	if err != nil {
		return err
	}
	var peers []string
	for i := range members {
		peers = append(peers, fmt.Sprintf("m%d=http://%s", i, addrs[members+i]))
	}
	for i := range members {
		dir, err := r.folder("etcd")
		if err != nil {
			return err
		}
		client, peer := "http://"+addrs[i], "http://"+addrs[members+i]
		if err := r.start("etcd", "--name", fmt.Sprintf("m%d", i), "--data-dir", dir,
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(peers, ",")); err != nil {
			return err
		}
	}
	var leader *etcdStore
	if err := eventually(ctx, "etcd", func() bool {
		for _, addr := range addrs[:members] {
			s := newEtcd("http://" + addr)
			if s.leads(ctx) {
				leader = s
				return true
			}
			s.Close()
		}
		return false
	}); err != nil {
		return err
	}
	defer leader.Close()
	if err := r.drive(ctx, "etcd 1", leader, r.load(1, 1)); err != nil {
		return err
	}
	return r.drive(ctx, "etcd 64", leader, r.load(callers, 1))
}

var engineP50 = regexp.MustCompile(`(?m)^BenchmarkEngine\S*\s.*?([0-9.]+) p50-µs`)

func (r *run) engine(ctx context.Context, program string) error {
	dir, err := r.folder("engine")
	if err != nil {
		return err
	}
	out, err := output(ctx, "env", "TMPDIR="+dir, program, "-test.run", "^$", "-test.bench", "^BenchmarkEngine$", "-test.benchtime", r.duration.String())
	if err != nil {
		return err
	}
	m := engineP50.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("no p50 in %s", out)
	}
	p50, err := strconv.ParseFloat(m[1], 64)
	r.figures.add("engine p50", p50/1000)
	return err
}

func (r *run) bare(ctx context.Context) error {
	addrs, err := freePorts(1)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := r.start(self, "-serve-bare", addrs[0]); err != nil {
		return err
	}
	if err := eventually(ctx, "the bare handler", func() bool { return answers(ctx, "http://"+addrs[0]) }); err != nil {
		return err
	}
	return r.wrk(ctx, "bare", "http://"+addrs[0])
}

// answers tells whether a server of HTTP is there at all.
func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode < 500
}

// cluster starts nodes as a user would, with default settings but for flags, and
// returns their base URLs.
func (r *run) cluster(ctx context.Context, nodes int, flags ...string) ([]string, error) {
	addrs, err := freePorts(2 * nodes)
	if err != nil {
		return nil, err
	}
	var urls []string
	for i := range nodes {
		dir, err := r.folder("rlstore")
		if err != nil {
			return nil, err
		}
		args := append([]string{"serve", "--node-id", fmt.Sprintf("n%d", i+1), "--data-dir", dir,
			"--http-addr", addrs[i], "--raft-addr", addrs[nodes+i], "--bootstrap-expect", strconv.Itoa(nodes),
			"--join", strings.Join(addrs[nodes:], ",")}, flags...)
		if err := r.start(r.rlstore, args...); err != nil {
			return nil, err
		}
		urls = append(urls, "http://"+addrs[i])
	}
	return urls, eventually(ctx, "rlstore", func() bool {
		for _, u := range urls {
			if !answers(ctx, u+"/readyz") {
				return false
			}
		}
		return true
	})
}

// ours measures three nodes with default settings.
func (r *run) ours(ctx context.Context) error {
	urls, err := r.cluster(ctx, 3)
	if err != nil {
		return err
	}
	if err := r.strict(ctx, urls, "rlstore"); err != nil {
		return err
	}
	hot := r.load(hotCallers, batch)
	hot.Distribution = load.One
	if err := r.bench(ctx, urls, "rlstore hot", hot); err != nil {
		return err
	}
	half := r.load(callers, batch)
	half.Rate = int64(r.figures.last("rlstore batches") / 2)
	if err := r.bench(ctx, urls, "rlstore half", half); err != nil {
		return err
	}
	return r.modes(ctx, urls)
}

// wal measures three nodes with the log store that needs one fsync an append.
func (r *run) wal(ctx context.Context) error {
	urls, err := r.cluster(ctx, 3, "--log-store", "wal")
	if err != nil {
		return err
	}
	return r.strict(ctx, urls, "wal")
}

// strict measures the takes that are compared whatever the log store is; figures begin
// with name.
func (r *run) strict(ctx context.Context, urls []string, name string) error {
	for _, m := range []struct {
		name string
		load load.Config
	}{
		{" batches", r.load(batchCallers, batch)},
		{" many", r.load(manyCallers, 1)},
		{" 64", r.load(callers, 1)},
		{" 1", r.load(1, 1)},
	} {
		if err := r.bench(ctx, urls, name+m.name, m.load); err != nil {
			return err
		}
	}
	return r.wrk(ctx, name+" json", urls[0])
}

// modes measures policies that the Go client spends from memory, with the bucket that
// all others have.
func (r *run) modes(ctx context.Context, urls []string) error {
	c, err := client.New(urls)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, mode := range []string{"leased", "soft"} {
		spread := r.load(callers, 1)
		spread.Policy = defaultPolicy + "-" + mode
		hot := spread
		hot.Distribution = load.One
		policy := api.Policy{Name: spread.Policy, Mode: mode, Limits: []api.Limit{{Rate: perMinute, Per: api.Duration(time.Minute), Burst: burst}}}
		if _, err := c.PutPolicy(ctx, policy); err != nil {
			return err
		}
		if err := r.bench(ctx, urls, "rlstore "+mode, spread); err != nil {
			return err
		}
		if err := r.bench(ctx, urls, "rlstore "+mode+" hot", hot); err != nil {
			return err
		}
	}
	return nil
}

// bench keeps what rlstore bench finds.
func (r *run) bench(ctx context.Context, urls []string, name string, c load.Config) error {
	result, err := r.runBench(ctx, urls, c)
	if err != nil {
		return err
	}
	if result.Unsent > 0 {
		log.Printf("  %s: %d takes were not sent in time", name, result.Unsent)
	}
	return r.keep(name, result)
}

// runBench runs rlstore bench.
func (r *run) runBench(ctx context.Context, urls []string, c load.Config) (*load.Result, error) {
	var policy []string
	if c.Policy != defaultPolicy { // that one it makes itself
		policy = []string{"--policy", c.Policy}
	}
	args := append([]string{"bench", "--endpoints", strings.Join(urls, ","), "-o", "json",
		"--keys", strconv.Itoa(c.Keys), "--distribution", c.Distribution, "--concurrency", strconv.Itoa(c.Concurrency),
		"--batch", strconv.Itoa(c.Batch), "--rate", strconv.FormatInt(c.Rate, 10),
		"--warmup", c.Warmup.String(), "--duration", c.Duration.String(), "--timeout", "10s"}, policy...)
	out, err := output(ctx, r.rlstore, args...)
	if err != nil {
		return nil, err
	}
	result := &load.Result{}
	return result, json.Unmarshal([]byte(out), result)
}

// takes makes the requests before it sends the first, so that wrk has little to do.
const takes = `
local requests, at = {}, 0
function init(args)
  for i = 1, tonumber(args[1]) do
    requests[i] = wrk.format("POST", nil, {["Content-Type"] = "application/json"},
      string.format('{"policy":"bench","key":"bench:key:%010d"}', i - 1))
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
`

var (
	wrkRate = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)
	wrkBad  = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors: .*`)
)

// wrk posts JSON takes to one URL over keep-alive connections.
func (r *run) wrk(ctx context.Context, name, url string) error {
	script := filepath.Join(r.lab.dir, "takes.lua")
	if err := os.WriteFile(script, []byte(takes), 0o600); err != nil {
		return err
	}
	warmUp := max(time.Second, r.duration/5)
	for i, d := range []time.Duration{warmUp, max(time.Second, r.duration)} { // wrk knows whole seconds
		out, err := output(ctx, "wrk", "-t", "2", "-c", strconv.Itoa(callers), "-d", fmt.Sprintf("%.0fs", d.Seconds()),
			"-s", script, url+"/v1/take", "--", strconv.Itoa(r.keys))
		if err != nil {
			return err
		}
		m := wrkRate.FindStringSubmatch(out)
		if bad := wrkBad.FindString(out); bad != "" || m == nil {
			return fmt.Errorf("wrk: %s\n%s", bad, out)
		}
		rate, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return err
		}
		if i == 1 {
			r.figures.add(name, rate)
			log.Printf("  %s: %.0f /s", name, rate)
		}
	}
	return nil
}
