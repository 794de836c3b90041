package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/raftnode"
)

// disk is a node's disk. It outlives the processes that use it, each through a
// mount of its own.
//
// A write takes a while, and is on the disk when it returns. A process that
// dies in the midst of one leaves it there or not, as chance will have it; a
// write is one transaction, so never half of it.
type disk struct {
	rng *rand.Rand // under mu

	mu       sync.Mutex
	identity []byte
	logs     map[uint32]*logFile
	snaps    map[uint32][]*snapshotFile // oldest first
	full     bool                       // every write fails, and leaves nothing
	failing  int                        // so many writes to come fail; chance says what they leave
	slow     time.Duration              // on top of the usual
	stuck    time.Time                  // no write ends before
	// bits have flipped in what is kept of a group, or of all (-1): nobody gets to
	// read it again
	flipped map[int64]bool
}

// logFile is what is on the disk of one log.
type logFile struct {
	first, last uint64 // 0 if it is empty
	entries     map[uint64]raft.Log
	values      map[string][]byte
}

// snapshotFile is one finished snapshot.
type snapshotFile struct {
	meta raft.SnapshotMeta
	data []byte
}

// fsync takes between these, most near the first.
const (
	fsyncMin = 200 * time.Microsecond
	fsyncMax = 20 * time.Millisecond
)

var (
	errCrashed  = errors.New("the process is dead")
	errDiskFull = errors.New("no space left on device")
	errIO       = errors.New("input/output error")
)

func newDisk(rng *rand.Rand) *disk {
	return &disk{rng: rng, logs: map[uint32]*logFile{}, snaps: map[uint32][]*snapshotFile{}, flipped: map[int64]bool{}}
}

// change sets what is wrong with the disk.
func (d *disk) change(f func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// mend makes the disk well.
func (d *disk) mend() {
	d.change(func(d *disk) { d.full, d.failing, d.slow, d.stuck = false, 0, 0, time.Time{} })
}

// broken tells whether no write can succeed.
func (d *disk) broken() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

// mount is a process's hold on the disk.
type mount struct {
	*disk
	dead    bool           // under mu: nothing of this process reaches the disk
	pending map[int]func() // under mu: writes under way, by number
	last    int            // number of the last write
}

func (d *disk) mount() *mount { return &mount{disk: d, pending: map[int]func(){}} }

// crash cuts the process off its disk.
func (m *mount) crash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return
	}
	m.dead = true
	for i := range m.last + 1 { // in order
		if apply := m.pending[i]; apply != nil {
			if m.rng.IntN(2) == 0 {
				apply()
			}
		}
	}
	clear(m.pending)
}

// write makes a change durable.
func (m *mount) write(apply func()) error {
	m.mu.Lock()
	if m.dead {
		m.mu.Unlock()
		return errCrashed
	}
	m.last++
	id := m.last
	m.pending[id] = apply
	d := min(fsyncMax, fsyncMin+time.Duration(m.rng.ExpFloat64()*float64(300*time.Microsecond))) + m.slow
	m.mu.Unlock()
	time.Sleep(d)
	m.mu.Lock()
	for !m.dead && time.Now().Before(m.stuck) {
		m.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		m.mu.Lock()
	}
	defer m.mu.Unlock()
	if m.dead {
		return errCrashed
	}
	delete(m.pending, id)
	switch {
	case m.full:
		return errDiskFull
	case m.failing > 0:
		m.failing--
		if m.rng.IntN(2) == 0 {
			apply()
		}
		return errIO
	}
	apply()
	return nil
}

// ReadIdentity implements raftnode.Disk.
func (m *mount) ReadIdentity() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.identity), nil
}

// WriteIdentity implements raftnode.Disk. It takes no time: a node writes its
// identity under a lock, and in virtual time no lock may be held over a wait.
func (m *mount) WriteIdentity(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.dead:
		return errCrashed
	case m.full:
		return errDiskFull
	}
	m.identity = bytes.Clone(b)
	return nil
}

// HasLog implements raftnode.Disk.
func (m *mount) HasLog(group uint32) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flipped[allGroups] {
		return false, raftnode.ErrDamaged
	}
	return m.logs[group] != nil, nil
}

// allGroups stands for the file that all groups share.
const allGroups = -1

// flip changes bits in what is kept of a group, or of allGroups.
func (d *disk) flip(group int64) { d.change(func(d *disk) { d.flipped[group] = true }) }

// SetAside implements raftnode.Disk.
func (m *mount) SetAside(groups []uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.dead:
		return errCrashed
	case m.full:
		return errDiskFull
	}
	if m.flipped[allGroups] {
		clear(m.logs)
		clear(m.flipped)
	}
	for _, g := range groups {
		if f := m.logs[g]; f != nil {
			f.first, f.last, f.entries = 0, 0, map[uint64]raft.Log{}
		}
		delete(m.snaps, g)
		delete(m.flipped, int64(g))
	}
	return nil
}

// OpenLog implements raftnode.Disk.
func (m *mount) OpenLog(group uint32) (raftnode.LogBackend, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flipped[int64(group)] {
		return nil, raftnode.ErrDamaged
	}
	if m.logs[group] == nil {
		m.logs[group] = &logFile{entries: map[uint64]raft.Log{}, values: map[string][]byte{}}
	}
	return &openLog{m, m.logs[group]}, nil
}

// Close implements raftnode.Disk.
func (m *mount) Close() error { return nil }

// openLog is a log as a process sees it.
type openLog struct {
	m *mount
	f *logFile
}

// FirstIndex implements raft.LogStore.
func (l *openLog) FirstIndex() (uint64, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.f.first, nil
}

// LastIndex implements raft.LogStore.
func (l *openLog) LastIndex() (uint64, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.f.last, nil
}

// GetLog implements raft.LogStore.
func (l *openLog) GetLog(index uint64, log *raft.Log) error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	e, ok := l.f.entries[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*log = copyLog(&e)
	return nil
}

// copyLog shares no memory: who changes what it was given changes no log.
func copyLog(l *raft.Log) raft.Log {
	c := *l
	c.Data, c.Extensions = bytes.Clone(l.Data), bytes.Clone(l.Extensions)
	return c
}

// StoreLog implements raft.LogStore.
func (l *openLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (l *openLog) StoreLogs(logs []*raft.Log) error {
	copies := make([]raft.Log, len(logs))
	for i := range logs {
		copies[i] = copyLog(logs[i])
	}
	return l.m.write(func() {
		for _, e := range copies {
			l.f.entries[e.Index] = e
			if l.f.first == 0 || e.Index < l.f.first {
				l.f.first = e.Index
			}
			l.f.last = max(l.f.last, e.Index)
		}
	})
}

// DeleteRange implements raft.LogStore.
func (l *openLog) DeleteRange(from, to uint64) error {
	return l.m.write(func() {
		f := l.f
		from, to := max(from, f.first), min(to, f.last)
		if f.last == 0 || from > to {
			return
		}
		for i := from; i <= to; i++ {
			delete(f.entries, i)
		}
		switch {
		case from == f.first && to == f.last:
			f.first, f.last = 0, 0
		case from == f.first:
			f.first = to + 1
		case to == f.last:
			f.last = from - 1
		}
	})
}

// Set implements raft.StableStore.
func (l *openLog) Set(key, val []byte) error {
	k, v := string(key), bytes.Clone(val)
	return l.m.write(func() { l.f.values[k] = v })
}

// Get implements raft.StableStore. The library knows an absent key by this text.
func (l *openLog) Get(key []byte) ([]byte, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	v, ok := l.f.values[string(key)]
	if !ok {
		return nil, errors.New("not found")
	}
	return bytes.Clone(v), nil
}

// SetUint64 implements raft.StableStore.
func (l *openLog) SetUint64(key []byte, val uint64) error { return l.Set(key, fmt.Append(nil, val)) }

// GetUint64 implements raft.StableStore.
func (l *openLog) GetUint64(key []byte) (v uint64, err error) {
	b, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(b), &v)
	return v, err
}

// Close implements raftnode.LogBackend.
func (l *openLog) Close() error { return nil }

// OpenSnapshots implements raftnode.Disk.
func (m *mount) OpenSnapshots(group uint32, _ hclog.Logger) (raftnode.Snapshots, error) {
	return &snapshotStore{m, group}, nil
}

// snapshotStore is the snapshots of one group.
type snapshotStore struct {
	m     *mount
	group uint32
}

// snapshotsKept is what the product keeps, too.
const snapshotsKept = 2

// Mend implements raftnode.Snapshots.
func (s *snapshotStore) Mend(_, _ uint64) error { return nil }

// SetAside implements raftnode.Snapshots.
func (s *snapshotStore) SetAside() uint64 { return 0 }

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64,
	c raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{s: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term,
		Configuration: c.Clone(), ConfigurationIndex: configurationIndex,
	}}, nil
}

// List implements raft.SnapshotStore: the newest first.
func (s *snapshotStore) List() (list []*raft.SnapshotMeta, err error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	files := s.m.snaps[s.group]
	for i := len(files) - 1; i >= 0; i-- {
		meta := files[i].meta
		list = append(list, &meta)
	}
	return list, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for _, f := range s.m.snaps[s.group] {
		if f.meta.ID == id {
			meta := f.meta
			return &meta, io.NopCloser(bytes.NewReader(f.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("there is no snapshot %s", id)
}

// sink is a snapshot being written.
type sink struct {
	s    *snapshotStore
	meta raft.SnapshotMeta
	buf  bytes.Buffer
	done bool
}

// Write implements raft.SnapshotSink.
func (k *sink) Write(b []byte) (int, error) { return k.buf.Write(b) }

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.meta.ID }

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error { k.done = true; return nil }

// Close implements raft.SnapshotSink: the snapshot is on disk as a whole, or not
// at all.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	k.meta.Size = int64(k.buf.Len())
	f := &snapshotFile{k.meta, bytes.Clone(k.buf.Bytes())}
	d := k.s.m.disk
	return k.s.m.write(func() {
		files := append(d.snaps[k.s.group], f)
		// As the product's store sorts them: by term, then index.
		for i := len(files) - 1; i > 0 && older(&files[i].meta, &files[i-1].meta); i-- {
			files[i], files[i-1] = files[i-1], files[i]
		}
		d.snaps[k.s.group] = append([]*snapshotFile(nil), files[max(0, len(files)-snapshotsKept):]...)
	})
}

func older(a, b *raft.SnapshotMeta) bool {
	if a.Term != b.Term {
		return a.Term < b.Term
	}
	return a.Index < b.Index
}

// snapshots copies the list of all finished snapshots.
func (d *disk) snapshots() map[uint32][]*snapshotFile {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.snaps)
}
