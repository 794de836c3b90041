package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/cluster-test/check"
)

// Result is what came of one simulation.
type Result struct {
	Seed       uint64
	Violations []string
	Faults     map[string]int
	Ops        map[check.Outcome]int
	Entries    int           // applied, distinct
	Virtual    time.Duration // that passed in the simulation
	History    *check.History
	Replicas   []*check.Replica
	Log        string // of the nodes and of the nemesis
}

// Run simulates from a seed.
func Run(t *testing.T, seed uint64) *Result {
	r := &Result{Seed: seed}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		r.Violations = w.run()
		r.Violations = append(r.Violations, w.rec.lies...)
		r.Faults, r.History = w.counts, &w.rec.h
		r.Virtual = time.Since(w.start)
		r.Log = w.log.buf.String()
		for _, n := range w.nodes {
			r.Replicas = append(r.Replicas, &check.Replica{Node: n.id, Entries: n.applied})
		}
	})
	r.Ops = map[check.Outcome]int{}
	for i := range r.History.Ops {
		r.Ops[r.History.Ops[i].Outcome]++
	}
	return r
}
