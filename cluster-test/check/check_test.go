package check

import (
	"testing"

	"github.com/rlstore/rlstore/api"
)

// TestTheTruthPasses makes many right histories.
func TestTheTruthPasses(t *testing.T) {
	var total Report
	for seed := range uint64(80) {
		world := right(1 + int(seed%3))
		if seed%4 == 0 {
			world = hot()
		}
		r := Check(newWorld(t, seed, world).run(1200).input())
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.merge(r)
	}
	t.Logf("%s", &total)
	if total.Duplicates == 0 || total.Replayed == 0 || total.Failed == 0 || total.Clamped == 0 || total.Restarts == 0 || total.Stale == 0 ||
		total.Intervals == 0 || total.Slots == 0 || total.StalePolicyUses == 0 || total.Keys == 0 || total.UnrecordedEdits != 0 || total.SetsUnseen != 0 {
		t.Errorf("the world does not do all that it is meant to: %+v", total)
	}
}

// TestTheTruthOfWindowsPasses: windows of the calendar and sliding ones, in zones
// that shift, by clocks that jump, with takes that wait, in shadow, and edits from
// every algorithm to every other.
func TestTheTruthOfWindowsPasses(t *testing.T) {
	var total Report
	waited, shadowed := 0, 0
	for seed := range uint64(60) {
		world := calendar()
		world.steady = seed%3 == 0
		w := newWorld(t, 5000+seed, world).run(1200)
		r := Check(w.input())
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.merge(r)
		for _, op := range w.h.Ops {
			if a := op.Answer; a != nil && a.WaitMS > 0 {
				waited++
			} else if a != nil && a.Shadowed {
				shadowed++
			}
		}
	}
	t.Logf("%s; %d waited, %d shadowed", &total, waited, shadowed)
	if waited < 100 || shadowed < 100 || total.Intervals == 0 {
		t.Errorf("the world does not do all that it is meant to: %d waited, %d shadowed", waited, shadowed)
	}
}

// TestTheTruthOfHoldsPasses: reservations and permits of few keys, among everything
// else, under windows and token buckets, in shadow, off, and edited.
func TestTheTruthOfHoldsPasses(t *testing.T) {
	var total Report
	var told struct{ again, late, charged, back, shadowed, renewed int }
	for seed := range uint64(40) {
		world := holding()
		world.windows, world.steady = seed%2 == 0, seed%3 == 0
		w := newWorld(t, 6000+seed, world).run(1200)
		r := Check(w.input())
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.merge(r)
		for _, op := range w.h.Ops {
			a := op.Answer
			switch {
			case op.Code == api.AlreadySettled:
				told.late++
			case a == nil || !op.acts() && op.Kind != reserve && op.Kind != acquire:
			case a.Duplicate:
				told.again++
			case a.Charged > 0:
				told.charged++
			case a.Given > 0:
				told.back++
			case a.Shadowed:
				told.shadowed++
			case op.Kind == renew:
				told.renewed++
			}
		}
	}
	t.Logf("%s; %+v", &total, told)
	if total.Slots < 1000 || told.again < 100 || told.late < 100 || told.charged < 100 || told.back < 100 || told.shadowed < 20 || told.renewed < 100 {
		t.Errorf("the world does not do all that it is meant to: %d permits, %+v", total.Slots, told)
	}
}

// merge adds the counts of r.
func (total *Report) merge(r *Report) {
	for _, f := range [][2]*int{
		{&total.Ops, &r.Ops}, {&total.Done, &r.Done}, {&total.NotApplied, &r.NotApplied}, {&total.Unknown, &r.Unknown},
		{&total.Stale, &r.Stale}, {&total.Edits, &r.Edits}, {&total.Entries, &r.Entries}, {&total.Shards, &r.Shards},
		{&total.Places, &r.Places}, {&total.Applied, &r.Applied}, {&total.Failed, &r.Failed}, {&total.Duplicates, &r.Duplicates},
		{&total.Replayed, &r.Replayed}, {&total.Clamped, &r.Clamped}, {&total.Restarts, &r.Restarts}, {&total.Revisions, &r.Revisions},
		{&total.Answers, &r.Answers}, {&total.Intervals, &r.Intervals}, {&total.Slots, &r.Slots}, {&total.Keys, &r.Keys}, {&total.KeysLeft, &r.KeysLeft},
		{&total.KeysUnsure, &r.KeysUnsure}, {&total.StalePolicyUses, &r.StalePolicyUses},
		{&total.UnrecordedEdits, &r.UnrecordedEdits}, {&total.SetsUnseen, &r.SetsUnseen},
	} {
		*f[0] += *f[1]
	}
}

// TestTheTruthPassesWithoutLogs checks what follows from the answers alone.
func TestTheTruthPassesWithoutLogs(t *testing.T) {
	keys := 0
	for seed := range uint64(20) {
		in := newWorld(t, 3000+seed, hot()).run(800).input()
		in.Replicas = nil
		r := Check(in)
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		keys += r.Keys
	}
	if keys < 20 {
		t.Errorf("only %d keys were searched", keys)
	}
}

// BenchmarkCheck checks a history of 200,000 operations; it is meant to take 20
// s at most.
func BenchmarkCheck(b *testing.B) {
	world := right(3)
	world.tags = 200
	w := newWorld(b, 1, world)
	for len(w.h.Ops) < 200_000 {
		w.run(10_000)
	}
	in := w.input()
	for b.Loop() {
		r := Check(in)
		if err := r.Err(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.Ops), "operations")
		b.ReportMetric(float64(r.Entries), "entries")
	}
}
