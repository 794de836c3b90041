package raftnode

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/fsm"
)

// capture is a state machine's state at one index, to be written while Apply
// goes on.
type capture interface {
	WriteTo(w io.Writer) (int64, error)
	Release()
}

// stateMachine is what the two machines of package fsm have in common.
type stateMachine interface {
	// Last is the stamp and the index of the last applied command.
	Last() (stamp, index uint64)
	Restore(r io.Reader) error
}

// machine gives a state machine the methods that Raft wants, so that they stay
// off the domain type.
type machine struct {
	stateMachine
	group   uint32
	apply   func(index uint64, entry []byte) (any, error)
	capture func() capture
	// fatal ends the process: a replica that can't apply an entry must not go
	// on with another one.
	fatal func(error)
	// restored is called after a snapshot took the state's place.
	restored func()
}

func bucketMachine(group uint32, m *fsm.Buckets, fatal func(error)) *machine {
	return &machine{
		stateMachine: m, group: group, fatal: fatal,
		apply:   func(i uint64, e []byte) (any, error) { return m.Apply(i, e) },
		capture: func() capture { return m.Capture() },
	}
}

func catalogMachine(m *fsm.Catalog, applied func(), fatal func(error)) *machine {
	return &machine{
		stateMachine: m, fatal: fatal, restored: applied,
		apply: func(i uint64, e []byte) (any, error) {
			res, err := m.Apply(i, e)
			applied()
			return res, err
		},
		capture: func() capture { return m.Capture() },
	}
}

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any {
	res, err := m.apply(l.Index, l.Data)
	if err != nil {
		m.fatal(fmt.Errorf("group %d can't apply entry %d: %w; this node stops, because skipping an entry would make it differ from the others", m.group, l.Index, err))
		return err
	}
	return res
}

// Snapshot implements raft.FSM. It captures only; Persist writes.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return fsmSnapshot{m.capture()}, nil }

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	if err := m.stateMachine.Restore(r); err != nil {
		return fmt.Errorf("group %d: restore a snapshot: %w", m.group, err)
	}
	if m.restored != nil {
		m.restored()
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
