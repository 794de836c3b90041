package raftnode

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// walSegment is the size of a segment, which is written whole when it is made.
// The library's own 64 MiB would be 448 MiB of a node that holds nothing yet.
const walSegment = 16 << 20

// walLog is the log of one group in segments of its own, as raft-wal writes them,
// with one fsync an append where bbolt needs two. The votes are those of the
// boltLog, in the file that all groups share.
//
// The library is given the header of carrier.go in the extensions, so that each
// entry has a sum here, too; what the sums of an append cannot tell it is whether
// a damaged end was confirmed or torn by a crash, and it drops either. See
// decision 0012.
type walLog struct {
	*boltLog
	wal *wal.WAL
}

// openWAL opens the log in the folder dir, which must exist, and reads it all.
func openWAL(dir string, votes *boltLog) (_ *walLog, err error) {
	segments := &metadb.BoltMetaDB{} // the list of them, a bbolt file
	var w *wal.WAL
	defer func() {
		if p := recover(); p != nil { // the library's way, and bbolt's, to say so
			err = openError(dir, asDamage(fmt.Errorf("it is damaged: %v", p)))
		}
		if err == nil {
			return
		}
		if w != nil {
			w.Close()
		}
		segments.Close() // the library leaves it open and locked if it opens nothing
	}()
	if first, _ := votes.FirstIndex(); first != 0 {
		return nil, openError(dir, fmt.Errorf("%s holds entries of group %d already", votes.file.path, votes.id))
	}
	w, err = wal.Open(dir, wal.WithMetaStore(segments), wal.WithSegmentSize(walSegment), wal.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		return nil, openError(dir, asDamage(err))
	}
	g := &walLog{votes, w}
	if err := readSizesOf(g, &g.sizes); err != nil {
		return nil, openError(dir, asDamage(fmt.Errorf("it is damaged: %w", err)))
	}
	return g, nil
}

// FirstIndex implements raft.LogStore.
func (g *walLog) FirstIndex() (uint64, error) { return g.wal.FirstIndex() }

// LastIndex implements raft.LogStore.
func (g *walLog) LastIndex() (uint64, error) { return g.wal.LastIndex() }

// GetLog implements raft.LogStore.
func (g *walLog) GetLog(index uint64, l *raft.Log) error {
	var carrier raft.Log
	if err := g.wal.GetLog(index, &carrier); err != nil {
		return err
	}
	if carrier.Index != index {
		return fmt.Errorf("entry %d: %w", index, errWrongSum)
	}
	carrier.Index = carrierKey(g.id, index, 0)
	var r reassembly
	done, err := r.add(carrier.Index, &carrier)
	if err == nil && !done {
		err = fmt.Errorf("entry %d has %d bytes of %d", index, len(carrier.Data), r.total)
	}
	*l = r.entry
	return err
}

// StoreLog implements raft.LogStore.
func (g *walLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (g *walLog) StoreLogs(logs []*raft.Log) error {
	carriers := make([]raft.Log, len(logs))
	list := make([]*raft.Log, len(logs))
	for i, l := range logs {
		head := appendFirstHeader(make([]byte, 4, firstHeader+len(l.Extensions)), l)
		binary.BigEndian.PutUint32(head, carrierSum(carrierKey(g.id, l.Index, 0), head[4:], l.Data))
		carriers[i] = raft.Log{Index: l.Index, Extensions: head, Data: l.Data}
		list[i] = &carriers[i]
	}
	return g.wal.StoreLogs(list)
}

// DeleteRange implements raft.LogStore.
func (g *walLog) DeleteRange(first, last uint64) error { return g.wal.DeleteRange(first, last) }

// Close implements LogBackend.
func (g *walLog) Close() error { return g.wal.Close() }
