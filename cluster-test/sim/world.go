package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// world is one simulation.
type world struct {
	seed  uint64
	rng   *rand.Rand // of the plan; the main goroutine's alone
	start time.Time
	net   *network
	log   *memory
	rec   *recorder

	nodes    []*node // the main goroutine's alone
	policies []string

	addressMu sync.Mutex
	addresses []string // of the API of the nodes that callers know of; only grows

	// Drawn for the whole simulation.
	shards        int
	snapshotBytes uint64
	pace          time.Duration // mean pause of a caller
	callers       int
	faults        time.Duration // how long the nemesis is at work

	counts map[string]int // faults by kind
	starts int            // of processes of nodes; the main goroutine's alone

	idMu sync.Mutex
	ids  int
}

// source returns a random source for one purpose, so that one more draw here
// changes nothing there.
func (w *world) source(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, purpose)) }

func (w *world) nextID() string {
	w.idMu.Lock()
	defer w.idMu.Unlock()
	w.ids++
	return fmt.Sprintf("r-%d", w.ids)
}

// The purposes of random sources.
const (
	ofPlan = iota
	ofNetwork
	ofEditor
	ofHolder
	ofDisks   = 100
	ofCallers = 1000
)

func newWorld(seed uint64) *world {
	w := &world{seed: seed, start: time.Now(), log: &memory{}, counts: map[string]int{}}
	w.rng = w.source(ofPlan)
	w.net = newNetwork(w.source(ofNetwork))
	w.rec = &recorder{start: w.start}
	w.shards = 1 + w.rng.IntN(2)
	w.snapshotBytes = 4096 << w.rng.IntN(5)
	w.pace = time.Duration(5+w.rng.IntN(40)) * time.Millisecond
	w.callers = 3 + w.rng.IntN(4)
	w.faults = time.Duration(6+w.rng.IntN(14)) * time.Second
	n := 3
	if w.rng.IntN(6) == 0 {
		n = 5
	}
	var join []string
	for i := range n {
		join = append(join, fmt.Sprintf("n%d:9101", i+1))
	}
	for range n {
		w.addNode(n, join)
	}
	return w
}

// addNode makes one more machine.
func (w *world) addNode(expect int, join []string) *node {
	i := len(w.nodes)
	n := &node{
		id: fmt.Sprintf("n%d", i+1), w: w, expect: expect, join: join,
		disk: newDisk(w.source(ofDisks + uint64(i))), clock: newClock(time.Duration(w.rng.Int64N(int64(1000 * time.Hour)))),
		wall: newClock(time.Duration(time.Now().UnixNano())),
	}
	w.nodes = append(w.nodes, n)
	w.addressMu.Lock()
	w.addresses = append(w.addresses, n.http())
	w.addressMu.Unlock()
	return n
}

// known are the addresses of the nodes so far.
func (w *world) known() []string {
	w.addressMu.Lock()
	defer w.addressMu.Unlock()
	return w.addresses
}

// members are the nodes that were not removed.
func (w *world) members() (list []*node) {
	for _, n := range w.nodes {
		if !n.gone {
			list = append(list, n)
		}
	}
	return list
}

// happens is a note in the log of the simulation.
func (w *world) happens(format string, args ...any) {
	fmt.Fprintf(w.log, "time=%s SIMULATION "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}

// run is the whole simulation: a cluster forms, callers call, faults fall, all
// is healed, and everybody goes home. It returns what cannot be.
func (w *world) run() (violations []string) {
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return []string{fmt.Sprintf("node %s does not start on an empty disk: %v", n.id, err)}
		}
	}
	nemesis := &nemesis{w: w, rng: w.rng, op: w.caller(w.callers + 3)}
	defer nemesis.op.close()
	if err := w.becomesReady(nemesis); err != nil {
		return append(w.stop(), fmt.Sprintf("the cluster does not form: %v", err))
	}
	ed := w.editor()
	w.firstPolicies(ed)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ed.run(ctx) })
	var closers []func()
	for i := range w.callers {
		c := w.caller(i)
		closers = append(closers, c.close)
		wg.Go(func() { c.run(ctx) })
	}
	keeper := w.holder()
	closers = append(closers, keeper.close)
	wg.Go(func() { keeper.run(ctx) })
	nemesis.run(w.faults)
	nemesis.healAll()
	if err := w.becomesReady(nemesis); err != nil {
		violations = append(violations, fmt.Sprintf("the cluster is not ready a minute after the last fault was healed: %v", err))
	}
	cancel()
	wg.Wait()
	if violations == nil {
		violations = append(w.lastLook(), keeper.settled()...)
	}
	for _, c := range closers {
		c()
	}
	ed.close()
	return append(violations, w.stop()...)
}

// becomesReady waits until every node is. Meanwhile the nodes that end, because
// a disk had failed them, are started again.
func (w *world) becomesReady(n *nemesis) error {
	c := w.caller(w.callers + 1)
	defer c.close()
	deadline := time.Now().Add(time.Minute)
	for {
		err := w.ready(c)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		n.revive()
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) ready(c *caller) error {
	for _, n := range w.members() {
		if !n.running() {
			if n.proc != nil && n.proc.err != nil {
				return fmt.Errorf("node %s has ended: %w", n.id, n.proc.err)
			}
			return fmt.Errorf("node %s has ended", n.id)
		}
		err := c.call("GET", n.http(), "/readyz?verbose", nil, nil, time.Second, nil)
		if err != nil {
			return fmt.Errorf("node %s: %w", n.id, err)
		}
	}
	return nil
}

// caller makes one user; close ends its connections.
func (w *world) caller(i int) *caller {
	host := fmt.Sprintf("c%d", i)
	t := w.transport(host)
	c := &caller{w: w, id: i + 1, host: host, rng: w.source(ofCallers + uint64(i)), http: &http.Client{Transport: t}}
	var urls []string
	for _, a := range w.known() {
		urls = append(urls, "http://"+a)
	}
	var err error
	if c.cl, err = client.New(urls, client.WithHTTPClient(&http.Client{Transport: t})); err != nil {
		panic(err) // the addresses are our own
	}
	return c
}

func (c *caller) close() {
	c.cl.Close()
	c.http.CloseIdleConnections()
}

func (w *world) editor() *editor {
	e := &editor{caller: *w.caller(w.callers), known: map[string]api.Policy{}}
	e.rng = w.source(ofEditor)
	return e
}

// firstPolicies writes what callers ask for.
func (w *world) firstPolicies(e *editor) {
	w.policies = []string{"tight", "wide", "double", "window", "jobs"} // the last for permits
	first := []api.Policy{
		{Name: "tight", Limits: []api.Limit{{Name: "only", Rate: 7, Per: api.Duration(100 * time.Millisecond), Burst: 5}}},
		{Name: "wide", Limits: []api.Limit{{Name: "only", Rate: 200, Per: api.Duration(time.Second), Burst: 50}}},
		{Name: "window", Limits: []api.Limit{
			{Name: "a", Algorithm: "fixed_window", Rate: 30, Per: api.Duration(2 * time.Second)},
			{Name: "b", Algorithm: "sliding_window", Rate: 20, Per: api.Duration(time.Second)},
		}},
		{Name: "double", Limits: []api.Limit{drawLimit(w.rng, "a"), drawLimit(w.rng, "b")}},
		{Name: "jobs", Limits: []api.Limit{
			{Name: "only", Algorithm: "concurrency", Max: 2},
			{Name: "a", Rate: 50, Per: api.Duration(time.Second), Burst: 20},
		}},
	}
	first = append(append(first, holderPolicies...), elsewhere...)
	for _, p := range first {
		for e.known[p.Name].Revision == 0 {
			e.put(p)
		}
	}
}

// lastLook asks for the state of every bucket through every node: the cluster
// works, and what it says goes into the history.
func (w *world) lastLook() (violations []string) {
	c := w.caller(w.callers + 2)
	defer c.close()
	deadline := time.Now().Add(30 * time.Second)
	for i, n := range w.members() {
		policies := slices.Clone(w.policies)
		for _, p := range elsewhere {
			policies = append(policies, p.Name)
		}
		for _, policy := range policies {
			for tag := range 6 {
				op := &check.Op{Client: c.id*width + i, Call: w.rec.now(), Kind: "peek", Policy: policy, Key: fmt.Sprintf("{t%d}-0", tag)}
				body, err := json.Marshal(api.KeyRequest{Policy: policy, Key: op.Key})
				if err != nil {
					panic(err)
				}
				var s api.PeekResponse
				for {
					err = c.call("POST", n.http(), "/v1/peek", body, nil, 5*time.Second, &s)
					var p *api.Problem
					if err == nil || errors.As(err, &p) && !p.Retryable || time.Now().After(deadline) {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				var p *api.Problem
				if err != nil && !(errors.As(err, &p) && p.Code == api.UnknownPolicy) {
					return append(violations, fmt.Sprintf("a healed cluster does not answer a peek of %s %s through %s: %v", policy, op.Key, n.id, err))
				}
				w.rec.returned(op, fromWire(&s.State), err, false)
				w.rec.add(*op)
			}
		}
	}
	return violations
}

// stop ends every node, as an operator would.
func (w *world) stop() (violations []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range w.nodes {
		wg.Go(func() {
			if err := n.terminate(); err != nil {
				mu.Lock()
				violations = append(violations, fmt.Sprintf("node %s does not stop cleanly: %v", n.id, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return violations
}

// memory keeps what the nodes log, up to a bound, for the reader of a failure.
type memory struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxMemory = 8 << 20

// Write implements io.Writer.
func (m *memory) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.buf.Len() < maxMemory {
		m.buf.Write(b)
	}
	return len(b), nil
}
