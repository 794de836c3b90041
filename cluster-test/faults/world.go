package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rlstore/rlstore/cluster-test/process"
)

// world is the cluster of one run, and what works on it.
type world struct {
	plan     plan
	whole    context.Context // of the run; the faults end before it
	dir      string
	begun    time.Time
	net      network
	links    *links
	operator *http.Client // reaches every node, whatever is cut
	log      func(string) // of what happens
	events   io.Closer    // the file that it goes to

	slowMu sync.Mutex    // held while a link is slow
	damage chan struct{} // capacity 1: see mayDamage

	callersMu sync.Mutex       // guards the two below
	steady    *process.Process // callers that live as long as the run
	passing   *process.Process // callers that disappear
	processes int              // of callers so far

	mu       sync.Mutex // guards what follows
	nodes    []*node    // every member there ever was
	serial   int        // of members
	replaced int
	report   report
}

// say tells the reader of the run's log.
func (w *world) say(format string, args ...any) {
	w.log(fmt.Sprintf("%8.3f  ", time.Since(w.begun).Seconds()) + fmt.Sprintf(format, args...))
}

func (w *world) count(f func(*report)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.report)
}

// violation notes what must not happen.
func (w *world) violation(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.count(func(r *report) { r.Violations = append(r.Violations, text) })
	w.say("VIOLATION: %s", text)
}

// members are the nodes that belong to the cluster.
func (w *world) members() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.retired
	})
}

// find returns the member with this id, nil if there is none.
func (w *world) find(id string) *node {
	for _, n := range w.members() {
		if n.id == id {
			return n
		}
	}
	return nil
}

// lastSlot: the first nodes have a slot each, and there is one for a node that joins.
func (w *world) lastSlot() int { return w.plan.Nodes + 1 }

// spareSlot is a slot that no member of the cluster has, 0 if there is none.
// Where nodes can't be removed, those that are gone for good are members still.
func (w *world) spareSlot() int {
	w.mu.Lock()
	list := slices.Clone(w.nodes)
	w.mu.Unlock()
	if canRemove {
		list = w.members()
	}
	taken := map[int]bool{}
	for _, n := range list {
		taken[n.slot] = true
	}
	for slot := 1; slot <= w.lastSlot(); slot++ {
		if !taken[slot] {
			return slot
		}
	}
	return 0
}

// form starts the first nodes, and waits until they are a cluster.
func (w *world) form(ctx context.Context) error {
	for slot := 1; slot <= w.plan.Nodes; slot++ {
		if _, err := w.add(slot, fmt.Sprintf("--bootstrap-expect=%d", w.plan.Nodes), fmt.Sprintf("--shards=%d", w.plan.Shards)); err != nil {
			return err
		}
	}
	return w.allReady(ctx, readyWithin)
}

// join starts a node that is told nothing but whom to ask.
func (w *world) join(slot int) (*node, error) { return w.add(slot) }

func (w *world) add(slot int, flags ...string) (*node, error) {
	var join []string
	for s := 1; s <= w.lastSlot(); s++ {
		join = append(join, w.net.host(s)+":"+raftPort)
	}
	w.mu.Lock()
	w.serial++
	id := fmt.Sprintf("n%d", w.serial)
	w.mu.Unlock()
	n, err := newNode(w.dir, w.net, id, slot, append(flags, "--join="+strings.Join(join, ","))...)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n, n.start()
}

// readyWithin is how long a cluster without faults may take to serve.
const readyWithin = 30 * time.Second

// allReady waits until every member can serve.
func (w *world) allReady(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return poll(ctx, func() error {
		for _, n := range w.members() { // a damaged one may be replaced meanwhile
			if err := n.ready(ctx, w.operator); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}

// leader is the id of a shard's leader as some node believes, or "".
func (w *world) leader(ctx context.Context, shard uint32) string {
	for _, n := range w.members() {
		if !n.running() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		s, err := n.status(ctx, w.operator)
		cancel()
		if err == nil && int(shard) < len(s.Shards) && s.Shards[shard].Leader != nil {
			return *s.Shards[shard].Leader
		}
	}
	return ""
}

// startCallers begins both processes of callers.
func (w *world) startCallers() (err error) {
	w.callersMu.Lock()
	defer w.callersMu.Unlock()
	if w.steady, err = w.newCallers(); err != nil {
		return err
	}
	return w.startPassing()
}

// startPassing begins the callers that may disappear. callersMu is held.
func (w *world) startPassing() (err error) {
	w.passing, err = w.newCallers()
	return err
}

func (w *world) newCallers() (*process.Process, error) {
	w.processes++
	var endpoints []string
	for slot := 1; slot <= w.lastSlot(); slot++ {
		endpoints = append(endpoints, w.net.host(slot)+":"+httpPort)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := w.net.command(callers, exe, "callers",
		"-plan", w.path("plan.json"), "-journal", w.path(fmt.Sprintf("journal.%d.jsonl", w.processes)),
		"-process", fmt.Sprint(w.processes), "-endpoints", strings.Join(endpoints, ","))
	cmd.Env = append(os.Environ(), cmd.Env...)
	return process.Start(cmd, w.path("callers.log"))
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// watch looks after nodes that end though no fault is at work on them, until
// ctx ends. A damaged one has noticed its damage late, and is replaced.
func (w *world) watch(ctx context.Context) {
	for wait(ctx, 2*pollEvery) {
		for _, n := range w.members() {
			n.mu.Lock()
			gone := n.proc != nil && !n.proc.Running() && !n.expected && !n.retired
			damaged := n.damaged
			n.mu.Unlock()
			if !gone || !n.tryHold() {
				continue
			}
			err := w.fallen(ctx, n, damaged)
			n.release()
			if err != nil {
				w.violation("%v", err)
			}
		}
	}
}

func (w *world) fallen(ctx context.Context, n *node, damaged string) error {
	if n.running() {
		return nil
	}
	if damaged == "" {
		w.violation("node %s has ended, and nothing was done to it: %v\n%s", n.id, n.process().Err(), n.tail(40))
		return n.start()
	}
	w.say("node %s, damaged before, has ended", n.id)
	if err := saysWhy(n.tail(60), damaged); err != nil {
		w.violation("%v", err)
	}
	if err := (&blow{world: w}).replace(ctx, n); err != nil {
		return err
	}
	<-w.damage // as bit-flip left it
	return nil
}
