package sim

import (
	"os"
	"strconv"
	"testing"
)

// TestSeed runs one simulation: that of the seed in RLSTORE_SIM_SEED, as a
// process of its own; or, so that it is not idle among the tests, that of 1.
func TestSeed(t *testing.T) {
	seed := uint64(1)
	if s := os.Getenv(Child); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	r := Run(t, seed)
	if os.Getenv(Child) != "" {
		r.print()
		if f := os.Getenv("RLSTORE_SIM_LOG"); f != "" {
			os.WriteFile(f, []byte(r.Log), 0o600)
		}
	}
	for _, v := range r.Violations {
		t.Error(v)
	}
}
