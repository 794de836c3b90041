package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// mmapSize of address space is reserved for the file, so that one which
	// grows within it is never mapped anew: remapping waits for all readers and
	// stops new ones. It costs no memory. The logs of a catalog and of six
	// shards, each within its byte budget, stay well below this.
	mmapSize = 2 << 30

	// lockWait is how long to wait for another process to let go of the file.
	lockWait = time.Second
)

// boltFile is the logs and votes of all groups of a node in one bbolt file, as
// raft-boltdb writes it. What waits to be appended, of whatever groups, goes to
// the disk in one transaction; see commit.
//
// What raft-boltdb is given carries checksums that also cover where it stands,
// since neither it nor bbolt keeps any:
//
//	bucket logs   u64 key -> msgpack of a raft.Log, a carrier; see carrier.go
//	bucket conf   group/key -> u32 CRC-32C of group/key and the value, the value
//
// with a group in three digits. group/made stands there from the moment on that
// the group has a log. checkBolt checks all of this before the file is used; see
// decisions 0011 and 0012.
type boltFile struct {
	path  string
	store *raftboltdb.BoltStore
	// onCommit hears of each transaction of entries that went well; nil is nobody.
	onCommit func(entries, bytes int, d time.Duration)

	disk   sync.Mutex // held by the one transaction under way; guards failed
	failed error      // of the first that did not go well: none comes after it

	mu     sync.Mutex // guards the next two
	next   *commit    // being gathered; nil if nobody waits
	groups map[uint32]*boltLog
}

// The buckets of raft-boltdb.
var (
	bucketLogs  = []byte("logs")
	bucketVotes = []byte("conf")
)

// keyMade stands beside the votes of a group that has a log, be it an empty one.
const keyMade = "made"

// openBolt opens the file at path, or makes it; its folder must exist. One that it
// could not make, as on a full disk, it removes again: the next start would take the
// part for a file that is damaged, or would not know that its name was never synced.
func openBolt(path string) (*boltFile, error) { return openBoltWith(path, boltOptions()) }

func openBoltWith(path string, o *bbolt.Options) (_ *boltFile, err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt's way to say that a page is damaged
			err = openError(path, asDamage(fmt.Errorf("the file is damaged: %v", p)))
		}
	}()
	f := &boltFile{path: path, groups: map[uint32]*boltLog{}}
	info, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0
	if err != nil && !fresh {
		return nil, openError(path, err)
	}
	if !fresh {
		found, err := checkLocked(path)
		if err != nil {
			return nil, openError(path, err)
		}
		for id, g := range found {
			f.groups[id] = &boltLog{file: f, id: id, first: g.first, last: g.last, sizes: g.sizes}
		}
	}
	if f.store, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: o}); err != nil {
		if fresh && !errors.Is(err, bbolterrors.ErrTimeout) { // nor if it is another's by now
			os.Remove(path)
		}
		return nil, openError(path, err)
	}
	if fresh {
		// bbolt syncs the file but not its name: without this a power cut could
		// take away the whole file, and with it a vote that was given.
		if err := syncFolder(filepath.Dir(path)); err != nil {
			f.Close()
			os.Remove(path)
			return nil, openError(path, err)
		}
	}
	return f, nil
}

// checkLocked is checkBolt while bbolt keeps others from writing to the file.
func checkLocked(path string) (map[uint32]*foundLog, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, err
	case err != nil:
		return nil, asDamage(fmt.Errorf("the file is damaged: %w", err))
	}
	defer db.Close()
	found, err := checkBolt(path)
	if err != nil {
		err = asDamage(fmt.Errorf("the file is damaged: %w", err))
	}
	return found, err
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

// has tells whether the group has a log in the file.
func (f *boltFile) has(group uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[group] != nil
}

// group returns the log of a group, and makes it if need be.
func (f *boltFile) group(id uint32) (*boltLog, error) {
	if id > maxGroup {
		return nil, fmt.Errorf("there can't be a group %d", id)
	}
	f.mu.Lock()
	g := f.groups[id]
	f.mu.Unlock()
	if g != nil {
		return g, nil
	}
	g = &boltLog{file: f, id: id}
	if err := g.Set([]byte(keyMade), nil); err != nil {
		return nil, openError(f.path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups[id] = g
	return g, nil
}

// Close closes the file; nobody may write to it any more.
func (f *boltFile) Close() error { return f.store.Close() }

// boltLog is the log and votes of one group. It is safe for concurrent use; only
// one goroutine at a time appends.
type boltLog struct {
	file  *boltFile
	id    uint32
	sizes sizeRing // of its entries, as the file was opened

	appending sync.Mutex // guards carriers
	carriers  carriers

	mu          sync.Mutex // guards the next two
	first, last uint64     // 0 if the log is empty
}

// FirstIndex implements raft.LogStore.
func (g *boltLog) FirstIndex() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first, nil
}

// LastIndex implements raft.LogStore.
func (g *boltLog) LastIndex() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last, nil
}

// GetLog implements raft.LogStore.
func (g *boltLog) GetLog(index uint64, l *raft.Log) error {
	if index > maxIndex {
		return raft.ErrLogNotFound
	}
	var r reassembly
	for piece := uint64(0); ; piece++ {
		key := carrierKey(g.id, index, piece)
		var carrier raft.Log
		if err := g.file.store.GetLog(key, &carrier); err != nil {
			if piece > 0 && errors.Is(err, raft.ErrLogNotFound) {
				err = fmt.Errorf("entry %d ends after %d pieces", index, piece)
			}
			return err
		}
		if done, err := r.add(key, &carrier); err != nil || done {
			*l = r.entry
			return err
		}
	}
}

// StoreLog implements raft.LogStore.
func (g *boltLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Entries that do not follow on the last one
// are refused: a log has no gaps, and an end is cut off before another one comes.
func (g *boltLog) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	g.appending.Lock()
	defer g.appending.Unlock()
	next, _ := g.LastIndex()
	for _, l := range logs {
		if next++; next != l.Index && next != 1 {
			return fmt.Errorf("entry %d can't come after entry %d", l.Index, next-1)
		}
		next = l.Index
	}
	list, bytes, err := g.carriers.carry(g.id, logs)
	if err != nil {
		return err
	}
	err = g.file.append(list, len(logs), bytes)
	g.carriers.release()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last = next; g.first == 0 {
		g.first = logs[0].Index
	}
	return nil
}

// DeleteRange implements raft.LogStore, for ranges at one end of the log.
func (g *boltLog) DeleteRange(first, last uint64) error {
	g.mu.Lock()
	first, last = max(first, g.first), min(last, g.last)
	empty, within := g.last == 0 || first > last, first > g.first && last < g.last
	g.mu.Unlock()
	if within {
		return fmt.Errorf("a cut from %d to %d would leave a gap", first, last)
	}
	if empty {
		return nil
	}
	err := g.file.change(func() error {
		return g.file.store.DeleteRange(carrierKey(g.id, first, 0), carrierKey(g.id, last, maxPiece))
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// Both may have moved meanwhile, by an append and by another cut.
	if first <= g.first {
		g.first = max(g.first, last+1)
	}
	if last >= g.last {
		g.last = min(g.last, first-1)
	}
	if g.first > g.last {
		g.first, g.last = 0, 0
	}
	return nil
}

// readSizes is the sizes of its entries, as the log was opened.
func (g *boltLog) readSizes() sizeRing { return g.sizes }

func (g *boltLog) voteKey(key []byte) []byte { return fmt.Appendf(nil, "%03d/%s", g.id, key) }

// Set implements raft.StableStore.
func (g *boltLog) Set(key, val []byte) error {
	k := g.voteKey(key)
	v := append(binary.BigEndian.AppendUint32(nil, sum(k, val)), val...)
	return g.file.change(func() error { return g.file.store.Set(k, v) })
}

// Get implements raft.StableStore. The error of an absent key is raft-boltdb's,
// which the library knows by its text.
func (g *boltLog) Get(key []byte) ([]byte, error) {
	k := g.voteKey(key)
	v, err := g.file.store.Get(k)
	if err != nil {
		return nil, err
	}
	return openVote(k, v)
}

// SetUint64 implements raft.StableStore.
func (g *boltLog) SetUint64(key []byte, val uint64) error {
	return g.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (g *boltLog) GetUint64(key []byte) (uint64, error) {
	v, err := g.Get(key)
	if err == nil && len(v) != 8 {
		err = fmt.Errorf("%s is not a number", key)
	}
	return beUint64(v), err
}

// Close implements LogBackend. The file stays open for the other groups.
func (g *boltLog) Close() error { return nil }

// onlyLog is the log of the only group in a file, and owns it.
type onlyLog struct{ *boltLog }

func openOnlyLog(path string, o *bbolt.Options) (onlyLog, error) {
	f, err := openBoltWith(path, o)
	if err != nil {
		return onlyLog{}, err
	}
	g, err := f.group(0)
	if err != nil {
		f.Close()
	}
	return onlyLog{g}, err
}

// Close implements LogBackend.
func (l onlyLog) Close() error { return l.file.Close() }

// openVote returns a copy of the value that stands under key.
func openVote(key, v []byte) ([]byte, error) {
	if len(v) < 4 || sum(key, v[4:]) != binary.BigEndian.Uint32(v) {
		return nil, fmt.Errorf("%q: %w", key, errWrongSum)
	}
	return append([]byte(nil), v[4:]...), nil
}

var errWrongSum = errors.New("its checksum is wrong")
