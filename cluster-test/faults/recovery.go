package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// mostOutage is what a leader's kill -9 may cost its shards.
const mostOutage = 3 * time.Second

// recoveryVerb kills leaders and measures for how long their shards grant
// nothing. It measures the machine too: run it on one that does nothing else.
func recoveryVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("recovery", flag.ContinueOnError)
	kills := f.Int("kills", 20, "how many leaders to kill, one after the other")
	seed := f.Uint64("seed", rand.Uint64()>>1, "decides who is killed")
	loopback := f.Bool("loopback", false, "do not use network namespaces")
	if err := f.Parse(args); err != nil {
		return err
	}
	fmt.Printf("seed %d\n", *seed)
	dir, err := os.MkdirTemp("", "rlstore-recovery-")
	if err != nil {
		return err
	}
	p := newPlan(*seed, time.Minute)
	p.Nodes, p.Shards = 3, 3
	w, err := newWorld(ctx, p, options{dir: dir, loopback: *loopback, log: io.Discard})
	if err != nil {
		return err
	}
	outages, err := w.recoveries(ctx, *kills, rand.New(rand.NewPCG(*seed, 1)))
	if err := errors.Join(err, w.end(false), os.RemoveAll(dir)); err != nil {
		return err
	}
	slices.Sort(outages)
	fmt.Printf("%d kills of a leader: its shard granted nothing for %v to %v, median %v\n",
		len(outages), outages[0].Round(time.Millisecond), outages[len(outages)-1].Round(time.Millisecond), outages[len(outages)/2].Round(time.Millisecond))
	if worst := outages[len(outages)-1]; worst > mostOutage {
		return fmt.Errorf("the longest outage, %v, is above %v", worst, mostOutage)
	}
	return nil
}

// recoveries kills so many leaders, and returns the outage of the shard that
// each led.
func (w *world) recoveries(ctx context.Context, kills int, rng *rand.Rand) (outages []time.Duration, err error) {
	if err := w.form(ctx); err != nil {
		return nil, err
	}
	limit := api.Limit{Rate: 1_000_000, Per: api.Duration(time.Second), Burst: 1_000_000}
	doc := api.Policy{Name: "probe", Limits: []api.Limit{limit}}
	if err := w.members()[0].ask(ctx, w.operator, "PUT", "/v1/policies/probe", doc, nil); err != nil {
		return nil, err
	}
	table, err := api.EvenSlotMap(uint32(w.plan.Shards)).Table()
	if err != nil {
		return nil, err
	}
	for i := range kills {
		shard := 1 + uint32(rng.IntN(w.plan.Shards))
		key := ""
		for k := 0; key == "" || table[api.Slot(key)] != shard; k++ {
			key = fmt.Sprintf("probe-%d", k)
		}
		victim := w.find(w.leader(ctx, shard))
		if victim == nil {
			return nil, fmt.Errorf("shard %d has no leader, and nothing was done to it", shard)
		}
		d, err := w.outage(ctx, victim, key)
		if err != nil {
			return nil, fmt.Errorf("kill %d, of %s, which led shard %d: %w", i+1, victim.id, shard, err)
		}
		fmt.Printf("kill %2d: %s, which led shard %d: %v\n", i+1, victim.id, shard, d.Round(time.Millisecond))
		outages = append(outages, d)
		if err := victim.start(); err != nil {
			return nil, err
		}
		if err := w.allReady(ctx, readyWithin); err != nil {
			return nil, err
		}
		wait(ctx, 3*time.Second) // leaders move back to where they belong
	}
	return outages, nil
}

// outage kills a node while takes of key go to the others, one each 10 ms, and
// returns the longest time in which none was granted.
func (w *world) outage(ctx context.Context, victim *node, key string) (time.Duration, error) {
	var others []*node
	for _, n := range w.members() {
		if n != victim {
			others = append(others, n)
		}
	}
	body, err := json.Marshal(api.TakeRequest{Policy: "probe", Key: key})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var (
		mu      sync.Mutex
		granted []time.Time
		takes   sync.WaitGroup
	)
	begun := time.Now()
	var killed time.Time
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return 0, errors.New("no take was granted for 20 s")
		case now := <-tick.C:
			if killed.IsZero() && now.Sub(begun) > 500*time.Millisecond {
				killed = now
				victim.kill()
			}
		}
		n := others[i%len(others)]
		takes.Go(func() {
			if w.take(ctx, n, body) {
				mu.Lock()
				defer mu.Unlock()
				granted = append(granted, time.Now())
			}
		})
		mu.Lock()
		back := slices.IndexFunc(granted, func(t time.Time) bool { return t.After(killed.Add(50 * time.Millisecond)) })
		enough := !killed.IsZero() && back >= 0 && time.Since(granted[back]) > time.Second
		mu.Unlock()
		if enough {
			break
		}
	}
	cancel()
	takes.Wait()
	slices.SortFunc(granted, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(granted); i++ {
		longest = max(longest, granted[i].Sub(granted[i-1]))
	}
	return longest, nil
}

// take tells whether a node granted one, within what a caller waits.
func (w *world) take(ctx context.Context, n *node, body []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+n.http()+"/v1/take", bytes.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", api.MediaJSON)
	resp, err := w.operator.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
