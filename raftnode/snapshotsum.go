package raftnode

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// summedSnapshots is the library's snapshot store with a checksum of each
// snapshot's meta.json beside it. The library sums the state only; but the meta
// file says up to which entry the state goes and who the members are, and a
// snapshot that the library can't read it leaves out, as if there were none.
//
//	snapshots/<id>/meta.json   the library's
//	snapshots/<id>/state.bin   the library's, with a CRC-64 in meta.json
//	snapshots/<id>/meta.sum    u32 CRC-32C of meta.json, big-endian
//
// A crash may leave a snapshot without meta.sum, whose meta.json then counts as right if
// it is the named snapshot's. A snapshot whose damage shows while the node runs is set aside, and the group soon
// takes another one: its state in memory is whole.
type summedSnapshots struct {
	raft.SnapshotStore
	path  string
	aside *aside
	log   hclog.Logger
	gone  atomic.Uint64 // see Snapshots.SetAside
}

const (
	sumFile = "meta.sum"
	// unfinished ends the name of a folder until the library has written it all.
	unfinished = ".tmp"
)

// sweep removes the snapshots that a crash has cut short. The library passes over
// them, and would leave up to a whole state on the disk with every crash. It is for a
// store that nobody writes to yet.
func (s *summedSnapshots) sweep() error {
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasSuffix(e.Name(), unfinished) {
			if err := os.RemoveAll(filepath.Join(s.path, e.Name())); err != nil {
				return err
			}
			s.log.Info("removed a snapshot that was never finished", "snapshot", strings.TrimSuffix(e.Name(), unfinished))
		}
	}
	return nil
}

// Create implements raft.SnapshotStore.
func (s *summedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	return &summedSink{sink, s.path}, nil
}

// List implements raft.SnapshotStore. Damaged ones are not listed.
func (s *summedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.found()
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		if f.err != nil {
			if err := s.reject(f); err != nil {
				return nil, err
			}
		}
	}
	return s.SnapshotStore.List()
}

// Open implements raft.SnapshotStore. The library compares the state's sum.
func (s *summedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := s.SnapshotStore.Open(id)
	if _, gone := os.Stat(filepath.Join(s.path, id)); gone != nil { // by the library's own hand
		return meta, state, err
	}
	if err = asDamage(err); errors.Is(err, ErrDamaged) {
		err = errors.Join(err, s.reject(foundSnapshot{id: id, err: err}))
	}
	return meta, state, err
}

// reject takes a snapshot out of the way.
func (s *summedSnapshots) reject(f foundSnapshot) error {
	if err := s.aside.move(filepath.Join(s.path, f.id)); err != nil {
		return fmt.Errorf("set the damaged snapshot %s aside: %w", f.id, err)
	}
	s.log.Error("a snapshot is damaged and was set aside", "snapshot", f.id, "error", f.err)
	s.gone.Add(1)
	return nil
}

// SetAside implements Snapshots.
func (s *summedSnapshots) SetAside() uint64 { return s.gone.Load() }

// foundSnapshot is one on the disk.
type foundSnapshot struct {
	id          string
	term, index uint64
	err         error // what is damaged about it
}

// found lists the snapshots, the newest first, of which only meta.json is read.
func (s *summedSnapshots) found() (all []foundSnapshot, err error) {
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		f := foundSnapshot{id: e.Name()}
		if !e.IsDir() || strings.HasSuffix(f.id, unfinished) {
			continue
		}
		if n, _ := fmt.Sscanf(f.id, "%d-%d-", &f.term, &f.index); n < 2 {
			continue // none of the library's
		}
		f.err, err = f.check(filepath.Join(s.path, f.id, "meta.json"))
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b foundSnapshot) int {
		return cmp.Or(cmp.Compare(b.term, a.term), cmp.Compare(b.index, a.index), cmp.Compare(b.id, a.id))
	})
	return all, nil
}

// check compares meta.json with the sum beside it, and with the snapshot's name. A
// folder that is just gone is whole: the library has reaped it.
func (f foundSnapshot) check(meta string) (wrong, err error) {
	b, err := os.ReadFile(meta)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(meta)); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return asDamage(err), nil
	}
	if err != nil {
		return nil, err
	}
	want, err := os.ReadFile(filepath.Join(filepath.Dir(meta), sumFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var m raft.SnapshotMeta
	switch {
	case err == nil && (len(want) != 4 || binary.BigEndian.Uint32(want) != crc32.Checksum(b, castagnoli)):
		return asDamage(fmt.Errorf("%s: %w", meta, errWrongSum)), nil
	case json.Unmarshal(b, &m) != nil || m.ID != f.id || m.Term != f.term || m.Index != f.index:
		return asDamage(fmt.Errorf("%s is of another snapshot, or of none", meta)), nil
	}
	return nil, nil
}

// Mend implements Snapshots. Of the spare it reads meta.json only.
func (s *summedSnapshots) Mend(first, last uint64) error {
	all, err := s.found()
	if err != nil {
		return err
	}
	var whole, lost uint64 // index of the newest snapshot that is whole, and of one that is not
	var wrong error
	for i := range all {
		f := &all[i]
		if f.err == nil && whole == 0 {
			_, state, err := s.SnapshotStore.Open(f.id)
			if err == nil {
				err, whole = state.Close(), f.index
			}
			if f.err = asDamage(err); f.err != nil && !errors.Is(f.err, ErrDamaged) {
				return fmt.Errorf("read the snapshot %s: %w", f.id, f.err)
			}
		}
		if f.err != nil {
			lost = max(lost, f.index)
			wrong = errors.Join(wrong, fmt.Errorf("the snapshot %s is damaged: %w", f.id, f.err))
		}
	}
	if lost > whole && (first == 0 || first > whole+1 || last < lost) {
		return wrong
	}
	for _, f := range all {
		if f.err != nil {
			if err := s.reject(f); err != nil {
				return err
			}
		}
	}
	return nil
}

type summedSink struct {
	raft.SnapshotSink
	path string
}

// Close implements raft.SnapshotSink: it finishes the snapshot, then sums it.
func (s *summedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	dir := filepath.Join(s.path, s.ID())
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return err
	}
	// As a whole: who sees half of it takes the snapshot for damaged.
	return replaceFile(filepath.Join(dir, sumFile), binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)))
}
