package raftnode

import (
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/fsm"
)

// capture is a state machine's state at one index, to be written while Apply
// goes on.
type capture interface {
	WriteTo(w io.Writer) (int64, error)
	Release()
}

// machine gives a state machine the methods that Raft wants, so that they stay
// off the domain type.
type machine struct {
	group uint32
	apply func(index uint64, entry []byte) (any, error)
	// stored returns once an entry is on this node's disk; see parallelLog.
	stored func(index uint64) error
	// last is the stamp and the index of the last applied command.
	last    func() (stamp, index uint64)
	capture func() capture
	restore func(io.Reader) error
	// fatal ends the process: a replica that can't apply an entry must not go
	// on with another one.
	fatal func(error)
	// broken is why an entry was not applied. Until the process has ended there is
	// neither another one nor a snapshot, which would stand for it. Raft's goroutine
	// for the state machine has it to itself.
	broken  error
	onApply func(group uint32, l *raft.Log)
	metrics *groupMetrics
}

func bucketMachine(group uint32, m *fsm.Buckets) *machine {
	return &machine{
		group: group, restore: m.Restore,
		apply:   func(i uint64, e []byte) (any, error) { return m.Apply(i, e) },
		last:    func() (stamp, index uint64) { s := m.Stats(); return s.Stamp, s.Index },
		capture: func() capture { return m.Capture() },
	}
}

// catalogMachine calls applied after every change of the catalog.
func catalogMachine(m *fsm.Catalog, applied func()) *machine {
	return &machine{
		last: m.Last,
		apply: func(i uint64, e []byte) (any, error) {
			defer applied()
			return m.Apply(i, e)
		},
		capture: func() capture { return m.Capture() },
		restore: func(r io.Reader) error {
			defer applied()
			return m.Restore(r)
		},
	}
}

// Apply implements raft.FSM. Its result is an error for an entry that was not applied.
func (m *machine) Apply(l *raft.Log) any {
	if m.broken == nil {
		m.broken = m.stored(l.Index) // the store has told why
	}
	if m.broken != nil {
		return m.broken
	}
	start := time.Now()
	res, err := m.apply(l.Index, l.Data)
	m.metrics.applied(time.Since(start))
	if err != nil {
		m.broken = fmt.Errorf("group %d can't apply entry %d: %w; this node stops, because skipping an entry would make it differ from the others", m.group, l.Index, err)
		m.fatal(m.broken)
		return m.broken
	}
	m.onApply(m.group, l)
	return res
}

// Snapshot implements raft.FSM. It captures only; Persist writes.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.broken != nil {
		return nil, m.broken
	}
	return fsmSnapshot{m.capture()}, nil
}

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	if err := m.restore(r); err != nil {
		return fmt.Errorf("group %d: restore a snapshot: %w", m.group, err)
	}
	return nil
}

type fsmSnapshot struct{ capture }

// Persist implements raft.FSMSnapshot.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.WriteTo(sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}
