package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// deletePiece is how many entries one transaction of DeleteRange removes:
	// a write has to wait for one piece at most.
	deletePiece = 256

	// A write that is stuck for stuckTicks of stuckTick is fatal. Ticks are
	// counted rather than time, so that a process which was stopped and goes on
	// does not take that for a stuck disk.
	stuckTick  = time.Second
	stuckTicks = 10
)

// LogStoreOptions are what a [LogStore] reports to. Every function but OnFatal
// may be nil. None of them may call the store.
type LogStoreOptions struct {
	// Stamp returns the stamp of a command entry's data, false if it has none.
	Stamp func(data []byte) (uint64, bool)
	// OnAppend hears of each write of entries, before it begins: the index of the
	// last one.
	OnAppend func(last uint64)
	// OnArrival hears of the newest stamped entry of each write, before it is
	// written; see [Timekeeper.Arrived].
	OnArrival func(index, stamp uint64)
	// OnTruncate hears of a removal of the log's end, before it happens.
	OnTruncate func(from uint64)
	// OnFatal must end the process: a write failed, or is stuck, and a node
	// whose disk cannot be trusted must not vote. It is called at most once.
	OnFatal func(err error)
	// Halt is called instead of returning the error of a write that the library
	// must not go on from: it panics when a term or vote is not written, and
	// after a cut of the log's end that failed it has a wrong last index. Halt
	// must not return; runtime.Goexit ends the library's goroutine. Nil returns
	// the error all the same.
	Halt func()
	// OnStore hears of each successful write of entries.
	OnStore func(entries, bytes int, d time.Duration)
	// Logger is slog's default logger if nil.
	Logger *slog.Logger
}

// LogStore is the log and the votes of one Raft group: a backend, under a watchdog
// and with accounts. It is a raft.LogStore and a raft.StableStore.
//
//   - A write that fails or is stuck for ten seconds ends the process, by
//     OnFatal. No write is ever timed out and carried on from.
//   - It keeps account of the entries' bytes, so that snapshots and trailing
//     logs can be budgeted in bytes.
//   - It holds no cache: put raft.NewLogCache around it for the log, and give
//     the LogStore itself as the stable store. A cache inside would have to
//     repeat what the library's does.
//
// It is safe for concurrent use.
type LogStore struct {
	name    string // what errors call it
	backend LogBackend
	opts    LogStoreOptions

	fatalOnce sync.Once
	failure   atomic.Pointer[error] // what OnFatal was told
	tick      time.Duration         // stuckTick, but in tests

	writes sync.WaitGroup // under way; added to under mu, while not closed

	mu       sync.Mutex // guards the next three
	closed   bool
	sizes    sizeRing
	appended uint64
}

var (
	_ raft.LogStore          = (*LogStore)(nil)
	_ raft.StableStore       = (*LogStore)(nil)
	_ raft.MonotonicLogStore = (*LogStore)(nil)
)

// OpenLogStore opens the log file at path for one group alone, or makes it; its
// folder must exist.
func OpenLogStore(path string, o LogStoreOptions) (*LogStore, error) {
	g, err := openOnlyLog(path, boltOptions())
	if err != nil {
		return nil, err
	}
	return newLogStore(path, g, g.sizes, o), nil
}

// NewLogStore returns a store over b, which it owns. name is what errors call
// it.
func NewLogStore(name string, b LogBackend, o LogStoreOptions) (*LogStore, error) {
	var sizes sizeRing
	if read, ok := b.(interface{ readSizes() sizeRing }); ok {
		sizes = read.readSizes()
	} else if err := readSizesOf(b, &sizes); err != nil {
		b.Close()
		return nil, openError(name, err)
	}
	return newLogStore(name, b, sizes, o), nil
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

func newLogStore(name string, backend LogBackend, sizes sizeRing, o LogStoreOptions) *LogStore {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &LogStore{name: name, backend: backend, opts: o, tick: stuckTick, sizes: sizes, appended: sizes.total()}
}

// IsMonotonic makes the library clear the log after it installed a snapshot,
// instead of leaving a gap in it.
//
// bbolt bears gaps, but what lies before one may conflict with what the
// snapshot covers, and the library sends it to other nodes as if it were
// committed, and livelocks on it (github.com/hashicorp/raft/issues/697). Raft
// says to discard the log there; with budgeted logs it costs little.
func (s *LogStore) IsMonotonic() bool { return true }

// FirstIndex returns the first index in the log, 0 if it is empty.
func (s *LogStore) FirstIndex() (uint64, error) { return s.backend.FirstIndex() }

// LastIndex returns the last index in the log, 0 if it is empty.
func (s *LogStore) LastIndex() (uint64, error) { return s.backend.LastIndex() }

// GetLog reads an entry; raft.ErrLogNotFound if it is not there. An entry that
// is there and can't be read is fatal: it may have been confirmed.
func (s *LogStore) GetLog(index uint64, log *raft.Log) error {
	err := s.backend.GetLog(index, log)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return s.fatal(fmt.Errorf("read the log %s: %w", s.name, err))
	}
	return err
}

// StoreLog is [LogStore.StoreLogs] of one entry.
func (s *LogStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs writes the entries and returns when they are on disk.
func (s *LogStore) StoreLogs(logs []*raft.Log) error {
	s.announce(logs)
	if err := s.persist(logs); err != nil {
		return s.halt(err)
	}
	return nil
}

// announce tells of entries that are to be written.
func (s *LogStore) announce(logs []*raft.Log) {
	if s.opts.OnAppend != nil && len(logs) > 0 {
		s.opts.OnAppend(logs[len(logs)-1].Index)
	}
	s.arrived(logs)
}

// persist writes entries that were announced, and returns when they are on disk.
func (s *LogStore) persist(logs []*raft.Log) error {
	start := time.Now()
	if err := s.write("append to", func() error { return s.backend.StoreLogs(logs) }); err != nil {
		return err
	}
	d := time.Since(start)
	bytes := 0
	s.mu.Lock()
	for _, l := range logs {
		n := entrySize(l)
		s.sizes.append(l.Index, n)
		bytes += n
	}
	s.appended += uint64(bytes)
	s.mu.Unlock()
	if s.opts.OnStore != nil {
		s.opts.OnStore(len(logs), bytes, d)
	}
	return nil
}

func (s *LogStore) arrived(logs []*raft.Log) {
	if s.opts.OnArrival == nil || s.opts.Stamp == nil {
		return
	}
	for i := len(logs) - 1; i >= 0; i-- {
		if l := logs[i]; l.Type == raft.LogCommand {
			if stamp, ok := s.opts.Stamp(l.Data); ok {
				s.opts.OnArrival(l.Index, stamp)
				return
			}
		}
	}
}

// entryOverhead is about what the index, term, type and time of an entry take.
const entryOverhead = 96

func entrySize(l *raft.Log) int {
	return min(len(l.Data)+len(l.Extensions)+entryOverhead, math.MaxUint32)
}

// DeleteRange removes the entries from first to last, both included, in pieces.
//
// A crash between two pieces must leave a log without a gap, so an end of the
// log goes last entry first, and a beginning goes first entry first.
func (s *LogStore) DeleteRange(first, last uint64) error {
	lowest, err := s.backend.FirstIndex()
	if err != nil {
		return s.fatal(fmt.Errorf("read the first index of the log %s: %w", s.name, err))
	}
	highest, err := s.backend.LastIndex()
	if err != nil {
		return s.fatal(fmt.Errorf("read the last index of the log %s: %w", s.name, err))
	}
	end := last >= highest
	// The caller may name indexes far outside the log.
	from, to := max(first, lowest), min(last, highest)
	if lowest == 0 || highest == 0 || from > to {
		return nil
	}
	if end && s.opts.OnTruncate != nil {
		s.opts.OnTruncate(from)
	}
	for from <= to {
		a, b := from, to
		if n := uint64(deletePiece); to-from >= n {
			if end {
				a = to - n + 1
			} else {
				b = from + n - 1
			}
		}
		if err := s.write("truncate", func() error { return s.backend.DeleteRange(a, b) }); err != nil {
			if end {
				return s.halt(err)
			}
			return err // the library only tries to make room
		}
		s.mu.Lock()
		if end {
			s.sizes.cutEnd(a)
		} else {
			s.sizes.cutStart(b)
		}
		s.mu.Unlock()
		if end {
			to = a - 1 // a >= lowest >= 1
		} else {
			from = b + 1
		}
	}
	return nil
}

// Set stores a value beside the log.
func (s *LogStore) Set(key, val []byte) error {
	if err := s.write("write to", func() error { return s.backend.Set(key, val) }); err != nil {
		return s.halt(err)
	}
	return nil
}

// Get returns a value of [LogStore.Set]. The library recognises an absent one
// by its text, so that comes back as it is.
func (s *LogStore) Get(key []byte) ([]byte, error) { return s.backend.Get(key) }

// SetUint64 stores a number beside the log.
func (s *LogStore) SetUint64(key []byte, val uint64) error {
	if err := s.write("write to", func() error { return s.backend.SetUint64(key, val) }); err != nil {
		return s.halt(err)
	}
	return nil
}

// GetUint64 returns a number of [LogStore.SetUint64]; absent as in Get.
func (s *LogStore) GetUint64(key []byte) (uint64, error) { return s.backend.GetUint64(key) }

// Close waits for the writes under way and closes the backend. What comes later
// is refused, and is no news: the library hands heartbeats to the goroutines of
// its connections, which nobody waits for at the end.
func (s *LogStore) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.writes.Wait()
	return s.backend.Close()
}

// AppendedBytes counts the bytes of entries that were ever written, from what
// the log held when it was opened. It never shrinks.
func (s *LogStore) AppendedBytes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.appended
}

// BytesSince returns the bytes of the entries after index, as far as their
// sizes are known: of the newest 16,384 entries.
func (s *LogStore) BytesSince(index uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes.since(index)
}

// TrailingFor returns how many of the newest entries fit together in budget
// bytes, but at least lo and at most hi.
func (s *LogStore) TrailingFor(budget uint64, lo, hi uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(lo, min(hi, s.sizes.fit(budget)))
}

var errLogClosed = errors.New("the log is closed")

// write runs one writing transaction under the watchdog. verb is what is being
// done, for the message.
func (s *LogStore) write(verb string, f func() error) error {
	if err := s.Err(); err != nil {
		return err // what the disk took after it failed would be believed
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errLogClosed
	}
	s.writes.Add(1)
	s.mu.Unlock()
	defer s.writes.Done()
	stop := s.watch(verb)
	err := f()
	stop()
	if err != nil {
		return s.fatal(fmt.Errorf("%s the log %s: %w", verb, s.name, err))
	}
	return nil
}

// watch reports a write as fatal unless the returned function is called in
// time. The write itself goes on: it is the process that must end.
func (s *LogStore) watch(verb string) (stop func()) {
	var (
		mu      sync.Mutex
		ticks   int
		stopped bool
		timer   *time.Timer
	)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(s.tick, func() {
		mu.Lock()
		stuck := false
		if !stopped {
			if ticks++; ticks < stuckTicks {
				timer.Reset(s.tick)
			} else {
				stuck = true
			}
		}
		mu.Unlock()
		if stuck {
			s.fatal(fmt.Errorf("%s the log %s: stuck for %v", verb, s.name, stuckTicks*s.tick))
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// fatal reports err to OnFatal, once, and returns it.
func (s *LogStore) fatal(err error) error {
	s.fatalOnce.Do(func() {
		s.failure.Store(&err)
		s.opts.Logger.Error("the log cannot be written; this process must end", "error", err)
		if s.opts.OnFatal != nil {
			s.opts.OnFatal(err)
		}
	})
	return err
}

// halt ends the goroutine of a write that failed, if it may; see
// LogStoreOptions.Halt.
func (s *LogStore) halt(err error) error {
	if s.opts.Halt != nil {
		s.opts.Halt()
	}
	return err
}

// Err is the error that OnFatal was told, nil if there was none.
func (s *LogStore) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}
