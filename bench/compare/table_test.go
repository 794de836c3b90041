package main

import (
	"strings"
	"testing"
	"time"
)

func TestTableHasEveryMarkAndPeer(t *testing.T) {
	r := run{figures: figures{}, keys: 100, duration: time.Second, rlstore: "true"}
	marks := 0
	for _, p := range peers {
		r.figures[p.name] = []float64{1234567}
	}
	for _, g := range goals {
		r.figures[g.other] = []float64{1234567}
		r.figures[g.ours] = []float64{1, 1234567 * g.mark, 1e9} // the median counts: just met
		if g.mark > 0 {
			marks++
		}
	}
	r.figures["rlstore half p99"], r.figures["rlstore half p99.9"] = []float64{9}, []float64{21}
	var out strings.Builder
	if err := r.print(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(out.String(), "| yes "), marks+1; got != want {
		t.Errorf("%d marks are met, not %d", got, want)
	}
	if got, want := strings.Count(out.String(), " takes/s, mode "), 4; got != want {
		t.Errorf("%d lines of modes, not %d", got, want)
	}
	if got := strings.Count(out.String(), "| no "); got != 1 {
		t.Errorf("%d marks are not met, not 1", got)
	}
	if got, want := strings.Count(out.String(), "| 1,234,567 "), len(peers); got < want {
		t.Errorf("%d peers are there, not %d", got, want)
	}
	if t.Failed() {
		t.Log("\n" + out.String())
	}
}

func TestMedian(t *testing.T) {
	for want, all := range map[float64][]float64{0: nil, 3: {3}, 2: {3, 1}, 5: {9, 5, 1}} {
		if got := (figures{"x": all}).median("x"); got != want {
			t.Errorf("the median of %v is %v, not %v", all, got, want)
		}
	}
}
