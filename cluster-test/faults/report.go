package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// report is what a run came to.
type report struct {
	Seed    uint64  `json:"seed"`
	Length  float64 `json:"length_s"`
	Nodes   int     `json:"nodes"`
	Shards  int     `json:"shards"`
	Network string  `json:"network"`

	Faults  map[string]int `json:"faults"`  // that struck, by kind
	Skipped map[string]int `json:"skipped"` // that found the cluster in no state for them

	Ops       map[string]int `json:"ops"` // by outcome
	Edits     map[string]int `json:"edits"`
	Codes     map[string]int `json:"codes"` // of problems
	Entries   int            `json:"entries"`
	Elections uint64         `json:"elections"` // terms with an entry, beyond the first of each group
	Snapshots int            `json:"snapshots_installed"`
	Starts    int            `json:"starts"` // of node processes

	// LongestGap is the longest time between two answers of one shard, with
	// faults at work.
	LongestGap float64 `json:"longest_gap_s"`
	BackAfter  float64 `json:"back_after_s"` // how long all took to be ready after the last fault

	Checked    string   `json:"checked"` // what was compared, in words
	Violations []string `json:"violations"`
}

func newReport(p plan) report {
	return report{
		Seed: p.Seed, Length: p.Length.Seconds(), Nodes: p.Nodes, Shards: p.Shards,
		Faults: map[string]int{}, Skipped: map[string]int{},
		Ops: map[string]int{}, Edits: map[string]int{}, Codes: map[string]int{},
	}
}

func (r *report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

// String is the report in words.
func (r *report) String() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("seed %d: %.0f s, %d nodes, %d shards; %s", r.Seed, r.Length, r.Nodes, r.Shards, r.Network)
	p("  faults      %s", counts(r.Faults))
	if len(r.Skipped) > 0 {
		p("  not now     %s", counts(r.Skipped))
	}
	p("  operations  %s; edits %s", counts(r.Ops), counts(r.Edits))
	if len(r.Codes) > 0 {
		p("  problems    %s", counts(r.Codes))
	}
	p("  cluster     %d entries, %d elections, %d snapshots installed, %d starts of nodes", r.Entries, r.Elections, r.Snapshots, r.Starts)
	p("  availability: the longest gap of a shard was %.1f s under faults; all ready %.1f s after the last", r.LongestGap, r.BackAfter)
	p("  check       %s", r.Checked)
	for _, v := range r.Violations {
		p("  VIOLATION   %s", v)
	}
	return b.String()
}

func counts(m map[string]int) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(list, ", ")
}

// total adds the counts of a report to those of many.
func (r *report) total(all *report) {
	for _, m := range []struct{ from, to map[string]int }{
		{r.Faults, all.Faults}, {r.Skipped, all.Skipped}, {r.Ops, all.Ops}, {r.Edits, all.Edits}, {r.Codes, all.Codes},
	} {
		for k, n := range m.from {
			m.to[k] += n
		}
	}
	all.Length += r.Length
	all.Entries += r.Entries
	all.Elections += r.Elections
	all.Snapshots += r.Snapshots
	all.Starts += r.Starts
	all.LongestGap = max(all.LongestGap, r.LongestGap)
	all.BackAfter = max(all.BackAfter, r.BackAfter)
	for _, v := range r.Violations {
		all.Violations = append(all.Violations, fmt.Sprintf("seed %d: %s", r.Seed, v))
	}
}
