package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
)

// plan is what a run does. It follows from the seed and the length alone.
type plan struct {
	Seed     uint64        `json:"seed"`
	Length   time.Duration `json:"length_ns"` // of the faults
	Nodes    int           `json:"nodes"`     // at the start: 3 or 5
	Shards   int           `json:"shards"`
	Keys     int           `json:"keys"`     // that the callers share
	Policies []api.Policy  `json:"policies"` // decided by the log; the last Edited of them are the editor's
	Edited   int           `json:"edited"`
	// Elsewhere are policies that memory or a failure rule may decide.
	Elsewhere []api.Policy `json:"elsewhere"`
	// Holds are policies that reservations and permits are made under.
	Holds []api.Policy `json:"holds"`
	Steps []step       `json:"steps"`
}

// step is one fault of a plan. Whom it strikes follows from Draw and from the
// cluster as it finds it.
type step struct {
	At    time.Duration `json:"at_ns"` // since the first
	Kind  string        `json:"kind"`
	Lasts time.Duration `json:"lasts_ns"`
	Draw  uint64        `json:"draw"`
}

const (
	// A fault begins this long after the one before it, within these bounds.
	minGap = 900 * time.Millisecond
	maxGap = 4 * time.Second
	// calm at the end, so that the last faults are over when the run is.
	calm = 3 * time.Second
)

// newPlan draws a plan. Every kind of fault comes once before any comes twice;
// a run that is too short for all of them has as many as fit.
func newPlan(seed uint64, length time.Duration) plan {
	rng := rand.New(rand.NewPCG(seed, 0))
	p := plan{Seed: seed, Length: length, Nodes: 3, Shards: 2 + rng.IntN(3), Keys: 3 + rng.IntN(4)}
	if rng.IntN(4) == 0 {
		p.Nodes = 5
	}
	p.Policies, p.Edited, p.Elsewhere, p.Holds = drawPolicies(rng), 2, drawElsewhere(rng), drawHolds(rng)

	var able []fault // that fit into the run
	for _, f := range kinds {
		if f.shortest <= length/3 {
			able = append(able, f)
		}
	}
	gap := min(max((length-calm)/time.Duration(len(able)), minGap), maxGap)
	var deck []fault
	for at := time.Duration(0); at < length-calm; at += gap {
		if len(deck) == 0 {
			deck = slices.Clone(able)
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		f := deck[0]
		deck = deck[1:]
		longest := max(f.shortest, min(f.longest, length/6))
		p.Steps = append(p.Steps, step{
			At:   at + time.Duration(rng.Int64N(int64(gap))),
			Kind: f.kind, Lasts: f.shortest + time.Duration(rng.Int64N(int64(longest-f.shortest)+1)),
			Draw: rng.Uint64(),
		})
	}
	return p
}

// drawPolicies returns policies that deny often, that deny seldom, that have
// several limits, that never refill within a run, that have windows, and one in
// shadow.
func drawPolicies(rng *rand.Rand) []api.Policy {
	return []api.Policy{
		{Name: "tight", Limits: []api.Limit{limit("only", 1+rng.Int64N(9), 100*time.Millisecond, 8)}},
		{Name: "wide", Limits: []api.Limit{limit("only", 50+rng.Int64N(200), time.Second, 20+rng.Int64N(50))}},
		{Name: "budget", Limits: []api.Limit{limit("only", 1, 1000*time.Hour, 2000+rng.Int64N(3000))}},
		{Name: "two", Limits: []api.Limit{
			limit("burst", 10+rng.Int64N(20), time.Second, 20+rng.Int64N(20)),
			limit("minute", 100+rng.Int64N(500), time.Minute, 100+rng.Int64N(200)),
		}},
		{Name: "fixed", TimeZone: "Europe/Berlin", Limits: []api.Limit{
			{Name: "only", Algorithm: "fixed_window", Rate: 8 + rng.Int64N(50), Per: api.Duration(3 * time.Second)},
		}},
		{Name: "sliding", Limits: []api.Limit{
			{Name: "only", Algorithm: "sliding_window", Rate: 8 + rng.Int64N(50), Per: api.Duration(2 * time.Second)},
		}},
		{Name: "shadow", Enforcement: "shadow", Limits: []api.Limit{limit("only", 5, time.Second, 8)}},
		{Name: "edited", Limits: []api.Limit{limit("only", 20, time.Second, 20+rng.Int64N(20))}},
		{Name: "ns/edited", Limits: []api.Limit{
			limit("a", 7, 100*time.Millisecond, 30), limit("b", 300, time.Minute, 200),
		}},
	}
}

// softBudget is the policy of mode soft that does not refill within a run.
const softBudget = "soft-budget"

// drawElsewhere returns policies of the modes leased and soft, each with one that
// refills within a run and one that does not, and of the failure rules.
func drawElsewhere(rng *rand.Rand) []api.Policy {
	ttl := api.Duration(500+rng.Int64N(4000)) * api.Duration(time.Millisecond)
	sync := api.Duration(50+rng.Int64N(450)) * api.Duration(time.Millisecond)
	one := func(l api.Limit) []api.Limit { return []api.Limit{l} }
	return []api.Policy{
		{Name: "leased", Mode: "leased", LeaseTTL: ttl, Limits: one(limit("only", 5+rng.Int64N(20), time.Second, 10+rng.Int64N(40)))},
		{Name: "leased-budget", Mode: "leased", LeaseTTL: ttl, Limits: one(limit("only", 1, 1000*time.Hour, 100+rng.Int64N(400)))},
		{Name: "leased-window", Mode: "leased", LeaseTTL: ttl, OnUnavailable: "local", Limits: []api.Limit{
			{Name: "only", Algorithm: "fixed_window", Rate: 20 + rng.Int64N(60), Per: api.Duration(2 * time.Second)},
			limit("burst", 15, time.Second, 30),
		}},
		{Name: "soft", Mode: "soft", SyncInterval: sync, Limits: one(limit("only", 5+rng.Int64N(20), time.Second, 10+rng.Int64N(20)))},
		{Name: softBudget, Mode: "soft", SyncInterval: sync, Limits: one(limit("only", 1, 1000*time.Hour, 10+rng.Int64N(30)))},
		{Name: "open", OnUnavailable: "open", Limits: one(limit("only", 20, time.Second, 20))},
		{Name: "local", OnUnavailable: "local", OnUnavailableFor: api.Duration(1000+rng.Int64N(10_000)) * api.Duration(time.Millisecond),
			Limits: one(limit("only", 10, time.Second, 10+rng.Int64N(20)))},
	}
}

// drawHolds returns a policy for reservations, and one for permits.
func drawHolds(rng *rand.Rand) []api.Policy {
	return []api.Policy{
		{Name: "estimates", Limits: []api.Limit{limit("only", 20+rng.Int64N(100), time.Second, 50+rng.Int64N(150))}},
		{Name: "slots", Limits: []api.Limit{
			{Name: "only", Algorithm: "concurrency", Max: 1 + rng.Int64N(4)}, limit("rate", 20, time.Second, 30),
		}},
	}
}

func limit(name string, rate int64, per time.Duration, burst int64) api.Limit {
	return api.Limit{Name: name, Rate: rate, Per: api.Duration(per), Burst: burst}
}

func (p plan) String() string {
	return fmt.Sprintf("seed %d, %v, %d nodes, %d shards, %d faults", p.Seed, p.Length, p.Nodes, p.Shards, len(p.Steps))
}
