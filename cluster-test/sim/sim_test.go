package sim

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSeed runs one simulation in this process: that of the seed in
// RLSTORE_SIM_SEED, which TestSeeds sets, or of 1. RLSTORE_SIM_LOG names a file
// for what the nodes and the nemesis had to say.
func TestSeed(t *testing.T) {
	seed := uint64(1)
	child := os.Getenv(Child)
	if child != "" {
		var err error
		if seed, err = strconv.ParseUint(child, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	r := Run(t, seed)
	if child != "" {
		r.print()
	}
	if file := os.Getenv("RLSTORE_SIM_LOG"); file != "" {
		if err := os.WriteFile(file, []byte(r.Log), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range r.Violations {
		t.Error(v)
	}
}

// TestSeeds runs the simulations of the seeds in RLSTORE_SIM_SEEDS, such as
// "1-1000", each in a process of its own, as many at once as there are
// processors.
func TestSeeds(t *testing.T) {
	first, last := seeds(t)
	faults, ops := map[string]int{}, map[string]int{}
	var runs, failed, entries int
	var virtual time.Duration
	start := time.Now()
	RunSeeds(t.Context(), first, last, runtime.GOMAXPROCS(0), func(s Summary) {
		runs++
		for k, n := range s.Faults {
			faults[k] += n
		}
		for k, n := range s.Ops {
			ops[k] += n
		}
		entries += s.Entries
		virtual += time.Duration(s.VirtualMS) * time.Millisecond
		if len(s.Violations) > 0 {
			failed++
			t.Errorf("seed %d, digest %s:\n%s\nagain: %s=%d go test ./cluster-test/sim -run 'TestSeed$'",
				s.Seed, s.Digest, strings.Join(s.Violations, "\n"), Child, s.Seed)
		}
		if runs%1000 == 0 {
			fmt.Printf("%d seeds, %d failed, %v\n", runs, failed, time.Since(start).Round(time.Second))
		}
	})
	t.Logf("seeds %d to %d: %d simulations of %v together in %v, %d failed; operations %v, %d entries; faults %v",
		first, last, runs, virtual.Round(time.Second), time.Since(start).Round(time.Second), failed, ops, entries, faults)
	if uint64(runs) != last-first+1 {
		t.Errorf("%d simulations ran", runs)
	}
	if runs < 30 {
		return // too few to have met everything
	}
	for _, f := range kinds {
		if faults[f.name] == 0 {
			t.Errorf("the fault %s never fell", f.name)
		}
	}
}

// seeds is the range in RLSTORE_SIM_SEEDS; what `make test` runs if it is empty.
func seeds(t *testing.T) (first, last uint64) {
	t.Helper()
	s := os.Getenv("RLSTORE_SIM_SEEDS")
	if s == "" {
		s = "1-40"
	}
	a, b, ok := strings.Cut(s, "-")
	first, err := strconv.ParseUint(a, 10, 64)
	if err == nil && ok {
		last, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil || !ok || last < first {
		t.Fatalf("RLSTORE_SIM_SEEDS is %q, not of the form 1-1000", s)
	}
	return first, last
}
