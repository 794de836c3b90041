package check

import (
	"testing"
)

// TestTheTruthPasses makes many right histories.
func TestTheTruthPasses(t *testing.T) {
	var total Report
	for seed := range uint64(60) {
		w := rightWorld(t, seed, 1+int(seed%3)).run(1500)
		r := Check(w.input())
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.Duplicates += r.Duplicates
		total.Replayed += r.Replayed
		total.Failed += r.Failed
		total.Clamped += r.Clamped
		total.Restarts += r.Restarts
		total.Answers += r.Answers
		total.Intervals += r.Intervals
		total.Keys += r.Keys
		total.StalePolicyUses += r.StalePolicyUses
		if seed == 0 {
			t.Logf("seed 0: %s", r)
		}
	}
	t.Logf("all: %s", &total)
	if total.Duplicates == 0 || total.Replayed == 0 || total.Failed == 0 || total.Clamped == 0 || total.Restarts == 0 ||
		total.Intervals == 0 || total.StalePolicyUses == 0 {
		t.Error("the world does not do all that it is meant to")
	}
}
