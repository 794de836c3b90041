package sim

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestOne(t *testing.T) {
	seed := uint64(1)
	if s := os.Getenv("SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	start := time.Now()
	r := Run(t, seed)
	t.Logf("seed %d: %v virtual in %v, ops %v, faults %v", seed, r.Virtual, time.Since(start), r.Ops, r.Faults)
	for _, v := range r.Violations {
		t.Error(v)
	}
	if t.Failed() || os.Getenv("SHOW") != "" {
		os.WriteFile("/tmp/sim.log", []byte(r.Log), 0o600)
	}
}
