package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/process"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// runVerb does one run or many.
func runVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	seed := f.Uint64("seed", rand.Uint64()>>1, "what the run is drawn from; with -runs the first of so many")
	length := f.Duration("length", 2*time.Minute, "how long faults strike")
	out := f.String("out", "", "folder for the runs' folders; a temporary one if empty")
	many := f.Int("runs", 1, "number of runs")
	parallel := f.Int("parallel", 1, "how many of them at once")
	keep := f.Bool("keep", false, "keep the folders of runs without violations too")
	loopback := f.Bool("loopback", false, "do not use network namespaces")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *out == "" {
		dir, err := os.MkdirTemp("", "rlstore-faults-")
		if err != nil {
			return err
		}
		*out = dir
		defer os.Remove(dir) // unless a run is kept in it
	}
	if err := sweep(); err != nil {
		fmt.Fprintln(os.Stderr, "remove what an earlier runner left:", err)
	}
	fmt.Printf("seeds %d to %d; repeat one with: faults run -seed N -length %v\n", *seed, *seed+uint64(*many)-1, *length)

	all := newReport(plan{})
	var (
		mu   sync.Mutex
		next atomic.Int64
		errs []error
		wg   sync.WaitGroup
	)
	for range *parallel {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(*many) && ctx.Err() == nil; i = next.Add(1) - 1 {
				p := newPlan(*seed+uint64(i), *length)
				log := io.Discard
				if *many == 1 {
					log = os.Stdout
				}
				r, err := oneRun(ctx, p, options{dir: filepath.Join(*out, fmt.Sprintf("seed-%d", p.Seed)), keep: *keep, loopback: *loopback, log: log})
				mu.Lock()
				if err != nil {
					fmt.Printf("seed %d: %v\n", p.Seed, err)
					errs = append(errs, fmt.Errorf("seed %d: %w", p.Seed, err))
				} else {
					fmt.Print(&r)
					r.total(&all)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if *many > 1 {
		all.Network = "all runs together"
		fmt.Print(&all)
		if err := all.save(filepath.Join(*out, "report.json")); err != nil {
			return err
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(all.Violations) > 0 {
		return errViolations
	}
	return nil
}

// options of one run.
type options struct {
	dir      string // made by the run, and removed if it shows no violation
	keep     bool   // not removed
	loopback bool
	log      io.Writer
}

// oneRun forms a cluster, lets callers and faults at it, heals all, and judges.
func oneRun(ctx context.Context, p plan, o options) (_ report, err error) {
	w, err := newWorld(ctx, p, o)
	if err != nil {
		return report{}, err
	}
	err = w.work(ctx)
	if err == nil && ctx.Err() == nil {
		err = w.conclude()
	}
	keep := o.keep || err != nil || len(w.report.Violations) > 0
	err = errors.Join(err, ctx.Err(), w.end(keep))
	if !keep {
		return w.report, errors.Join(err, os.RemoveAll(o.dir))
	}
	fmt.Fprintf(o.log, "kept in %s; look again with: faults check %s\n", o.dir, o.dir)
	return w.report, err
}

// newWorld makes the folder and the network of a run.
func newWorld(ctx context.Context, p plan, o options) (*world, error) {
	if err := os.RemoveAll(o.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	w := &world{
		plan: p, whole: ctx, dir: o.dir, begun: time.Now(), damage: make(chan struct{}, 1), report: newReport(p),
	}
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.path("plan.json"), b, 0o600); err != nil {
		return nil, err
	}
	events, err := os.Create(w.path("events.log"))
	if err != nil {
		return nil, err
	}
	if w.net, err = newNetwork(p.Nodes+1, o.loopback); err != nil {
		return nil, errors.Join(err, events.Close())
	}
	var logMu sync.Mutex
	w.events, w.log = events, func(s string) {
		logMu.Lock()
		defer logMu.Unlock()
		fmt.Fprintln(io.MultiWriter(events, o.log), s)
	}
	w.links, w.report.Network = newLinks(w.net), w.net.about()
	w.operator = &http.Client{Transport: &http.Transport{DialContext: w.net.dial, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 8}}
	w.say("%v", p)
	return w, nil
}

// conclude judges the run and saves its report.
func (w *world) conclude() error {
	if err := judge(w.dir, &w.report); err != nil {
		return err
	}
	if w.report.Ops[string(check.Done)] == 0 {
		w.violation("no request was ever answered")
	}
	return w.report.save(w.path("report.json"))
}

// newNetwork is namespaces where the machine allows them.
func newNetwork(slots int, loopback bool) (network, error) {
	if !loopback {
		if n, err := newNamespaces(slots); err == nil {
			return n, nil
		}
	}
	return newLoopback(slots)
}

// work is the run from the first start to the last stop.
func (w *world) work(ctx context.Context) error {
	if err := w.form(ctx); err != nil {
		return fmt.Errorf("the cluster does not form: %w", err)
	}
	j, err := newJournal(w.path("journal.0.jsonl"), 0)
	if err != nil {
		return err
	}
	defer j.close()
	cl, err := client.New(w.urls(), client.WithHTTPClient(w.operator), client.WithTimeout(20*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	for _, p := range slices.Concat(w.plan.Policies, w.plan.Elsewhere, w.plan.Holds) {
		if err := put(j, cl, p); err != nil {
			return err
		}
	}
	if err := w.startCallers(); err != nil {
		return err
	}
	w.say("the faults begin")
	faults, stop := context.WithCancel(ctx)
	watched, stopWatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { w.watch(watched) })
	n := &nemesis{world: w}
	n.run(faults)
	stop()
	n.done.Wait()
	back := w.heal(ctx)
	stopWatch()
	watcher.Wait()
	if ctx.Err() != nil {
		return nil
	}
	wait(ctx, 2*time.Second) // of load on a cluster without faults
	w.stopCallers()
	if back {
		w.lastPeeks(ctx, j, cl)
	}
	w.stopNodes()
	return nil
}

func (w *world) urls() (list []string) {
	for _, n := range w.members() {
		list = append(list, "http://"+n.http())
	}
	return list
}

// heal starts what is down, and expects the cluster back.
func (w *world) heal(ctx context.Context) bool {
	start := time.Now()
	for _, n := range w.members() {
		if err := n.start(); err != nil {
			w.violation("%v", err)
			return false
		}
	}
	if err := w.allReady(ctx, readyWithin); err != nil {
		w.violation("the cluster does not come back once all faults are healed: %v", err)
		return false
	}
	w.report.BackAfter = time.Since(start).Seconds()
	w.say("all nodes are ready after %.1f s", w.report.BackAfter)
	return true
}

// stopCallers lets the callers finish what they have asked.
func (w *world) stopCallers() {
	w.callersMu.Lock()
	defer w.callersMu.Unlock()
	for _, p := range []*process.Process{w.steady, w.passing} {
		_ = p.Signal(syscall.SIGTERM)
	}
	for _, p := range []*process.Process{w.steady, w.passing} {
		if !p.EndsWithin(30 * time.Second) {
			w.violation("callers do not end: a call hangs beyond its timeout")
			p.Kill()
		} else if err := p.Err(); err != nil {
			w.violation("callers ended with %v; see callers.log", err)
		}
	}
}

// lastPeeks looks at every shared bucket, with no fault at work: each must answer.
func (w *world) lastPeeks(ctx context.Context, j *journal, cl *client.Client) {
	c := &caller{work: &work{journal: j}}
	peek := func(p api.Policy, key string) {
		ops := []check.Op{{Client: c.lane(0), Kind: "peek", Policy: p.Name, Key: key}}
		returned := j.call(ops)
		s, err := cl.Peek(ctx, p.Name, key)
		conclude(&ops[0], err, func() *check.Answer { return record.State(&s) })
		returned()
		if err != nil && !errors.Is(err, client.ErrUnknownPolicy) {
			w.violation("no fault is at work, and a peek fails: %v", err)
		}
	}
	for _, p := range w.plan.Policies {
		for i := range w.plan.Keys {
			peek(p, fmt.Sprintf("shared-%d", i))
		}
	}
	for _, p := range w.plan.Elsewhere {
		for i := range hotKeys {
			peek(p, fmt.Sprintf("hot-%d", i))
		}
	}
}

// stopNodes ends every node with a SIGTERM, which must end it well.
func (w *world) stopNodes() {
	var wg sync.WaitGroup
	for _, n := range w.members() {
		wg.Go(func() {
			if err := n.terminate(); err != nil {
				w.violation("%v", err)
			} else if err := n.process().Err(); err != nil {
				w.violation("node %s ended with %v after a SIGTERM\n%s", n.id, err, n.tail(20))
			}
		})
	}
	wg.Wait()
}

// end makes sure that nothing is left running, mounted, or in the network. It
// keeps a copy of the nodes' data where their disks were, if it is told to.
func (w *world) end(keep bool) error {
	w.callersMu.Lock()
	for _, p := range []*process.Process{w.steady, w.passing} {
		if p != nil {
			p.Kill()
		}
	}
	w.callersMu.Unlock()
	var err error
	for _, n := range w.members() {
		n.kill()
		if keep {
			err = errors.Join(err, n.keepData())
		}
		err = errors.Join(err, n.retire())
	}
	w.operator.CloseIdleConnections()
	return errors.Join(err, w.net.close(), w.events.Close())
}
