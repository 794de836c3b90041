package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Input is what [Check] judges.
type Input struct {
	History *History
	// Replicas is what the nodes applied. Without any, only what follows from
	// the history itself is checked.
	Replicas []*Replica
	// Slack is by how much cluster time may run ahead of the recorder's clock
	// over the whole history, and DriftPPM by how many millionths beyond that.
	Slack    time.Duration
	DriftPPM int64
	// Instances is how many processes, of nodes and of callers, may have spent soft
	// buckets, all that were there at any time; with 0 what these let through is not
	// checked. Silence is for how long such a process, but for the policy's
	// sync_interval, may have heard nothing of the store.
	Instances int
	Silence   time.Duration
	// StrictPolicies makes a use of a policy that was edited before the
	// operation was called a violation. It may be set when every node that
	// serves can reach the catalog.
	StrictPolicies bool
	// LinearOps is how many operations a key may have to be searched for a
	// linearization: 0 is 300, below 0 searches none. LinearTime bounds all
	// searches together: 0 is 10 s.
	LinearOps  int
	LinearTime time.Duration
}

// checker is one run of [Check].
type checker struct {
	in     Input
	h      *History
	report *Report

	byPlace map[commitKey][]int // operations whose answer names a place
	staleAt map[staleKey][]int  // stale peeks, by the entry they come after
	placed  []*place            // of each operation; nil if its place is in no log

	sets    map[string]*numbers // met in the shards' logs, by their bytes
	catalog *catalog
}

// staleKey is an entry as the answer to a stale peek names it.
type staleKey struct {
	shard uint32
	index uint64
}

// Check says whether a history can be the work of a correct rlstore. It changes
// nothing of its input.
func Check(in Input) *Report {
	if in.History == nil {
		in.History = &History{}
	}
	c := &checker{
		in: in, h: in.History, report: &Report{Elsewhere: map[string]int{}},
		byPlace: map[commitKey][]int{}, staleAt: map[staleKey][]int{},
		placed: make([]*place, len(in.History.Ops)),
		sets:   map[string]*numbers{}, catalog: newCatalog(),
	}
	c.index()
	c.order()
	logs := merge(in.Replicas, c.report)
	for i := range logs {
		if logs[i].group == 0 {
			c.catalog.replay(&logs[i], c.report)
		}
	}
	c.edits()
	var places [][]*place // of each shard
	for i := range logs {
		if logs[i].group != 0 {
			rp := replay{c: c, o: newOracle(logs[i].group)}
			rp.run(&logs[i])
			places = append(places, rp.places)
		}
	}
	if len(in.Replicas) > 0 {
		c.checkSets()
		c.count(places)
		c.lost()
		c.owners(places)
		c.spent(places)
		for _, p := range places {
			c.checkOverrides(p)
			c.bounds(p)
			c.slots(p)
		}
		c.stalePolicies()
	}
	c.tenures()
	c.linear()
	return c.report
}

// index counts the operations, puts those with a place into byPlace and
// staleAt, and refuses records that make no sense.
func (c *checker) index() {
	r := c.report
	r.Ops, r.Edits = len(c.h.Ops), len(c.h.Edits)
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		switch op.Outcome {
		case Done:
			r.Done++
		case NotApplied:
			r.NotApplied++
		case Unknown:
			r.Unknown++
		}
		if why := op.malformed(); why != "" {
			r.add(MalformedHistory, "%s: %s", op.describe(at), why)
			continue
		}
		switch {
		case !op.placed():
		case op.Stale:
			r.Stale++
			key := staleKey{op.Answer.Commit.Shard, op.Answer.Commit.Index}
			c.staleAt[key] = append(c.staleAt[key], at)
		default:
			m := op.Answer.Commit
			key := commitKey{m.Shard, m.Index, m.Offset}
			c.byPlace[key] = append(c.byPlace[key], at)
		}
	}
}

func (op *Op) malformed() string {
	switch {
	case op.Outcome != Done && op.Outcome != NotApplied && op.Outcome != Unknown:
		return "its outcome is none"
	case !slices.Contains(kinds[:], op.Kind):
		return "its kind is none"
	case op.Hold != nil && (len(op.Hold) != 16 || !op.makes() && !op.acts()), op.Hold == nil && (op.Kind == leases || op.acts()):
		return "what is about a hold has an id of 16 bytes, and nothing else has"
	case op.elsewhere() && (op.Kind != take || op.Atomic != 0):
		return "it is no take, or one of an atomic batch, and another than the log decided"
	case op.Outcome == Done && op.Answer == nil:
		return "it is done and has no answer"
	case op.Outcome == Done && op.Answer.Commit == nil && op.Kind != reset && op.Kind != renew && op.Kind != release:
		return "it is done and has no commit"
	case op.Outcome == Done && (op.Return < op.Call || op.Return == Forever):
		return "it returned before it was called, or never"
	}
	return ""
}

// placed says whether the operation's answer names a place in a log.
func (op *Op) placed() bool {
	return op.Outcome == Done && op.Answer != nil && op.Answer.Commit != nil && op.Kind != reset && !op.elsewhere()
}

// is says whether the operation of a log is the one that was asked for.
func (op *Op) is(l *logOp) bool {
	if op.acts() {
		return op.Kind == l.kind && op.cost() == l.cost && slices.Equal(op.Hold, l.hold[:]) && (op.Kind != renew || op.ttl() == l.ttl)
	}
	policy := op.Policy == l.set.policy || op.Policy == "" && strings.HasPrefix(l.set.policy, inlinePrefix)
	if op.makes() && (op.RequestID == "" || !op.Answer.Duplicate) { // else the first under the request id tells
		switch {
		case op.Need != l.need, op.Hold != nil && !slices.Equal(op.Hold, l.hold[:]),
			op.Kind != leases && (op.ttl() != l.ttl || op.CancelOnExpiry != (l.rule == 1)):
			return false
		}
	}
	return policy && op.Kind == l.kind && op.Key == l.key && op.cost() == l.cost && op.RequestID == l.requestID
}

// inline says whether the operation brought its limits along, which a recorder
// may name as the store does, or not at all.
func (op *Op) inline() bool { return op.Policy == "" || strings.HasPrefix(op.Policy, inlinePrefix) }

// inlinePrefix begins the policy's name of limits that came with a request.
const inlinePrefix = "inline:"

// makes says whether the operation makes a hold, and acts whether it is about one
// that there is.
func (op *Op) makes() bool { return op.Kind == reserve || op.Kind == acquire || op.Kind == leases }

func (op *Op) acts() bool {
	return op.Kind == commit || op.Kind == cancel || op.Kind == renew || op.Kind == release
}

// ttl is how long the hold is to live that the operation makes or renews, in
// milliseconds: "30s if it is not given".
func (op *Op) ttl() int64 { return cmp.Or(op.TTLMS, 30_000) }

// cost is what the operation asks for: 1 if it does not say.
func (op *Op) cost() int64 {
	switch op.Kind {
	case take, refund, reserve, acquire:
		return max(op.Cost, 1)
	case leases, syncs, commit:
		return op.Cost
	}
	return 0
}

// describe is the operation in a sentence; at is its number in the history.
func (op *Op) describe(at int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "operation %d (client %d, %s of %d on %q under %s", at, op.Client, op.Kind, op.cost(), op.Key, op.Policy)
	if op.RequestID != "" {
		fmt.Fprintf(&b, ", id %q", op.RequestID)
	}
	if op.Return == Forever {
		fmt.Fprintf(&b, ", %v to the end)", time.Duration(op.Call))
	} else {
		fmt.Fprintf(&b, ", %v to %v)", time.Duration(op.Call), time.Duration(op.Return))
	}
	return b.String()
}

// count counts what became of the operations of the logs.
func (c *checker) count(places [][]*place) {
	for _, shard := range places {
		for _, p := range shard {
			c.report.Places++
			switch {
			case p.verdict.decided():
				c.report.Applied++
			case p.verdict == repeated || p.verdict == again:
				c.report.Duplicates++
			case p.verdict == replayed:
				c.report.Replayed++
			default:
				c.report.Failed++
			}
			if p.owner >= 0 {
				c.report.Answers++
			}
		}
	}
}

// lost finds answers that name a place which is in no log: whatever they
// charged is forgotten.
func (c *checker) lost() {
	for at := range c.h.Ops {
		if op := &c.h.Ops[at]; op.placed() && c.placed[at] == nil && op.malformed() == "" {
			m := op.Answer.Commit
			c.report.add(LostCharge, "%s was told shard %d, index %d, offset %d, and no replica has that place", op.describe(at), m.Shard, m.Index, m.Offset)
		}
	}
}
