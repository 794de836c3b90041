package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
// A crash may leave a snapshot without meta.sum, which then counts as right.
type summedSnapshots struct {
	raft.SnapshotStore
	path string
}

const sumFile = "meta.sum"

// Create implements raft.SnapshotStore.
func (s *summedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	return &summedSink{sink, s.path}, nil
}

// List implements raft.SnapshotStore. Unlike the library's it fails if any
// snapshot is damaged.
func (s *summedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.SnapshotStore.List()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		meta := filepath.Join(s.path, e.Name(), "meta.json")
		if err := checkSum(meta); err != nil {
			return nil, fmt.Errorf("the snapshot %s is damaged: %w", meta, err)
		}
	}
	return list, nil
}

// checkSum compares meta.json with the sum beside it. A file that is just gone
// is none of List's: the library has reaped the snapshot.
func checkSum(meta string) error {
	want, err := os.ReadFile(filepath.Join(filepath.Dir(meta), sumFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	b, err := os.ReadFile(meta)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(want) != 4 || binary.BigEndian.Uint32(want) != crc32.Checksum(b, castagnoli):
		return errWrongSum
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
	f, err := os.OpenFile(filepath.Join(dir, sumFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)))
	return errors.Join(err, f.Sync(), f.Close())
}
