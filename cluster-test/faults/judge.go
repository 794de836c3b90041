package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// checkVerb judges the folder of a run again.
func checkVerb(_ context.Context, args []string) error {
	f := flag.NewFlagSet("check", flag.ContinueOnError)
	if err := f.Parse(args); err != nil {
		return err
	}
	bad := 0
	for _, dir := range f.Args() {
		b, err := os.ReadFile(filepath.Join(dir, "plan.json"))
		if err != nil {
			return err
		}
		var p plan
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		r := newReport(p)
		if err := judge(dir, &r); err != nil {
			return err
		}
		fmt.Print(&r)
		bad += len(r.Violations)
	}
	if bad > 0 {
		return errViolations
	}
	return nil
}

// slack is by how much cluster time may run ahead of the callers' clock: the
// two are read at different moments.
const slack = 20 * time.Millisecond

// judge reads what a run left in its folder, checks it, and fills in what the
// report tells of it.
func judge(dir string, r *report) error {
	h, processes, wrong, err := readHistory(dir)
	if err != nil {
		return err
	}
	r.Violations = append(r.Violations, wrong...)
	replicas, starts, err := readReplicas(dir)
	if err != nil {
		return err
	}
	found := check.Check(check.Input{
		History: h, Replicas: replicas, Slack: slack,
		// Whoever spends a soft bucket may be cut off as long as the faults last.
		Instances: processes + starts, Silence: time.Duration(r.Length*float64(time.Second)) + readyWithin,
	})
	for _, v := range found.Violations {
		r.Violations = append(r.Violations, v.String())
	}
	r.Checked, r.Entries, r.Starts = found.String(), found.Entries, starts
	for _, op := range h.Ops {
		r.Ops[string(op.Outcome)]++
		if op.Code != "" {
			r.Codes[string(op.Code)]++
		}
	}
	for _, e := range h.Edits {
		r.Edits[string(e.Outcome)]++
	}
	r.Elections = elections(replicas)
	r.LongestGap = longestGap(h).Seconds()
	r.Snapshots = installs(replicas)
	return nil
}

// readHistory reads what the processes of callers asked and found wrong, and counts
// these.
func readHistory(dir string) (h *check.History, processes int, wrong []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "journal.*.jsonl"))
	if err != nil {
		return nil, 0, nil, err
	}
	h = &check.History{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, nil, err
		}
		found, err := readJournal(f, h)
		f.Close()
		if err != nil {
			return nil, 0, nil, fmt.Errorf("%s: %w", name, err)
		}
		wrong = append(wrong, found...)
	}
	return h, len(files), wrong, nil
}

// readReplicas reads what every process of every node applied.
func readReplicas(dir string) (replicas []*check.Replica, starts int, err error) {
	nodes, err := filepath.Glob(filepath.Join(dir, "n*", "control"))
	if err != nil {
		return nil, 0, err
	}
	for _, control := range nodes {
		rep := &check.Replica{Node: filepath.Base(filepath.Dir(control))}
		for run := 1; ; run++ {
			f, err := os.Open(filepath.Join(control, fmt.Sprintf("applied.%d.jsonl", run)))
			if os.IsNotExist(err) {
				break
			} else if err != nil {
				return nil, 0, err
			}
			part, err := check.ReadReplica(rep.Node, f)
			f.Close()
			if err != nil {
				return nil, 0, fmt.Errorf("process %d: %w", run, err)
			}
			for _, e := range part.Entries {
				e.Run = run
				rep.Entries = append(rep.Entries, e)
			}
			starts++
		}
		replicas = append(replicas, rep)
	}
	return replicas, starts, nil
}

// elections counts the terms in which a group's leader wrote something, beyond
// the first.
func elections(replicas []*check.Replica) (n uint64) {
	terms := map[uint32]map[uint64]bool{}
	for _, r := range replicas {
		for _, e := range r.Entries {
			if terms[e.Group] == nil {
				terms[e.Group] = map[uint64]bool{}
			}
			terms[e.Group][e.Term] = true
		}
	}
	for _, t := range terms {
		n += uint64(len(t) - 1)
	}
	return n
}

// longestGap is the longest time between two answers of one shard.
func longestGap(h *check.History) time.Duration {
	answers := map[uint32][]int64{}
	for _, op := range h.Ops {
		if op.Outcome == check.Done && !op.Stale && op.Answer.Commit != nil && (op.Answer.Source == "" || op.Answer.Source == api.SourceStore) {
			shard := op.Answer.Commit.Shard
			answers[shard] = append(answers[shard], op.Return)
		}
	}
	var longest int64
	for _, at := range answers {
		slices.Sort(at)
		for i := 1; i < len(at); i++ {
			longest = max(longest, at[i]-at[i-1])
		}
	}
	return time.Duration(longest)
}

// installs counts the times that a node's state went on behind entries which it
// never applied and others did: those it got as a snapshot from its leader.
func installs(replicas []*check.Replica) (n int) {
	exist := map[uint32]map[uint64]bool{}
	for _, r := range replicas {
		for _, e := range r.Entries {
			if exist[e.Group] == nil {
				exist[e.Group] = map[uint64]bool{}
			}
			exist[e.Group][e.Index] = true
		}
	}
	for _, r := range replicas {
		newest := map[uint32]uint64{}
		for _, e := range r.Entries {
			for i := newest[e.Group] + 1; i < e.Index; i++ {
				if exist[e.Group][i] {
					n++
					break
				}
			}
			newest[e.Group] = max(newest[e.Group], e.Index)
		}
	}
	return n
}
