package raftnode

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is a log whose entries commit when the test says so.
type fakeLog struct {
	mu      sync.Mutex
	entries []*fakeFuture
	added   chan struct{}
}

func newFakeLog() *fakeLog { return &fakeLog{added: make(chan struct{}, 1000)} }

type fakeFuture struct {
	entry []byte
	done  chan struct{}
	err   error
	reply *fsm.Applied
}

func (f *fakeFuture) Error() error  { <-f.done; return f.err }
func (f *fakeFuture) Response() any { return f.reply }
func (f *fakeFuture) Index() uint64 { return 0 }

// Apply implements proposer.
func (l *fakeLog) Apply(entry []byte, _ time.Duration) raft.ApplyFuture {
	f := &fakeFuture{entry: entry, done: make(chan struct{})}
	l.mu.Lock()
	l.entries = append(l.entries, f)
	l.mu.Unlock()
	l.added <- struct{}{}
	return f
}

func (l *fakeLog) wait(t *testing.T) *fakeFuture {
	t.Helper()
	select {
	case <-l.added:
	case <-time.After(10 * time.Second):
		t.Fatal("no entry was proposed")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.entries[0]
	l.entries = l.entries[1:]
	return f
}

func (f *fakeFuture) commit(replies ...string) {
	f.reply = &fsm.Applied{}
	for _, r := range replies {
		f.reply.Replies = append(f.reply.Replies, []byte(r))
	}
	close(f.done)
}

func (f *fakeFuture) fail(err error) { f.err = err; close(f.done) }

// fakeProposal counts what happens to it.
type fakeProposal struct {
	batch     *api.Batch
	withdrawn atomic.Bool
	sealed    atomic.Int32
	done      chan struct{}
	calls     atomic.Int32
	reply     string
	err       error
}

var testSet = policy.NewSet(api.SetInfo{Policy: "p", Revision: 1,
	Limits: []api.LimitInfo{{Name: "l", Rate: 1, Per: int64(8760 * time.Hour), Burst: 10}}}) // a token a year: none flows in meanwhile

func proposal(key string) *fakeProposal {
	b := &api.Batch{}
	b.Add(api.Op{Kind: api.Take, Policy: b.Ref("p"), Cost: 1, Key: key})
	return &fakeProposal{batch: b, done: make(chan struct{})}
}

func (p *fakeProposal) Batch() *api.Batch   { return p.batch }
func (p *fakeProposal) Sets() []*policy.Set { return []*policy.Set{testSet} }
func (p *fakeProposal) Seal() bool          { p.sealed.Add(1); return !p.withdrawn.Load() }
func (p *fakeProposal) Done(reply []byte, err error) {
	if p.calls.Add(1) == 1 {
		p.reply, p.err = string(reply), err
		close(p.done)
	}
}

func (p *fakeProposal) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.Fatal("a proposal was never completed")
	}
	if n := p.calls.Load(); n != 1 {
		t.Fatalf("Done was called %d times", n)
	}
}

func startCoalescer(t *testing.T) (*coalescer, *fakeLog) {
	log := newFakeLog()
	c := newCoalescer(1, log, NewTimekeeper(NewSteady(BootClock())), WallClock(), func() fsm.Stats { return fsm.Stats{} }, newMetrics().group(1))
	c.overlap = 0 // two small entries may be in flight
	t.Cleanup(c.close)
	return c, log
}

// What waits while entries are in flight goes into one entry, and each caller
// gets its own reply.
func TestCoalescerGathersWhatWaits(t *testing.T) {
	c, log := startCoalescer(t)
	c.setOpen(true)
	var first, second [1]*fakeProposal
	first[0] = proposal("a")
	c.submit(first[0])
	one := log.wait(t)
	second[0] = proposal("b")
	c.submit(second[0])
	two := log.wait(t)
	// Two entries are in flight: the rest waits.
	var rest []*fakeProposal
	for range 100 {
		p := proposal("c")
		rest = append(rest, p)
		c.submit(p)
	}
	if n, _ := c.depth(); n != 100 {
		t.Fatalf("%d proposals wait, want 100", n)
	}
	one.commit("first")
	first[0].wait(t)
	three := log.wait(t)
	two.commit("second")
	second[0].wait(t)
	replies := make([]string, 100)
	for i := range replies {
		replies[i] = string(rune('A' + i))
	}
	three.commit(replies...)
	for i, p := range rest {
		p.wait(t)
		if p.err != nil || p.reply != replies[i] {
			t.Fatalf("proposal %d got %q, %v; want %q", i, p.reply, p.err, replies[i])
		}
	}
	if first[0].reply != "first" || second[0].reply != "second" {
		t.Fatalf("replies %q and %q", first[0].reply, second[0].reply)
	}
}

// While an entry is on its way, little that waits gathers for the next one, and
// much goes out beside it.
func TestCoalescerOverlapsOnlyWhatIsWorthAWrite(t *testing.T) {
	c, log := startCoalescer(t)
	c.mu.Lock()
	c.overlap = 100
	c.mu.Unlock()
	c.setOpen(true)
	first := proposal("a")
	c.submit(first)
	one := log.wait(t)
	var rest []*fakeProposal
	for bytes := 0; bytes < 100; {
		if n, _ := c.depth(); n != len(rest) {
			t.Fatalf("%d proposals of %d bytes wait, want all %d", n, bytes, len(rest))
		}
		p := proposal("b")
		rest = append(rest, p)
		bytes += len(p.batch.Ops)
		c.submit(p)
	}
	two := log.wait(t) // beside the first one
	one.commit("first")
	first.wait(t)
	replies := make([]string, len(rest))
	two.commit(replies...)
	for _, p := range rest {
		p.wait(t)
	}
}

// A caller that has gone is left out, and nobody calls its Done.
func TestCoalescerLeavesTheWithdrawnOut(t *testing.T) {
	c, log := startCoalescer(t)
	c.setOpen(true)
	blocker, blocker2 := proposal("x"), proposal("y")
	c.submit(blocker)
	one := log.wait(t)
	c.submit(blocker2)
	two := log.wait(t)
	gone, stays := proposal("gone"), proposal("stays")
	c.submit(gone)
	c.submit(stays)
	gone.withdrawn.Store(true)
	one.commit("x")
	three := log.wait(t)
	two.commit("y")
	three.commit("kept")
	stays.wait(t)
	if stays.reply != "kept" {
		t.Fatalf("the caller that stayed got %q", stays.reply)
	}
	if gone.calls.Load() != 0 {
		t.Fatal("Done was called for a caller that had gone")
	}
}

// Every caller of a failed entry gets the entry's outcome.
func TestCoalescerSpreadsAnEntrysFailure(t *testing.T) {
	c, log := startCoalescer(t)
	c.setOpen(true)
	p := proposal("a")
	c.submit(p)
	log.wait(t).fail(raft.ErrLeadershipLost)
	p.wait(t)
	if got := api.AsProblem(p.err); got.Outcome != api.Unknown {
		t.Fatalf("outcome %s, want unknown", got.Outcome)
	}
}

// The library leaves an entry that was committed but not applied at its shutdown
// without an answer. Closing ends all the same, and says unknown.
func TestCoalescerClosesWithAnEntryThatIsNeverAnswered(t *testing.T) {
	log := newFakeLog()
	c := newCoalescer(1, log, NewTimekeeper(NewSteady(BootClock())), WallClock(), func() fsm.Stats { return fsm.Stats{} }, newMetrics().group(1))
	c.setOpen(true)
	p := proposal("a")
	c.submit(p)
	entry := log.wait(t)
	defer entry.fail(raft.ErrRaftShutdown) // ends what waits for it
	closed := make(chan struct{})
	go func() { defer close(closed); c.close() }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("close waits for an entry that Raft will never answer")
	}
	p.wait(t)
	if got := api.AsProblem(p.err); got.Outcome != api.Unknown {
		t.Fatalf("outcome %s, want unknown", got.Outcome)
	}
}

// Closing refuses what waits, and quiescing waits for what is in flight.
func TestCoalescerQuiesces(t *testing.T) {
	c, log := startCoalescer(t)
	early := proposal("early")
	c.submit(early)
	early.wait(t)
	if !errors.Is(early.err, &api.Problem{Code: api.NotLeader}) {
		t.Fatalf("before it leads: %v", early.err)
	}
	c.setOpen(true)
	flying := proposal("flying")
	c.submit(flying)
	entry := log.wait(t)
	quiet := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { quiet <- c.quiesce(ctx) }()
	for closed := false; !closed; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		closed = !c.open
		c.mu.Unlock()
	}
	late := proposal("late")
	c.submit(late)
	late.wait(t)
	if api.AsProblem(late.err).Outcome != api.NotApplied {
		t.Fatalf("late: %v", late.err)
	}
	select {
	case err := <-quiet:
		t.Fatalf("quiesce returned %v with an entry in flight", err)
	default:
	}
	entry.commit("done")
	if err := <-quiet; err != nil {
		t.Fatal(err)
	}
	flying.wait(t)
}

// A full queue refuses at once, as not applied.
func TestCoalescerBoundsItsQueue(t *testing.T) {
	c, log := startCoalescer(t)
	c.setOpen(true)
	c.submit(proposal("1"))
	one := log.wait(t)
	c.submit(proposal("2"))
	two := log.wait(t)
	for range maxQueueProposals {
		c.submit(proposal("waits"))
	}
	over := proposal("over")
	c.submit(over)
	over.wait(t)
	if p := api.AsProblem(over.err); p.Code != api.Overloaded || p.Outcome != api.NotApplied {
		t.Fatalf("over the bound: %v", over.err)
	}
	c.setOpen(false)
	one.fail(raft.ErrNotLeader)
	two.fail(raft.ErrNotLeader)
}
