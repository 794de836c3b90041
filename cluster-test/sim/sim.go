package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/cluster-test/check"
)

// Result is what came of one simulation.
type Result struct {
	Summary
	History  *check.History
	Replicas []*check.Replica
	Log      string // of the nodes and of the nemesis
}

// Run simulates from a seed.
func Run(t *testing.T, seed uint64) *Result {
	// Cluster ids and the sessions of clients are drawn from crypto/rand.
	cryptotest.SetGlobalRandom(t, seed)
	r := &Result{}
	var w *world
	func() {
		defer toleratesUnanswered()
		synctest.Test(t, func(t *testing.T) {
			w = newWorld(seed)
			r.Violations = w.run()
			r.VirtualMS = time.Since(w.start).Milliseconds()
		})
	}()
	r.Seed, r.Faults, r.History, r.Log = seed, w.counts, &w.rec.h, w.log.buf.String()
	r.Violations = append(r.Violations, w.rec.lies...)
	for _, n := range w.nodes {
		r.Replicas = append(r.Replicas, &check.Replica{Node: n.id, Entries: n.applied})
		r.Entries = max(r.Entries, len(n.applied))
	}
	r.Ops = map[string]int{}
	for i := range r.History.Ops {
		op := &r.History.Ops[i]
		r.Ops[string(op.Outcome)]++
		if op.Kind == "take" && op.Outcome == check.Done && op.Answer.Source != "store" {
			r.Ops["from "+op.Answer.Source]++
		}
	}
	r.Digest = r.digest()
	virtual := time.Duration(r.VirtualMS) * time.Millisecond
	report := check.Check(check.Input{
		History: r.History, Replicas: r.Replicas, Slack: w.slack(virtual),
		// Whoever spends a soft bucket may be cut off for as long as there are faults.
		Instances: w.callers + w.starts, Silence: virtual,
	})
	if err := report.Err(); err != nil {
		r.Violations = append(r.Violations, err.Error())
	}
	r.Violations = append(r.Violations, w.checkSnapshots(r.Replicas)...)
	return r
}

// toleratesUnanswered recovers from the panic about goroutines that a simulation
// leaves behind, if each of them waits for a future of the Raft library that
// nobody will answer: these the product can't end (docs/raft.md, 1).
func toleratesUnanswered() {
	p := recover()
	if p == nil {
		return
	}
	if !strings.Contains(fmt.Sprint(p), "blocked goroutines remain") {
		panic(p)
	}
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(head, "synctest bubble") && !strings.Contains(stack, "raftnode.answered.func1") {
			panic(p)
		}
	}
}

// slack is by how much cluster time may run ahead of true time: by what the
// fastest clock gains, and no more.
func (w *world) slack(virtual time.Duration) time.Duration {
	return virtual * maxDrift / 1_000_000
}

// digest sums up all that was seen.
func (r *Result) digest() string {
	h := sha256.New()
	_, _ = r.History.WriteTo(h) // a hash takes everything
	for _, replica := range r.Replicas {
		b, err := json.Marshal(replica)
		if err != nil {
			panic(err) // numbers and bytes
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// print writes the summary for the parent process.
func (r *Result) print() {
	b, err := json.Marshal(r.Summary)
	if err != nil {
		panic(err) // numbers and strings
	}
	fmt.Printf("%s\n", b)
}
