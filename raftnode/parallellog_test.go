package raftnode

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// heldDisk is a log in memory whose writes of entries wait for a word each: nil, or
// the error that they end with.
type heldDisk struct {
	*raft.InmemStore
	begun chan uint64 // the last index of a write that waits
	word  chan error
}

func newHeldDisk() *heldDisk {
	return &heldDisk{raft.NewInmemStore(), make(chan uint64), make(chan error)}
}

func (d *heldDisk) StoreLogs(logs []*raft.Log) error {
	d.begun <- logs[len(logs)-1].Index
	if err := <-d.word; err != nil {
		return err
	}
	return d.InmemStore.StoreLogs(logs)
}

func (d *heldDisk) Close() error { return nil }

// memoryDisk is a log in memory.
type memoryDisk struct{ *raft.InmemStore }

func (memoryDisk) Close() error { return nil }

// parallelLogOn is a log of a leader on a disk.
func parallelLogOn(t *testing.T, disk LogBackend, o LogStoreOptions) *parallelLog {
	t.Helper()
	s, err := NewLogStore("of a test", disk, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &parallelLog{store: s, leads: func() bool { return true }}
}

// emptyLog is a log of a follower in memory.
func emptyLog(t *testing.T) *parallelLog {
	p := parallelLogOn(t, memoryDisk{raft.NewInmemStore()}, LogStoreOptions{})
	p.leads = func() bool { return false }
	return p
}

func commands(first, last uint64) (logs []*raft.Log) {
	for i := first; i <= last; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: []byte{byte(i)}})
	}
	return logs
}

// within waits for what must come.
func within[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s never came", what)
	}
	return v
}

// A leader's entries can be read at once, and are told of as they get to the disk: the
// state machine's wait ends, and a commit may be known.
func TestALeadersEntriesAreOnTheirWay(t *testing.T) {
	disk := newHeldDisk()
	var appended, arrived uint64
	p := parallelLogOn(t, disk, LogStoreOptions{
		OnAppend:  func(last uint64) { appended = last },
		OnArrival: func(index, _ uint64) { arrived = index },
		Stamp:     func([]byte) (uint64, bool) { return 1, true },
	})
	if err := p.StoreLogs(commands(1, 2)); err != nil {
		t.Fatal(err)
	}
	if last := within(t, disk.begun, "the first write"); last != 2 {
		t.Fatalf("the first write ends at %d", last)
	}
	if err := p.StoreLogs(commands(3, 5)); err != nil { // while the first is under way
		t.Fatal(err)
	}
	if appended != 5 || arrived != 5 {
		t.Fatalf("appended up to %d, arrived up to %d, before they are written", appended, arrived)
	}
	first, err := p.FirstIndex()
	last, err2 := p.LastIndex()
	if first != 1 || last != 5 || err != nil || err2 != nil {
		t.Fatalf("from %d to %d: %v, %v", first, last, err, err2)
	}
	for i := range uint64(7) {
		var l raft.Log
		err := p.GetLog(i, &l)
		if here := i >= 1 && i <= 5; here != (err == nil) || here && l.Index != i || !here && err != raft.ErrLogNotFound {
			t.Fatalf("entry %d: %+v, %v", i, l, err)
		}
	}
	if got := p.known(4); got != 0 {
		t.Fatalf("entry %d may be known, and none is on disk", got)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if p.settle(gone) == nil {
		t.Fatal("settled with nothing on disk")
	}
	waits := make(chan uint64)
	for _, i := range []uint64{2, 4} {
		go func() {
			if err := p.stored(i); err != nil {
				t.Error(err)
			}
			waits <- i
		}()
	}
	settled := make(chan error, 1)
	go func() { settled <- p.settle(context.Background()) }()
	disk.word <- nil
	if i := within(t, waits, "the end of a wait"); i != 2 {
		t.Fatalf("entry %d counts as stored after entry 2 is", i)
	}
	// The rest goes together.
	if last := within(t, disk.begun, "the second write"); last != 5 {
		t.Fatalf("the second write ends at %d", last)
	}
	if got := p.known(4); got != 2 {
		t.Fatalf("entry %d may be known, entry 2 is on disk", got)
	}
	select {
	case i := <-waits:
		t.Fatalf("entry %d counts as stored", i)
	case <-settled:
		t.Fatal("settled with a write under way")
	default:
	}
	disk.word <- nil
	if i := within(t, waits, "the end of a wait"); i != 4 || p.known(4) != 4 || within(t, settled, "the end of all writes") != nil {
		t.Fatalf("entry %d, known %d, after all is on disk", i, p.known(4))
	}
	if last, err := disk.LastIndex(); last != 5 || err != nil {
		t.Fatalf("the disk ends at %d: %v", last, err)
	}
}

// All but a leader's commands is on disk when StoreLogs returns, and so is a cut of
// what was on its way.
func TestOnlyALeadersCommandsAreOnTheirWay(t *testing.T) {
	config := []*raft.Log{{Index: 2, Term: 1, Type: raft.LogConfiguration}}
	for name, c := range map[string]struct {
		leads bool
		then  func(*parallelLog) error
		write bool // then makes a write of entries
	}{
		"a follower":    {false, func(p *parallelLog) error { return p.StoreLogs(commands(2, 2)) }, true},
		"the members":   {true, func(p *parallelLog) error { return p.StoreLogs(config) }, true},
		"a first entry": {true, func(p *parallelLog) error { return p.StoreLog(&raft.Log{Index: 2, Type: raft.LogNoop}) }, true},
		"a barrier":     {true, func(p *parallelLog) error { return p.StoreLog(&raft.Log{Index: 2, Type: raft.LogBarrier}) }, true},
		"one of two":    {true, func(p *parallelLog) error { return p.StoreLogs(append(config, commands(3, 3)...)) }, true},
		"a cut":         {true, func(p *parallelLog) error { return p.DeleteRange(1, 1) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newHeldDisk()
			p := parallelLogOn(t, disk, LogStoreOptions{})
			if err := p.StoreLogs(commands(1, 1)); err != nil {
				t.Fatal(err)
			}
			within(t, disk.begun, "the first write")
			p.leads = func() bool { return c.leads }
			done := make(chan error, 1)
			go func() { done <- c.then(p) }()
			disk.word <- nil
			if c.write {
				within(t, disk.begun, "the second write")
				select {
				case err := <-done:
					t.Fatalf("returned before it was on disk: %v", err)
				default:
				}
				disk.word <- nil
			}
			if err := within(t, done, "the end"); err != nil {
				t.Fatal(err)
			}
			if p.settle(context.Background()) != nil {
				t.Fatal("something is still behind")
			}
			if last, err := disk.LastIndex(); err != nil || (last == 0) == c.write {
				t.Fatalf("the disk ends at %d: %v", last, err)
			}
		})
	}
}

// The library makes room up to an entry behind which none is on disk yet: it knows of those
// that are on their way. That is a cut of the log's beginning and not of its end.
func TestACutOfTheBeginningWaitsForWhatComes(t *testing.T) {
	file, err := openOnlyLog(filepath.Join(t.TempDir(), "log"), boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	var held sync.RWMutex
	p := parallelLogOn(t, slowLog{file, &held}, LogStoreOptions{
		OnFatal:    func(err error) { t.Error(err) },
		OnTruncate: func(from uint64) { t.Errorf("the end is cut off from %d", from) },
	})
	p.leads = func() bool { return false }
	if err := p.StoreLogs(commands(1, 600)); err != nil {
		t.Fatal(err)
	}
	p.leads = func() bool { return true }
	held.Lock()
	if err := p.StoreLogs(commands(601, 700)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.DeleteRange(1, 600) }()
	held.Unlock()
	if err := within(t, done, "the cut"); err != nil {
		t.Fatal(err)
	}
	first, err := file.FirstIndex()
	last, err2 := file.LastIndex()
	if first != 601 || last != 700 || err != nil || err2 != nil {
		t.Fatalf("the disk has %d to %d: %v, %v", first, last, err, err2)
	}
}

// After a write that failed nobody is told that an entry is there: who waits for one,
// or brings more, ends.
func TestALeadersWriteFails(t *testing.T) {
	disk := newHeldDisk()
	fatal := make(chan error, 1)
	p := parallelLogOn(t, disk, LogStoreOptions{OnFatal: func(err error) { fatal <- err }, Halt: runtime.Goexit})
	if err := p.StoreLogs(commands(1, 1)); err != nil {
		t.Fatal(err)
	}
	within(t, disk.begun, "the write")
	ended := make(chan bool)
	ends := func(f func() error) {
		go func() {
			returned := false
			defer func() { ended <- returned }()
			f()
			returned = true
		}()
	}
	waited := make(chan error)
	go func() { waited <- p.stored(1) }()
	full := errors.New("the disk is full")
	disk.word <- full
	if err := within(t, fatal, "the news"); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if err := within(t, waited, "the end of a wait"); !errors.Is(err, full) {
		t.Fatalf("waited for an entry whose write failed: %v", err)
	}
	ends(func() error { return p.StoreLogs(commands(2, 2)) })
	if within(t, ended, "the end of a write") {
		t.Fatal("an entry was accepted after a write that failed")
	}
	ends(func() error { return p.DeleteRange(1, 1) })
	if within(t, ended, "the end of a cut") {
		t.Fatal("a cut after a write that failed")
	}
	if p.known(1) != 0 || p.settle(context.Background()) == nil {
		t.Fatalf("known up to %d", p.known(1))
	}
}

// applied is the future of an entry that was committed, with the state machine's result.
type applied struct{ result any }

func (applied) Error() error    { return nil }
func (applied) Index() uint64   { return 0 }
func (a applied) Response() any { return a.result }

// An entry that is not on the disk is not applied, nor one after it, nor is there a
// snapshot that would stand for it; and its outcome is not that it is done.
func TestNothingIsAppliedAfterAWriteThatFailed(t *testing.T) {
	full := errors.New("the disk is full")
	var told []uint64
	m := &machine{
		stored: func(index uint64) error {
			if index == 2 {
				return full
			}
			return nil
		},
		apply:   func(index uint64, _ []byte) (any, error) { told = append(told, index); return nil, nil },
		onApply: func(uint32, *raft.Log) {},
		capture: func() capture { t.Error("a capture"); return nil },
		metrics: newMetrics().group(1),
	}
	for i, l := range commands(1, 3) {
		r := m.Apply(l)
		if err, _ := r.(error); (i == 0) != (err == nil) || i > 0 && err != full {
			t.Fatalf("entry %d: %v", l.Index, r)
		}
		if err := await(context.Background(), applied{r}); err != r && i > 0 || err != nil && i == 0 {
			t.Fatalf("the outcome of entry %d is %v, want %v", l.Index, err, r)
		}
	}
	if len(told) != 1 {
		t.Fatalf("entries %v were applied", told)
	}
	if _, err := m.Snapshot(); err != full {
		t.Fatal(err)
	}
}

// Followers hear of a commit as far as the leader's own disk has it.
func TestACommitIsToldAsFarAsItIsOnDisk(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	disk := newHeldDisk()
	p := parallelLogOn(t, disk, LogStoreOptions{})
	a := unserved(nodes[0].beats.mux, nodes[0].beats, nodes[0].peers, 2, p)
	defer a.Close()
	b := unserved(nodes[1].beats.mux, nodes[1].beats, nodes[1].peers, 2, emptyLog(t))
	b.serve(func() []raft.Server { return nil })
	defer b.Close()
	told := func(prev, want uint64) {
		t.Helper()
		var resp raft.AppendEntriesResponse
		ended := a.appendTo(raft.AppendEntriesRequest{Term: 1, PrevLogEntry: prev, PrevLogTerm: 1, LeaderCommitIndex: 3}, &resp)
		rpc, args := b.next(t)
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		if err := within(t, ended, "the answer"); err != nil {
			t.Fatal(err)
		}
		if args.LeaderCommitIndex != want {
			t.Fatalf("told that entry %d is committed, want %d", args.LeaderCommitIndex, want)
		}
	}
	if err := p.StoreLogs(commands(1, 2)); err != nil {
		t.Fatal(err)
	}
	within(t, disk.begun, "the first write")
	if err := p.StoreLogs(commands(3, 3)); err != nil {
		t.Fatal(err)
	}
	told(3, 0)
	disk.word <- nil
	within(t, disk.begun, "the second write")
	told(3, 2)
	disk.word <- nil
	if err := p.stored(3); err != nil {
		t.Fatal(err)
	}
	told(3, 3)
	told(2, 2) // what a follower has behind this call's end may be of somebody else
}

// askedLog tells of each call that waits for the log.
type askedLog struct {
	*parallelLog
	asked chan struct{}
}

func (l askedLog) settle(ctx context.Context) error {
	l.asked <- struct{}{}
	return l.parallelLog.settle(ctx)
}

// A call from another node reaches Raft once what this one wrote as a leader is on disk,
// since the answer may confirm it; after a write that failed, never.
func TestCallsWaitForWhatALeaderWrote(t *testing.T) {
	nodes := openTransports(t, knowsBeats, "a", "b")
	disk := newHeldDisk()
	p := parallelLogOn(t, disk, LogStoreOptions{})
	a := unserved(nodes[0].beats.mux, nodes[0].beats, nodes[0].peers, 2, emptyLog(t))
	defer a.Close()
	asked := make(chan struct{})
	b := unserved(nodes[1].beats.mux, nodes[1].beats, nodes[1].peers, 2, askedLog{p, asked})
	b.serve(func() []raft.Server { return nil })
	defer b.Close()
	call := raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 1, PrevLogTerm: 1, Entries: commands(2, 2)}

	if err := p.StoreLogs(commands(1, 2)); err != nil {
		t.Fatal(err)
	}
	within(t, disk.begun, "the write")
	var resp raft.AppendEntriesResponse
	ended := a.appendTo(call, &resp)
	within(t, asked, "the call")
	select {
	case <-b.Consumer():
		t.Fatal("the call came while a write was under way")
	default:
	}
	disk.word <- nil
	rpc, _ := b.next(t)
	if last, err := disk.LastIndex(); last != 2 || err != nil {
		t.Fatalf("the call came while the disk ended at %d: %v", last, err)
	}
	rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	if err := within(t, ended, "the answer"); err != nil {
		t.Fatal(err)
	}

	if err := p.StoreLogs(commands(3, 3)); err != nil {
		t.Fatal(err)
	}
	within(t, disk.begun, "the second write")
	ended = a.appendTo(call, &resp)
	within(t, asked, "the second call")
	disk.word <- errors.New("the disk is full")
	if err := within(t, ended, "the answer"); err == nil || err.Error() != errUnwritten.Error() {
		t.Fatal(err)
	}
}

// slowDisk is a node's disk on which entries of shard 1 wait while it is held.
type slowDisk struct {
	Disk
	held *sync.RWMutex
}

func (d slowDisk) OpenLog(group uint32) (LogBackend, error) {
	b, err := d.Disk.OpenLog(group)
	if err == nil && group == 1 {
		b = slowLog{b, d.held}
	}
	return b, err
}

type slowLog struct {
	LogBackend
	held *sync.RWMutex
}

func (l slowLog) StoreLogs(logs []*raft.Log) error {
	l.held.RLock()
	defer l.held.RUnlock()
	return l.LogBackend.StoreLogs(logs)
}

func shardOne(t *testing.T, n *Node) *group {
	t.Helper()
	g, err := n.group(1)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// While a leader's disk is slow its followers have an entry, and the library counts it as
// committed. Nobody applies it, and nobody is told that it is done, before that disk has
// it.
func TestAnEntryIsDoneOnceItsLeaderHasItOnDisk(t *testing.T) {
	held := make([]sync.RWMutex, 3)
	c := &testCluster{t: t, dir: t.TempDir(), elections: 3 * time.Second}
	c.openDisk = func(i int) (Disk, error) {
		d, err := OpenFiles(filepath.Join(c.dir, fmt.Sprint(i)), FilesOptions{})
		return slowDisk{d, &held[i]}, err
	}
	c.start(3, joinAll)
	c.mustTake(1)
	i, n := c.leader(1)
	leader := shardOne(t, n)

	held[i].Lock()
	first := leader.raft.LastIndex() + 1
	b := &api.Batch{}
	b.Add(api.Op{Kind: api.Take, Policy: b.Ref("p"), Cost: 1, Key: keyOf(n, 1)})
	p := &fakeProposal{batch: b, done: make(chan struct{})}
	n.Submit(1, p)
	eventually(t, "the library counts it as committed", func() bool { return leader.raft.CommitIndex() >= first })
	// What is sent from now on could tell of it.
	second := leader.raft.LastIndex() + 1
	leader.raft.Apply(fsm.EncodeTick(leader.time.Now()), time.Minute)
	for _, n := range c.nodes {
		g := shardOne(t, n)
		eventually(t, "every node has the next entry", func() bool { return g.raft.LastIndex() >= second })
		if _, applied := g.machine.last(); applied >= first {
			t.Errorf("a node has applied entry %d, and its leader might lose %d", applied, first)
		}
		if g != leader && g.raft.CommitIndex() >= first {
			t.Errorf("a follower knows entry %d as committed, and its leader might lose %d", g.raft.CommitIndex(), first)
		}
	}
	select {
	case <-p.done:
		t.Errorf("the take is answered: %v", p.err)
	default:
	}

	held[i].Unlock()
	p.wait(t)
	if p.err != nil {
		t.Error(p.err)
	}
	for _, n := range c.nodes {
		eventually(t, "every node has applied it", func() bool { _, applied := shardOne(t, n).machine.last(); return applied >= second })
	}
}
