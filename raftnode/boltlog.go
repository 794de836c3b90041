package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// mmapSize of address space is reserved for each log, so that a file which
	// grows within it is never mapped anew: remapping waits for all readers and
	// stops new ones. It costs no memory. A log within its byte budget stays
	// below this; from 64 MiB to 1 GiB no difference could be measured.
	mmapSize = 256 << 20

	// lockWait is how long to wait for another process to let go of the file.
	lockWait = time.Second
)

// boltLog is a log and its votes in one bbolt file, as raft-boltdb writes it.
// What it is given carries a checksum that also covers where it stands, since
// neither raft-boltdb nor bbolt keeps one:
//
//	bucket logs   u64 index -> msgpack of a raft.Log with this index, whose data is
//	              u32 CRC-32C of the index and what follows, u64 term, u8 type,
//	              i64 time of the append (Unix nanoseconds), u32 length of the
//	              extensions, the extensions, the data
//	bucket conf   key -> u32 CRC-32C of the key and the value, the value
//
// all big-endian. checkBolt checks all of this before the log is used; see
// decision 0011.
type boltLog struct {
	*raftboltdb.BoltStore
	sizes sizeRing // of its entries, as it was opened
}

// The buckets of raft-boltdb.
var (
	bucketLogs  = []byte("logs")
	bucketVotes = []byte("conf")
)

// entryHeader is the bytes of an entry before its extensions.
const entryHeader = 4 + 8 + 1 + 8 + 4

// openBolt opens the log file at path, or makes it; its folder must exist.
func openBolt(path string) (*boltLog, error) { return openBoltWith(path, boltOptions()) }

func openBoltWith(path string, o *bbolt.Options) (_ *boltLog, err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt's way to say that a page is damaged
			err = openError(path, fmt.Errorf("the file is damaged: %v", p))
		}
	}()
	b := &boltLog{}
	info, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0
	if err != nil && !fresh {
		return nil, openError(path, err)
	}
	if !fresh {
		if b.sizes, err = checkLocked(path); err != nil {
			return nil, openError(path, err)
		}
	}
	if b.BoltStore, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: o}); err != nil {
		return nil, openError(path, err)
	}
	if fresh {
		// bbolt syncs the file but not its name: without this a power cut could
		// take away the whole file, and with it a vote that was given.
		if err := syncFolder(filepath.Dir(path)); err != nil {
			b.Close()
			return nil, openError(path, err)
		}
	}
	return b, nil
}

// checkLocked is checkBolt while bbolt keeps others from writing to the file.
func checkLocked(path string) (sizeRing, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return sizeRing{}, err
	}
	defer db.Close()
	sizes, err := checkBolt(path)
	if err != nil {
		err = fmt.Errorf("the file is damaged: %w", err)
	}
	return sizes, err
}

// readSizesOf fills ring with the sizes of the newest entries of any backend,
// which it has to read for that.
func readSizesOf(b LogBackend, ring *sizeRing) error {
	first, err := b.FirstIndex()
	if err != nil {
		return err
	}
	last, err := b.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	if last-first >= maxSizes {
		first = last - maxSizes + 1
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := b.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		ring.append(i, entrySize(&l))
	}
	return nil
}

// boltOptions: the list of free pages is not written with each commit but
// found anew at open, which halves the writes of a commit; and it is a map,
// since a log's free pages become many.
func boltOptions() *bbolt.Options {
	o := &bbolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
	if strconv.IntSize == 64 {
		o.InitialMmapSize = mmapSize
	}
	return o
}

func openError(path string, err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("the log %s is in use by another process", path)
	}
	return fmt.Errorf("open the log %s: %w", path, err)
}

// GetLog implements raft.LogStore.
func (b *boltLog) GetLog(index uint64, l *raft.Log) error {
	var carrier raft.Log
	if err := b.BoltStore.GetLog(index, &carrier); err != nil {
		return err
	}
	return openCarrier(logKey(index), &carrier, l)
}

// StoreLog implements raft.LogStore.
func (b *boltLog) StoreLog(l *raft.Log) error { return b.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (b *boltLog) StoreLogs(logs []*raft.Log) error {
	carriers := make([]raft.Log, len(logs))
	list := make([]*raft.Log, len(logs))
	for i, l := range logs {
		carriers[i] = raft.Log{Index: l.Index, Data: encodeEntry(logKey(l.Index), l)}
		list[i] = &carriers[i]
	}
	return b.BoltStore.StoreLogs(list)
}

// openCarrier fills in l with the entry that a carrier under key has in it.
func openCarrier(key []byte, carrier, l *raft.Log) error {
	if carrier.Index != beUint64(key) {
		return fmt.Errorf("entry %d: %w", beUint64(key), errWrongSum)
	}
	return decodeEntry(key, carrier.Data, l)
}

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// Set implements raft.StableStore.
func (b *boltLog) Set(key, val []byte) error {
	v := binary.BigEndian.AppendUint32(nil, sum(key, val))
	return b.BoltStore.Set(key, append(v, val...))
}

// Get implements raft.StableStore. The error of an absent key is raft-boltdb's,
// which the library knows by its text.
func (b *boltLog) Get(key []byte) ([]byte, error) {
	v, err := b.BoltStore.Get(key)
	if err != nil {
		return nil, err
	}
	return openVote(key, v)
}

// SetUint64 implements raft.StableStore.
func (b *boltLog) SetUint64(key []byte, val uint64) error {
	return b.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (b *boltLog) GetUint64(key []byte) (uint64, error) {
	v, err := b.Get(key)
	if err == nil && len(v) != 8 {
		err = fmt.Errorf("%s is not a number", key)
	}
	return beUint64(v), err
}

// sum is the checksum of what a key and its value hold.
func sum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func encodeEntry(key []byte, l *raft.Log) []byte {
	b := make([]byte, 4, entryHeader+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(append(b, l.Extensions...), l.Data...)
	binary.BigEndian.PutUint32(b, sum(key, b[4:]))
	return b
}

var errWrongSum = errors.New("its checksum is wrong")

// decodeEntry fills in l, which keeps nothing of v.
func decodeEntry(key, v []byte, l *raft.Log) error {
	if len(v) < entryHeader || sum(key, v[4:]) != binary.BigEndian.Uint32(v) {
		return fmt.Errorf("entry %d: %w", beUint64(key), errWrongSum)
	}
	*l = raft.Log{Index: beUint64(key), Term: binary.BigEndian.Uint64(v[4:]), Type: raft.LogType(v[12])}
	if at := int64(binary.BigEndian.Uint64(v[13:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	ext, rest := binary.BigEndian.Uint32(v[21:]), v[entryHeader:]
	if uint64(ext) > uint64(len(rest)) {
		return fmt.Errorf("entry %d: extensions of %d bytes in %d", l.Index, ext, len(rest))
	}
	if ext > 0 {
		l.Extensions = bytes.Clone(rest[:ext])
	}
	l.Data = bytes.Clone(rest[ext:])
	return nil
}

// openVote returns a copy of the value that stands under key.
func openVote(key, v []byte) ([]byte, error) {
	if len(v) < 4 || sum(key, v[4:]) != binary.BigEndian.Uint32(v) {
		return nil, fmt.Errorf("%q: %w", key, errWrongSum)
	}
	return bytes.Clone(v[4:]), nil
}
