package raftnode

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// parallelLog is the log that a group's Raft writes to: a leader's entries go to its
// disk while they go to its followers, rather than before (Ongaro's thesis, section
// 10.2.1). Who waits for an entry waits for one disk after the other no more.
//
// The library sends an entry to the followers once StoreLogs has returned, and from
// then on counts this node among those that have it. So StoreLogs returns before that
// is true, and what the library believes of such an entry goes no further:
//
//   - The state machine gets an entry once it is on this disk (machine.stored), so
//     nobody is told of a decision, and no snapshot holds one, that is not.
//   - A follower hears of a commit as far as this disk has it (known). Else it could
//     apply an entry that only itself has, which a leader that crashes takes with it.
//   - A call from another node, which may ask a leader of the past to confirm what it
//     wrote as one, waits for what was written before it (settle).
//   - Only commands wait. Changes of the members and a leader's first entry, which
//     decide who has a say, are on disk when StoreLogs returns, with all before them;
//     and so is everything that a follower writes.
//
// A leader that crashes loses what was on its way, as it always might: nobody has been
// told that it was done. Decision 0018 has the whole argument.
//
// It is safe for concurrent use, where a LogStore is.
type parallelLog struct {
	store *LogStore
	// leads tells whether the entries that StoreLogs is called with are a leader's
	// own. Called by the goroutine that calls StoreLogs.
	leads func() bool

	mu      sync.Mutex    // guards the next four
	behind  []*raft.Log   // accepted and not on disk yet, in order; their callers bound them
	writing bool          // a goroutine carries behind to the disk
	err     error         // of a write that failed: there are no more
	moved   chan struct{} // closed when behind changes; nil if nobody waits
}

var (
	_ raft.LogStore          = (*parallelLog)(nil)
	_ raft.MonotonicLogStore = (*parallelLog)(nil)
)

// IsMonotonic implements raft.MonotonicLogStore.
func (p *parallelLog) IsMonotonic() bool { return p.store.IsMonotonic() }

// FirstIndex implements raft.LogStore.
func (p *parallelLog) FirstIndex() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first, err := p.store.FirstIndex()
	if err == nil && first == 0 && len(p.behind) > 0 {
		first = p.behind[0].Index
	}
	return first, err
}

// LastIndex implements raft.LogStore.
func (p *parallelLog) LastIndex() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.behind); n > 0 {
		return p.behind[n-1].Index, nil
	}
	return p.store.LastIndex()
}

// GetLog implements raft.LogStore.
func (p *parallelLog) GetLog(index uint64, l *raft.Log) error {
	p.mu.Lock()
	if n := len(p.behind); n > 0 && index >= p.behind[0].Index && index <= p.behind[n-1].Index {
		*l = *p.behind[index-p.behind[0].Index]
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return p.store.GetLog(index, l)
}

// StoreLog implements raft.LogStore.
func (p *parallelLog) StoreLog(l *raft.Log) error { return p.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: the commands of a leader are on their way to the
// disk when it returns, and all else is there.
func (p *parallelLog) StoreLogs(logs []*raft.Log) error {
	if !onlyCommands(logs) || !p.leads() {
		if err := p.settle(context.Background()); err != nil {
			return p.store.halt(err)
		}
		return p.store.StoreLogs(logs)
	}
	p.store.announce(logs)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.store.halt(p.err)
	}
	p.behind = append(p.behind, logs...)
	if !p.writing {
		p.writing = true
		go p.write()
	}
	return nil
}

// errUnwritten is the answer to other nodes once a leader's write has failed.
var errUnwritten = errors.New("this node could not write what it had accepted as a leader")

func onlyCommands(logs []*raft.Log) bool {
	for _, l := range logs {
		if l.Type != raft.LogCommand {
			return false
		}
	}
	return true
}

// writeAtOnce entries are one write, so that it ends in time: as many as the library has
// a follower write.
const writeAtOnce = 16

// write carries to the disk what is behind, until nothing is.
func (p *parallelLog) write() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.behind) > 0 && p.err == nil {
		logs := p.behind[:min(len(p.behind), writeAtOnce)]
		p.mu.Unlock()
		err := p.store.persist(logs)
		p.mu.Lock()
		if p.err = err; err == nil {
			p.behind = p.behind[len(logs):] // others may have come meanwhile
		}
		if p.moved != nil {
			close(p.moved)
			p.moved = nil
		}
	}
	if len(p.behind) == 0 {
		p.behind = nil
	}
	p.writing = false
}

// DeleteRange implements raft.LogStore. It waits for all that is behind, since the store
// has to tell a cut of the log's end from one that leaves entries to come.
func (p *parallelLog) DeleteRange(first, last uint64) error {
	if err := p.settle(context.Background()); err != nil {
		return p.store.halt(err)
	}
	return p.store.DeleteRange(first, last)
}

// known is how much of a log that is committed up to index may be told to others.
func (p *parallelLog) known(index uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.behind) > 0 {
		return min(index, p.behind[0].Index-1)
	}
	return index
}

// wait returns once no entry up to index is behind, or with the error of a write that
// failed, or of ctx.
func (p *parallelLog) wait(ctx context.Context, index uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.behind) > 0 && p.behind[0].Index <= index {
		if p.err != nil {
			return p.err
		}
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// settle is wait for all that was accepted so far.
func (p *parallelLog) settle(ctx context.Context) error {
	p.mu.Lock()
	last := uint64(0)
	if n := len(p.behind); n > 0 {
		last = p.behind[n-1].Index
	}
	p.mu.Unlock()
	return p.wait(ctx, last)
}

// stored returns once the entry at index is on disk, or with the error for which it
// never will be.
func (p *parallelLog) stored(index uint64) error { return p.wait(context.Background(), index) }
