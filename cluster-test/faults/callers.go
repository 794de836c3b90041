package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// callersVerb is a process of callers, which work until it is told to stop.
func callersVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("callers", flag.ContinueOnError)
	planFile := f.String("plan", "", "file of the run's plan")
	journalFile := f.String("journal", "", "file to keep what was asked in")
	process := f.Int("process", 0, "number of the process; 1 also edits policies")
	endpoints := f.String("endpoints", "", "host:port of nodes, comma-separated")
	if err := f.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile(*planFile)
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	j, err := newJournal(*journalFile, *process)
	if err != nil {
		return err
	}
	defer j.close()
	w := &work{plan: p, journal: j, nodes: strings.Split(*endpoints, ",")}
	return w.run(ctx)
}

// work is what the callers of one process share.
type work struct {
	plan    plan
	journal *journal
	nodes   []string // host:port
	client  *client.Client
	http    *http.Client
}

// pace of a caller: it does something between once and twice in this time.
const pace = 40 * time.Millisecond

// A caller of the Go client waits about as long as real ones do.
const patience = 3 * time.Second

func (w *work) run(ctx context.Context) error {
	var urls []string
	for _, n := range w.nodes {
		urls = append(urls, "http://"+n)
	}
	t := &http.Transport{MaxIdleConnsPerHost: 16}
	defer t.CloseIdleConnections()
	w.http = &http.Client{Transport: t}
	opts := []client.Option{client.WithTimeout(patience)}
	if own := ownEnds(); own != nil {
		t.DialContext = own.dial
		opts = append(opts, client.WithHTTPClient(w.http))
	}
	var err error
	if w.client, err = client.New(urls, opts...); err != nil {
		return err
	}
	defer w.client.Close()

	rng := rand.New(rand.NewPCG(w.plan.Seed, uint64(w.journal.process)))
	kinds := []func(*caller, context.Context){
		(*caller).throughClient, (*caller).throughHTTP, (*caller).throughHTTP, (*caller).throughClient,
		(*caller).batch, (*caller).atomic,
		(*caller).spendClient, (*caller).spendHTTP, (*caller).spendHTTP,
		(*caller).hold, (*caller).hold,
	}
	if w.journal.process == 1 {
		kinds = append(kinds, (*caller).throughClient, (*caller).throughHTTP, (*caller).throughClient,
			(*caller).stale, (*caller).editPolicies)
	}
	var wg sync.WaitGroup
	for i, step := range kinds {
		c := &caller{
			work: w, rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))),
			own: fmt.Sprintf("own-%d-%d", w.journal.process, i),
		}
		wg.Go(func() { c.loop(ctx, step) })
	}
	wg.Wait()
	return nil
}

// caller asks one thing after the other.
type caller struct {
	*work
	rng   *rand.Rand
	own   string // a key that nobody else uses
	lanes []int  // its client numbers: one, or one for each element of a batch
	holds []held // that it was given
}

func (c *caller) loop(ctx context.Context, step func(*caller, context.Context)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			step(c, ctx)
			tick.Reset(pace/2 + time.Duration(c.rng.Int64N(int64(pace)/2)))
		}
	}
}

// lane returns the client number of an element.
func (c *caller) lane(i int) int {
	for len(c.lanes) <= i {
		c.lanes = append(c.lanes, c.journal.client())
	}
	return c.lanes[i]
}

// leaveLane makes the caller go on as another client.
func (c *caller) leaveLane(i int) { c.lanes[i] = c.journal.client() }

// did notes an operation that do carries out, which fills in what came of it, or
// returns the error of the Go client.
func (c *caller) did(op check.Op, do func(*check.Op) error) {
	op.Client = c.lane(0)
	ops := []check.Op{op}
	returned := c.journal.call(ops)
	if err := do(&ops[0]); err != nil {
		conclude(&ops[0], err, nil)
	}
	returned()
	if ops[0].Outcome == check.Unknown {
		c.leaveLane(0)
	}
}

// pick draws what to ask for.
func (c *caller) pick() (policy, key string, cost int64) {
	p := c.plan.Policies[c.rng.IntN(len(c.plan.Policies))]
	key = c.own
	if c.rng.IntN(4) > 0 {
		key = fmt.Sprintf("shared-%d", c.rng.IntN(c.plan.Keys))
	}
	return p.Name, key, 1 + c.rng.Int64N(min(8, smallestBurst(p)))
}

// mostWait draws how long a take may wait: mostly not at all.
func (c *caller) mostWait() time.Duration {
	if c.rng.IntN(4) > 0 {
		return 0
	}
	return time.Duration(1+c.rng.Int64N(3000)) * time.Millisecond
}

// smallestBurst is the most that a take under p may cost.
func smallestBurst(p api.Policy) int64 {
	least := int64(api.MaxCost)
	for _, l := range p.Limits {
		if l.Burst == 0 { // a window
			l.Burst = l.Rate
		}
		least = min(least, l.Burst)
	}
	return least
}

func (c *caller) node() string { return c.nodes[c.rng.IntN(len(c.nodes))] }
