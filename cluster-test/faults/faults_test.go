package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/cluster-test/process"
)

// TestMain lets the test binary be what the runner starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "node" || os.Args[1] == "callers") {
		os.Exit(run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(process.Spawner))
}

// TestAShortMixOfFaultsShowsNoViolation is one run, short enough for every
// change. RLSTORE_FAULTS_SEED repeats one.
func TestAShortMixOfFaultsShowsNoViolation(t *testing.T) {
	seed := seedOf(t)
	dir := t.TempDir()
	log := &lines{t: t}
	r, err := oneRun(t.Context(), newPlan(seed, 25*time.Second), options{dir: filepath.Join(dir, "run"), log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", &r)
	for _, v := range r.Violations {
		t.Error(v)
	}
	if len(r.Faults) < 8 || r.Ops["done"] < 50 { // little is enough on a machine that does much else
		t.Errorf("too little happened: %d kinds of faults, %d requests answered", len(r.Faults), r.Ops["done"])
	}
}

// seedOf draws a seed, and tells it.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64() >> 1
	if s := os.Getenv("RLSTORE_FAULTS_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; repeat with RLSTORE_FAULTS_SEED=%d", seed, seed)
	return seed
}

// lines shows a run's events in the test's log.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

func TestAPlanFollowsFromItsSeed(t *testing.T) {
	seed := seedOf(t)
	a, b := newPlan(seed, 2*time.Minute), newPlan(seed, 2*time.Minute)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("two plans of one seed:\n%+v\n%+v", a, b)
	}
	if c := newPlan(seed+1, 2*time.Minute); reflect.DeepEqual(a.Steps, c.Steps) {
		t.Error("another seed draws the same faults")
	}
	seen := map[string]bool{}
	for _, s := range a.Steps {
		seen[s.Kind] = true
		if s.At+s.Lasts > a.Length+a.Length/6 || s.Lasts < 0 {
			t.Errorf("%s lasts from %v for %v, of %v", s.Kind, s.At, s.Lasts, a.Length)
		}
	}
	for _, f := range kinds {
		if !seen[f.kind] {
			t.Errorf("two minutes see no %s", f.kind)
		}
	}
}
