package limiter

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// TestSketchKeepsItsBounds holds a sketch against exact counts, halved as its own are.
func TestSketchKeepsItsBounds(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	zipf := rand.NewZipf(rnd, 1.1, 1, 20*heavyKeys)
	h := newHeavy()
	exact := map[subject]float64{}
	total := 0.0
	for i := range 300_000 {
		s := subject{"api", fmt.Sprint(zipf.Uint64())}
		n := 1 + rnd.Uint64N(3)
		h.add(s, n)
		exact[s] += float64(n)
		total += float64(n)
		if i%50_000 == 49_999 {
			h.decay()
			for s := range exact {
				exact[s] /= 2
			}
			total /= 2
		}
	}
	if len(h.keys) != heavyKeys || len(h.least) != heavyKeys {
		t.Fatalf("the sketch has %d keys and %d counters, of %d", len(h.keys), len(h.least), heavyKeys)
	}
	for s, want := range exact {
		c := h.keys[s]
		switch {
		case c == nil && want > float64(h.floor)+1:
			t.Fatalf("%v has %g, and no counter, and the floor is %d", s, want, h.floor)
		case c == nil && want > total/heavyKeys+1:
			t.Fatalf("%v has %g of %g, and no counter", s, want, total)
		case c != nil && (want > float64(c.count)+1 || want < float64(c.count-c.over)-1):
			t.Fatalf("%v has %g, and the sketch says %d, %d too high at most", s, want, c.count, c.over)
		}
	}
	for range 64 {
		h.decay()
	}
	if len(h.keys)+len(h.least) > 0 || h.floor > 0 {
		t.Errorf("%d keys are left for ever, with a floor of %d", len(h.keys), h.floor)
	}
}

func TestTopIsWhatLeadersDecided(t *testing.T) {
	c := newFake(t)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	heavy, light := keyIn(1, 0), keyIn(1, 1)
	do := func(n *fakeNode, ops ...namedOp) {
		t.Helper()
		if _, err := n.Do(context.Background(), batchOf(ops...), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	do(n2, take("small", heavy).cost(2), take("small", heavy).cost(2), take("small", heavy).cost(3), take("api", light))
	do(n1, take("api", light).id("a"), take("api", light).id("a"), take("small", light).cost(4),
		take("api", light).as(api.Peek).cost(0), take("api", light).as(api.Refund))
	top := func(by string, n int) api.Top {
		return MergeTop(by, n, map[string]TopPart{"n1": n1.Top(by), "n2": n2.Top(by)})
	}
	want := fmt.Sprint([]api.TopKey{{Policy: "small", Key: heavy, Taken: 0, Denied: 2}})
	if got := top(api.TopDenied, 20); fmt.Sprint(got.Keys) != want || got.OneIn != 1 || fmt.Sprint(got.Nodes) != "[n1 n2]" {
		t.Errorf("most denied are %+v, want %s", got, want)
	}
	want = fmt.Sprint([]api.TopKey{{Policy: "api", Key: light, Taken: 2}, {Policy: "small", Key: heavy, Taken: 2, Denied: 2}})
	if got := top(api.TopTaken, 20); fmt.Sprint(got.Keys) != want {
		t.Errorf("heaviest are %v, want %s", got.Keys, want)
	}
	if got := top(api.TopTaken, 1); len(got.Keys) != 1 || got.Keys[0].Key != light {
		t.Errorf("the heaviest one is %v", got.Keys)
	}
	if got := n2.Top(api.TopTaken); len(got.Keys) != 0 {
		t.Errorf("a node counted what another one decided: %v", got.Keys)
	}
}

func TestCountsAreHalvedEachMinute(t *testing.T) {
	n := newFake(t).nodes["n1"]
	var now time.Duration
	n.top.now = func() time.Duration { return now }
	key := keyIn(1, 0)
	if _, err := n.Do(context.Background(), batchOf(take("api", key).cost(50)), Options{}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		at   time.Duration
		want uint64
	}{{topHalf - 1, 50}, {topHalf, 25}, {3*topHalf - 1, 12}, {4 * topHalf, 3}, {6 * topHalf, 0}, {1000 * topHalf, 0}} {
		now = step.at
		got := uint64(0)
		if keys := n.Top(api.TopTaken).Keys; len(keys) == 1 {
			got = keys[0].Taken
		}
		if got != step.want {
			t.Errorf("after %v it counts %d, not %d", step.at, got, step.want)
		}
	}
}

// TestMergedBoundsHold: what a node does not tell of a key may be as much as its floor.
func TestMergedBoundsHold(t *testing.T) {
	parts := map[string]TopPart{
		"n1": {OneIn: 1, Floor: 5, Keys: []api.TopKey{{Policy: "p", Key: "both", Denied: 40, ErrorBound: 5}, {Policy: "p", Key: "one", Denied: 30, ErrorBound: 2}}},
		"n2": {OneIn: 4, Floor: 8, Keys: []api.TopKey{{Policy: "p", Key: "both", Denied: 20, ErrorBound: 8}}},
	}
	got := MergeTop(api.TopDenied, 5, parts)
	want := fmt.Sprint([]api.TopKey{{Policy: "p", Key: "both", Denied: 60, ErrorBound: 13}, {Policy: "p", Key: "one", Denied: 30, ErrorBound: 10}})
	if fmt.Sprint(got.Keys) != want || got.OneIn != 4 {
		t.Errorf("merged it is %+v, want %s", got, want)
	}
}

// TestBusyNodesCountSamples drives a node at 16 times its budget, and looks whether
// the estimate is near what was decided.
func TestBusyNodesCountSamples(t *testing.T) {
	top := newTop()
	var now time.Duration
	top.now = func() time.Duration { return now }
	b := batchOf(take("api", "a"), take("api", "a"), take("api", "b"), take("api", "a"))
	reply := api.BeginReply(nil, b.N, api.Commit{Shard: 1})
	for range b.N {
		reply = api.AppendResult(reply, &api.Result{Status: api.StatusAllowed, Limits: []api.LimitValues{{Remaining: 1}}})
	}
	reply = api.FinishReply(reply, 0, [][]byte{testSet("api", 1, 100).Encoded})
	decided := 0
	second := func() {
		for range 16 * topBudget / b.N {
			top.observe(b, reply)
			decided++
			now += time.Second / (16 * topBudget / 4)
		}
	}
	second()
	second() // from here on it samples
	if got := top.oneIn.Load(); got != 16 {
		t.Fatalf("one of %d batches is counted, not of 16", got)
	}
	for range 5 {
		second()
	}
	got := float64(top.taken.keys[subject{"api", "a"}].count)
	want := 3 * float64(decided)
	if off := math.Abs(got-want) / want; off > 0.1 { // some 15 sigma
		t.Errorf("it counts %g, and %g were decided", got, want)
	}
	now += time.Minute
	top.observe(b, reply)
	if got := top.oneIn.Load(); got != 1 {
		t.Errorf("after a quiet minute one of %d batches is counted", got)
	}
}

func TestTopUnderConcurrency(t *testing.T) {
	n := newFake(t).nodes["n1"]
	key := keyIn(1, 0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := n.Do(context.Background(), batchOf(take("api", key)), Options{}); err != nil {
					t.Error(err)
				}
				n.Top(api.TopDenied)
			}
		})
	}
	wg.Wait()
	if got := n.Top(api.TopTaken).Keys; len(got) != 1 || got[0].Taken != 40 {
		t.Errorf("of 40 takes it counts %v", got)
	}
}

func BenchmarkTop(b *testing.B) {
	batch := &api.Batch{}
	at := batch.Ref("api")
	for i := range 64 {
		batch.Add(api.Op{Kind: api.Take, Policy: at, Cost: 1, Key: fmt.Sprint("user:", i*i)})
	}
	reply := api.BeginReply(nil, batch.N, api.Commit{Shard: 1})
	for range batch.N {
		reply = api.AppendResult(reply, &api.Result{Status: api.StatusAllowed, Limits: []api.LimitValues{{Remaining: 1}}})
	}
	reply = api.FinishReply(reply, 0, [][]byte{testSet("api", 1, 100).Encoded})
	top := newTop()
	for b.Loop() {
		top.observe(batch, reply)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch.N), "ns/take")
}
