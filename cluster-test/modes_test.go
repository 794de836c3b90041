package clustertest

import (
	"bufio"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// putDoc stores a whole document through n.
func (n *node) putDoc(t testing.TB, p api.Policy) {
	t.Helper()
	if err := insist(func() error { return n.call("PUT", "/v1/policies/"+p.Name, p, nil) }); err != nil {
		t.Fatalf("put policy %s: %v", p.Name, err)
	}
}

// tally counts takes that passed, by their source.
type tally struct {
	mu     sync.Mutex
	by     map[string]int64
	denied int64
}

func (c *tally) add(d *api.Decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]int64{}
	}
	if d.Allowed {
		c.by[d.Source]++
	} else {
		c.denied++
	}
}

func (c *tally) passed() (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.by {
		n += k
	}
	return n
}

// rush has callers of every node take from one key, until the tally has so many
// answers. They use no request ids, so what is unknown counts as passed in lost.
func (c *cluster) rush(t *testing.T, policy, key string, answers int64, sum *tally) (lost int64) {
	t.Helper()
	var asked, gone atomic.Int64
	crowd(t, 5*len(c.nodes), func(i int) error {
		n := c.nodes[i%len(c.nodes)]
		for asked.Add(1) <= answers {
			d, err := n.take(api.TakeRequest{Policy: policy, Key: key})
			if err != nil { // on a busy machine a leader may lose its office
				if p := api.AsProblem(err); !p.Retryable {
					return err
				} else if p.Outcome != api.NotApplied {
					gone.Add(1)
				}
				continue
			}
			sum.add(&d)
		}
		return nil
	})()
	return gone.Load()
}

// TestLeasesOfThreeNodesAdmitExactlyTheBurst has all nodes hold leases of one
// bucket: never do more pass than the burst, and in the end all of it has, for what
// nobody spends is given back.
func TestLeasesOfThreeNodesAdmitExactlyTheBurst(t *testing.T) {
	c := shared(t)
	const burst = 4000
	name := unique("leased")
	c.nodes[0].putDoc(t, api.Policy{Name: name, Mode: "leased", LeaseTTL: api.Duration(time.Second),
		Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(year), Burst: burst}}})
	var sum tally
	lost := c.rush(t, name, "k", burst*3/2, &sum)
	t.Logf("passed by source: %v; denied %d, unknown %d", sum.by, sum.denied, lost)
	if sum.passed() > burst {
		t.Fatalf("%d passed of %d", sum.passed(), burst)
	}
	if sum.by["lease"] < burst/4 {
		t.Errorf("passed by source: %v; leases are to be what most come from", sum.by)
	}
	eventually(t, "the last token is spent", func() error {
		for _, n := range c.nodes {
			d, err := n.take(api.TakeRequest{Policy: name, Key: "k"})
			if err != nil {
				return err
			}
			sum.add(&d)
		}
		if got := sum.passed(); got > burst {
			t.Fatalf("%d passed of %d", got, burst)
		} else if got < burst-lost {
			return fmt.Errorf("%d passed", got)
		}
		return nil
	})
}

// TestANodeThatDiesKeepsItsLeasesFromOthersForTheirLifeOnly goes by cluster time, so
// the test minds no busy machine.
func TestANodeThatDiesKeepsItsLeasesFromOthersForTheirLifeOnly(t *testing.T) {
	c := shared(t)
	const burst, ttl = 1000, 2 * time.Second // and the whole burst flows in within a second
	name := unique("widow")
	c.nodes[0].putDoc(t, api.Policy{Name: name, Mode: "leased", LeaseTTL: api.Duration(ttl),
		Limits: []api.Limit{{Name: "only", Rate: burst, Per: api.Duration(time.Second), Burst: burst}}})
	leader := c.leaderOf(t, "k")
	holder, other := c.others(leader)[0], c.others(leader)[1]
	eventually(t, "a node holds a lease", func() error {
		for range 50 {
			d, err := holder.take(api.TakeRequest{Policy: name, Key: "k"})
			if err != nil {
				return err
			}
			if d.Source == "lease" && d.Allowed {
				return nil
			}
		}
		return errNotYet
	})
	holder.kill(t)
	first := other.mustPeek(t, name, "k")
	t.Logf("right after the end of the holder %d of %d are there", first.Remaining, burst)
	free := first.Commit.TimeNS + uint64((ttl + time.Second).Nanoseconds())
	eventually(t, "the dead node's leases expire", func() error {
		s := other.mustPeek(t, name, "k")
		switch {
		case s.Commit.TimeNS > free && s.Remaining < burst:
			t.Fatalf("%v after the end of the holder %d of %d are there", time.Duration(s.Commit.TimeNS-first.Commit.TimeNS), s.Remaining, burst)
		case s.Commit.TimeNS <= free:
			return errNotYet
		}
		return nil
	})
	holder.start(t)
	holder.waitReady(t)
}

// TestANodeThatStopsGivesItsLeasesBack: what it had not spent is there for others at
// once, though the leases would have lived for an hour.
func TestANodeThatStopsGivesItsLeasesBack(t *testing.T) {
	c := shared(t)
	const burst = 10_000
	name := unique("stops")
	c.nodes[0].putDoc(t, api.Policy{Name: name, Mode: "leased", LeaseTTL: api.Duration(time.Hour),
		Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(year), Burst: burst}}})
	holder := c.nodes[2]
	var sum tally
	lost := int64(0) // takes that may have passed
	eventually(t, "a node holds a lease", func() error {
		for range 50 {
			d, err := holder.take(api.TakeRequest{Policy: name, Key: "k"})
			if err != nil {
				lost++
				return err
			}
			sum.add(&d)
		}
		if sum.by["lease"] == 0 {
			return errNotYet
		}
		return nil
	})
	leased := c.nodes[0].mustPeek(t, name, "k").Remaining
	holder.terminate(t)
	if after, want := c.nodes[0].mustPeek(t, name, "k").Remaining, burst-sum.passed(); after > want || after < want-lost {
		t.Errorf("%d are left, and %d while the holder lived; %d of %d were spent", after, leased, sum.passed(), burst)
	}
	holder.start(t)
	holder.waitReady(t)
}

// TestAKeyThatIsHitByEveryoneIsLeasedByItself: in mode auto, once callers queue for
// the log.
func TestAKeyThatIsHitByEveryoneIsLeasedByItself(t *testing.T) {
	c := shared(t)
	const burst = 10_000_000
	name := unique("auto")
	c.nodes[0].putDoc(t, api.Policy{Name: name, Mode: "auto",
		Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(year), Burst: burst}}})
	if d := c.nodes[0].mustTake(t, api.TakeRequest{Policy: name, Key: "k"}); d.Mode != "strict" || d.Source != "store" {
		t.Fatalf("a quiet key: %+v", d)
	}
	var hot atomic.Int64 // nodes that lease it
	leases := make([]atomic.Bool, len(c.nodes))
	deadline := time.Now().Add(patience)
	crowd(t, 64*len(c.nodes), func(i int) error {
		at := i % len(c.nodes)
		for hot.Load() < int64(len(c.nodes)) {
			d, err := c.nodes[at].take(api.TakeRequest{Policy: name, Key: "k"})
			switch {
			case err != nil && !api.AsProblem(err).Retryable:
				return err
			case err == nil && d.Mode == "leased" && d.Source == "lease" && !leases[at].Swap(true):
				hot.Add(1)
			case time.Now().After(deadline):
				return fmt.Errorf("%d nodes lease the key", hot.Load())
			}
		}
		return nil
	})()
}

// TestSoftBucketsOfThreeNodesStayWithinTheirBound: each node spends a bucket of its
// own, and what they spent too much is what the metric says.
func TestSoftBucketsOfThreeNodesStayWithinTheirBound(t *testing.T) {
	c := shared(t)
	const burst = 500
	name := unique("soft")
	c.nodes[0].putDoc(t, api.Policy{Name: name, Mode: "soft", SyncInterval: api.Duration(300 * time.Millisecond),
		Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(24 * time.Hour), Burst: burst}}})
	var sum tally
	if lost := c.rush(t, name, "k", 4*burst, &sum); lost > 0 {
		t.Fatalf("%d takes got no answer; they need no store", lost)
	}
	passed := sum.passed()
	t.Logf("passed by source: %v; denied %d", sum.by, sum.denied)
	if bound := int64(3*burst + 2); passed > bound || sum.by["soft"] != passed {
		t.Fatalf("%d passed by source %v; the burst is %d, and two more instances may spend as much", passed, sum.by, burst)
	}
	eventually(t, "the metrics tell of the instances, and of what was spent too much", func() error {
		var all []map[string]float64
		for _, n := range c.nodes { // one of them leads the shard
			m, err := n.metrics(name)
			if err != nil {
				return err
			}
			all = append(all, m)
			if m["rlstore_soft_instances"] == 3 && m["rlstore_soft_bound_tokens"] >= 2*burst &&
				m["rlstore_soft_overshoot_tokens"] == float64(passed-burst) {
				return nil
			}
		}
		return fmt.Errorf("they are %v", all)
	})
	for _, n := range c.nodes {
		if d := n.mustTakeSoft(t, name); d.Allowed {
			t.Errorf("%s lets pass what is far below zero: %+v", n.id, d)
		}
	}
}

func (n *node) mustTakeSoft(t *testing.T, policy string) api.Decision {
	t.Helper()
	d, err := n.take(api.TakeRequest{Policy: policy, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// metrics are n's that have this policy as their only label.
func (n *node) metrics(policy string) (map[string]float64, error) {
	resp, err := plain.Get("http://" + n.http + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), `{policy="`+policy+`"} `)
		if !ok {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(rest, &v); err != nil {
			return nil, err
		}
		m[name] = v
	}
	return m, lines.Err()
}

// TestFailureRulesDecideWhileTwoOfThreeNodesAreDown: what the callers of the last
// node see, and that they need nothing but the others' return.
func TestFailureRulesDecideWhileTwoOfThreeNodesAreDown(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	last := c.nodes[0]
	for _, rule := range []string{"closed", "open", "local"} {
		last.putDoc(t, api.Policy{Name: rule, OnUnavailable: rule,
			Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(year), Burst: 5}}})
		if d := last.mustTake(t, api.TakeRequest{Policy: rule, Key: "k"}); d.Source != "store" || d.Remaining != 4 {
			t.Fatalf("%+v", d)
		}
	}
	// What local goes on from is what takes without a request id told.
	two := int64(2)
	if err := insist(func() error { _, err := last.take(api.TakeRequest{Policy: "local", Key: "k", Cost: &two}); return err }); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.others(last) {
		n.kill(t)
	}
	take := func(policy string) (d api.Decision) {
		t.Helper()
		d, err := last.take(api.TakeRequest{Policy: policy, Key: "k"})
		if err != nil {
			t.Fatalf("%s: %v", policy, err)
		}
		return d
	}
	began := time.Now()
	first := time.Duration(0)
	const many = 100 // which would last minutes if each waited
	for i := range many {
		if d := take("open"); !d.Allowed || d.Source == "store" && i > 0 {
			t.Fatalf("take %d: %+v", i, d)
		}
		if i == 0 {
			first = time.Since(began)
		}
	}
	t.Logf("the first take lasted %v, the %d after it %v", first, many-1, time.Since(began)-first)
	if took := time.Since(began); took > many*time.Second {
		t.Errorf("%d takes lasted %v", many, took)
	}
	passed := 0
	for range 6 {
		d := take("local")
		if d.Source != "local" || d.Commit != (api.Commit{}) {
			t.Errorf("%+v", d)
		}
		if d.Allowed {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d passed; 3 of 5 were spent before", passed)
	}
	// A client that meets the policies only now is told their rules.
	late, err := client.New([]string{"http://" + last.http}, client.WithTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if d, err := late.Take(t.Context(), "open", "k", 1); err != nil || d.Source != "open" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := late.Take(t.Context(), "closed", "k", 1); err == nil {
		t.Errorf("%+v", d)
	}
	_, err = last.take(api.TakeRequest{Policy: "closed", Key: "k"})
	if p := api.AsProblem(err); err == nil || p.Code != api.NoLeader && p.Code != api.OutcomeUnknown {
		t.Errorf("closed: %v", err)
	}
	c.nodes[1].start(t)
	eventually(t, "the store decides again", func() error {
		for _, rule := range []string{"open", "local"} {
			if d := take(rule); d.Source != "store" {
				return fmt.Errorf("%s is decided by %s", rule, d.Source)
			}
		}
		return nil
	})
	if d := last.mustTake(t, api.TakeRequest{Policy: "closed", Key: "k"}); d.Source != "store" {
		t.Errorf("%+v", d)
	}
}
