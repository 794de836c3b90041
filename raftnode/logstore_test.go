package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func openTestLog(t testing.TB, path string, o LogStoreOptions) *LogStore {
	t.Helper()
	o.Logger = quiet
	s, err := OpenLogStore(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entries makes command entries of data bytes each.
func entries(first uint64, n, data int) (logs []*raft.Log) {
	for i := range uint64(n) {
		b := make([]byte, data)
		if data >= 8 {
			binary.BigEndian.PutUint64(b, first+i)
		}
		logs = append(logs, &raft.Log{Index: first + i, Term: 1, Type: raft.LogCommand, Data: b})
	}
	return logs
}

func store(t testing.TB, s *LogStore, logs []*raft.Log) {
	t.Helper()
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// bounds are the log's first and last index; it fails at a gap.
func bounds(t *testing.T, s raft.LogStore) [2]uint64 {
	t.Helper()
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for i := first; i <= last && first > 0; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || l.Index != i {
			t.Fatalf("entry %d of %d to %d: index %d, %v", i, first, last, l.Index, err)
		}
	}
	return [2]uint64{first, last}
}

func TestALogIsTheSameAfterItIsOpenedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	s := openTestLog(t, path, LogStoreOptions{})
	store(t, s, entries(1, 100, 1000))
	if err := errors.Join(s.Set([]byte("vote"), []byte("n1")), s.SetUint64([]byte("term"), 7)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTestLog(t, path, LogStoreOptions{})
	if got := bounds(t, s); got != [2]uint64{1, 100} {
		t.Errorf("the log is %v", got)
	}
	vote, err1 := s.Get([]byte("vote"))
	term, err2 := s.GetUint64([]byte("term"))
	if string(vote) != "n1" || term != 7 || err1 != nil || err2 != nil {
		t.Errorf("vote %q, term %d, %v, %v", vote, term, err1, err2)
	}
	// The library compares this text.
	if _, err := s.Get([]byte("nothing")); err == nil || err.Error() != "not found" {
		t.Errorf("an absent key: %v", err)
	}
	if err := s.GetLog(101, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Errorf("an absent entry: %v", err)
	}
	if got := s.AppendedBytes(); got < 100*1000 || got > 100*1200 {
		t.Errorf("a log of 100 KB counts %d bytes when it is opened", got)
	}
	if got := s.TrailingFor(10*1200, 1, 1000); got < 9 || got > 11 {
		t.Errorf("%d entries of a bit over 1 KB fit in 12 KB", got)
	}
}

func TestALogInUseIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	openTestLog(t, path, LogStoreOptions{})
	_, err := OpenLogStore(path, LogStoreOptions{})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
}

func TestADamagedLogIsAnErrorThatNamesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no log at all. ", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLogStore(path, LogStoreOptions{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestArrivalAndTruncationAreTold(t *testing.T) {
	var told []string
	s := openTestLog(t, filepath.Join(t.TempDir(), "log.db"), LogStoreOptions{
		Stamp: func(data []byte) (uint64, bool) {
			return 1000 + binary.BigEndian.Uint64(data), data[8] == 0
		},
		OnArrival:  func(index, stamp uint64) { told = append(told, fmt.Sprintf("%d@%d", index, stamp)) },
		OnTruncate: func(from uint64) { told = append(told, fmt.Sprintf("cut %d", from)) },
		OnStore:    func(n, bytes int, d time.Duration) { told = append(told, fmt.Sprintf("stored %d", n)) },
	})
	logs := entries(1, 5, 16)
	logs[3].Data[8] = 1             // has no stamp
	logs[4].Type = raft.LogNoop     // is no command
	logs[4].Data = nil              // and has nothing to stamp
	store(t, s, logs[:4])           // 3 is the newest stamped
	store(t, s, logs[4:])           // none is
	store(t, s, entries(6, 10, 16)) // 15
	for _, r := range [][2]uint64{{1, 2}, {13, 15}, {100, 200}} {
		if err := s.DeleteRange(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	want := "3@1003 stored 4 stored 1 15@1015 stored 10 cut 13"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := bounds(t, s); got != [2]uint64{3, 12} {
		t.Errorf("the log is %v", got)
	}
}

// faultyStore is a log in memory that fails or hangs on demand.
type faultyStore struct {
	*raft.InmemStore
	writes func() error // asked before each write
	ranges [][2]uint64  // deleted
}

func (f *faultyStore) Close() error { return nil }
func (f *faultyStore) StoreLogs(logs []*raft.Log) error {
	if err := f.writes(); err != nil {
		return err
	}
	return f.InmemStore.StoreLogs(logs)
}
func (f *faultyStore) DeleteRange(a, b uint64) error {
	if err := f.writes(); err != nil {
		return err
	}
	f.ranges = append(f.ranges, [2]uint64{a, b})
	return f.InmemStore.DeleteRange(a, b)
}
func (f *faultyStore) Set(k, v []byte) error {
	if err := f.writes(); err != nil {
		return err
	}
	return f.InmemStore.Set(k, v)
}
func (f *faultyStore) SetUint64(k []byte, v uint64) error {
	if err := f.writes(); err != nil {
		return err
	}
	return f.InmemStore.SetUint64(k, v)
}

func TestAFailedWriteIsFatalAndReported(t *testing.T) {
	disk := errors.New("input/output error")
	for name, write := range map[string]func(*LogStore) error{
		"StoreLogs":   func(s *LogStore) error { return s.StoreLogs(entries(4, 1, 8)) },
		"StoreLog":    func(s *LogStore) error { return s.StoreLog(entries(4, 1, 8)[0]) },
		"DeleteRange": func(s *LogStore) error { return s.DeleteRange(1, 2) },
		"Set":         func(s *LogStore) error { return s.Set([]byte("k"), nil) },
		"SetUint64":   func(s *LogStore) error { return s.SetUint64([]byte("k"), 1) },
	} {
		var fatal []error
		f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { return nil }}
		s := newLogStore("/data/log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet, OnFatal: func(err error) { fatal = append(fatal, err) }})
		store(t, s, entries(1, 3, 8))
		before := s.AppendedBytes()
		f.writes = func() error { return disk }
		for range 2 {
			if err := write(s); !errors.Is(err, disk) || !strings.Contains(err.Error(), "/data/log.db") {
				t.Errorf("%s: returned %v", name, err)
			}
		}
		if len(fatal) != 1 || !errors.Is(fatal[0], disk) {
			t.Errorf("%s: OnFatal got %v, want one error", name, fatal)
		}
		if s.AppendedBytes() != before {
			t.Errorf("%s: bytes were counted that were not written", name)
		}
	}
}

// TestNobodyGoesOnFromAFailedWrite: an append, a vote or a cut of the end that
// failed does not return to the library; room that could not be made does.
func TestNobodyGoesOnFromAFailedWrite(t *testing.T) {
	disk := errors.New("input/output error")
	for name, test := range map[string]struct {
		write   func(s *LogStore) error
		returns bool
	}{
		"an append":          {func(s *LogStore) error { return s.StoreLogs(entries(4, 1, 8)) }, false},
		"a vote":             {func(s *LogStore) error { return s.Set([]byte("k"), nil) }, false},
		"a term":             {func(s *LogStore) error { return s.SetUint64([]byte("k"), 1) }, false},
		"a cut of the end":   {func(s *LogStore) error { return s.DeleteRange(2, 3) }, false},
		"a cut of the start": {func(s *LogStore) error { return s.DeleteRange(1, 2) }, true},
	} {
		f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { return nil }}
		s := newLogStore("log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet, OnFatal: func(error) {}, Halt: runtime.Goexit})
		store(t, s, entries(1, 3, 8))
		f.writes = func() error { return disk }
		for range 2 {
			returned := false
			var wg sync.WaitGroup
			wg.Go(func() { _ = test.write(s); returned = true })
			wg.Wait()
			if returned != test.returns {
				t.Errorf("%s: returned %v, want %v", name, returned, test.returns)
			}
		}
		if !errors.Is(s.Err(), disk) {
			t.Errorf("%s: the store says it failed with %v", name, s.Err())
		}
	}
}

// TestAClosedLogTakesNoWriteAndIsNotFatal: Close waits for a write under way, and
// whoever comes later is stopped without a word.
func TestAClosedLogTakesNoWriteAndIsNotFatal(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { close(begun); <-release; return nil }}
	s := newLogStore("log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet, OnFatal: func(err error) { t.Error(err) }, Halt: runtime.Goexit})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.SetUint64([]byte("term"), 2) })
	<-begun
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
		t.Error("it closed under a write")
	case <-time.After(10 * time.Millisecond):
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	returned := false
	wg.Go(func() { _ = s.SetUint64([]byte("term"), 3); returned = true })
	wg.Wait()
	if returned || s.Err() != nil {
		t.Errorf("a write after Close: returned %v, failed with %v", returned, s.Err())
	}
}

func TestAStuckWriteIsFatalAndNotAbandoned(t *testing.T) {
	fatal := make(chan error, 1)
	release := make(chan struct{})
	f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { <-release; return nil }}
	s := newLogStore("/data/log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet, OnFatal: func(err error) { fatal <- err }})
	s.tick = time.Millisecond
	written := make(chan error, 1)
	go func() { written <- s.StoreLogs(entries(1, 1, 8)) }()
	if err := <-fatal; !strings.Contains(err.Error(), "stuck") || !strings.Contains(err.Error(), "/data/log.db") {
		t.Errorf("OnFatal got %v", err)
	}
	select {
	case err := <-written:
		t.Errorf("the stuck write returned %v", err)
	default:
	}
	close(release)
	if err := <-written; err != nil {
		t.Errorf("the write, once it passed: %v", err)
	}
}

func TestACrashWithinALargeTruncationLeavesNoGap(t *testing.T) {
	const n = 3*deletePiece + 10
	for name, c := range map[string]struct{ first, last uint64 }{
		"the beginning": {1, n - 100},
		"the end":       {100, n},
		"all":           {0, n + 50},
	} {
		for crash := range 5 {
			f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { return nil }}
			s := newLogStore("log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet})
			store(t, s, entries(1, n, 0))
			pieces := 0
			f.writes = func() error {
				if pieces++; pieces > crash {
					return errors.New("crash")
				}
				return nil
			}
			err := s.DeleteRange(c.first, c.last)
			left := bounds(t, f)
			for _, r := range f.ranges {
				if r[1]-r[0] >= deletePiece {
					t.Errorf("%s: a piece %v", name, r)
				}
			}
			if err == nil && crash < 3 {
				t.Errorf("%s: took %d pieces", name, pieces)
			}
			if err == nil && left[0] <= c.last && left[1] >= c.first && left[1] > 0 {
				t.Errorf("%s: %v is left", name, left)
			}
		}
	}
}

func TestSizesAreKnownLikeANaiveAccountKnowsThem(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var ring sizeRing
	naive := map[uint64]int{}
	first, next := uint64(1), uint64(1)
	for step := range 3000 {
		switch rng.IntN(10) {
		case 0: // an end goes
			from := next - min(next-1, uint64(rng.IntN(50)))
			ring.cutEnd(from)
			for i := from; i < next; i++ {
				delete(naive, i)
			}
			next = from
		case 1: // a beginning goes
			to := first + uint64(rng.IntN(50))
			ring.cutStart(to)
			for i := first; i <= to; i++ {
				delete(naive, i)
			}
		case 2: // a gap
			if rng.IntN(20) == 0 {
				next += 1 + uint64(rng.IntN(5))
				clear(naive)
				ring.append(next, 1)
				naive[next] = 1
				next++
			}
		default:
			for range rng.IntN(60) {
				size := rng.IntN(1000)
				ring.append(next, size)
				naive[next] = size
				next++
			}
		}
		for len(naive) > maxSizes {
			delete(naive, first)
			first++
		}
		first = next
		for i := range naive {
			first = min(first, i)
		}
		since := first + uint64(rng.IntN(100))
		var total, after, fits, used uint64
		for i := next; i > first; i-- {
			size := uint64(naive[i-1])
			total += size
			if i-1 > since {
				after += size
			}
			if used == total-size && used+size <= 20_000 {
				used += size
				fits++
			}
		}
		if ring.total() != total || ring.since(since) != after || ring.fit(20_000) != fits {
			t.Fatalf("seed %d, step %d: total %d, since %d, fit %d; want %d, %d, %d", seed, step,
				ring.total(), ring.since(since), ring.fit(20_000), total, after, fits)
		}
	}
}

func TestTrailingFitsItsBudgetWithinItsBounds(t *testing.T) {
	f := &faultyStore{InmemStore: raft.NewInmemStore(), writes: func() error { return nil }}
	s := newLogStore("log.db", f, sizeRing{}, LogStoreOptions{Logger: quiet})
	store(t, s, entries(1, 50, 10_000))
	store(t, s, entries(51, 50, 100))
	for _, c := range []struct{ budget, lo, hi, want uint64 }{
		{0, 7, 1000, 7},
		{50 * (100 + entryOverhead), 7, 1000, 50},
		{50*(100+entryOverhead) + 2*(10_000+entryOverhead) + 1, 7, 1000, 52},
		{1 << 30, 7, 1000, 100},
		{1 << 30, 7, 60, 60},
	} {
		if got := s.TrailingFor(c.budget, c.lo, c.hi); got != c.want {
			t.Errorf("TrailingFor(%d, %d, %d) = %d, want %d", c.budget, c.lo, c.hi, got, c.want)
		}
	}
	if got, want := s.BytesSince(98), uint64(2*(100+entryOverhead)); got != want {
		t.Errorf("the last two entries have %d bytes, want %d", got, want)
	}
	grown := s.AppendedBytes()
	if err := s.DeleteRange(1, 100); err != nil {
		t.Fatal(err)
	}
	if s.AppendedBytes() != grown || s.BytesSince(0) != 0 {
		t.Errorf("after a truncation %d bytes were appended, %d are there", s.AppendedBytes(), s.BytesSince(0))
	}
}

// TestAnInstalledSnapshotClearsTheLog guards the reason for IsMonotonic, also
// through the library's cache.
func TestAnInstalledSnapshotClearsTheLog(t *testing.T) {
	s := openTestLog(t, filepath.Join(t.TempDir(), "log.db"), LogStoreOptions{})
	cache, err := raft.NewLogCache(8, s)
	if err != nil {
		t.Fatal(err)
	}
	if !cache.IsMonotonic() {
		t.Error("the library would leave what an installed snapshot replaces")
	}
}

func TestReadersAndWritersMayRunAtOnce(t *testing.T) {
	s := openTestLog(t, filepath.Join(t.TempDir(), "log.db"), LogStoreOptions{})
	store(t, s, entries(1, 10, 1000))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(30) {
			if err := s.StoreLogs(entries(11+i, 1, 1000)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range uint64(5) {
			if err := s.DeleteRange(1, 1+i); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range uint64(2000) {
			if err := s.GetLog(1+i%40, new(raft.Log)); err != nil && err != raft.ErrLogNotFound {
				t.Error(err)
			}
			s.TrailingFor(5000, 1, 100)
			s.AppendedBytes()
		}
	})
	wg.Wait()
	if got := bounds(t, s); got != [2]uint64{6, 40} {
		t.Errorf("the log is %v", got)
	}
}

// BenchmarkStoreLogs writes one entry of 64 KiB at a time into a log that is
// kept at 64 MiB, with the options in use and with bbolt's own.
func BenchmarkStoreLogs(b *testing.B) {
	with := func(mmap int) *bbolt.Options {
		o := boltOptions()
		o.InitialMmapSize = mmap
		return o
	}
	for _, c := range []struct {
		name string
		opts *bbolt.Options
	}{
		{"defaults", nil}, {"mmap=0", with(0)}, {"mmap=64MiB", with(64 << 20)}, {"mmap=256MiB", with(256 << 20)}, {"mmap=1GiB", with(1 << 30)},
	} {
		b.Run(c.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "log.db")
			bolt, err := openOnlyLog(path, c.opts)
			if err != nil {
				b.Fatal(err)
			}
			s := newLogStore(path, bolt, sizeRing{}, LogStoreOptions{Logger: quiet})
			defer s.Close()
			logs := entries(1, 1, 64<<10)
			var worst time.Duration
			s.opts.OnStore = func(_, _ int, d time.Duration) { worst = max(worst, d) }
			b.SetBytes(64 << 10)
			for b.Loop() {
				store(b, s, logs)
				logs[0].Index++
				if n := logs[0].Index; n > 1024 && n%256 == 0 {
					if err := s.DeleteRange(1, n-1024); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(worst.Microseconds()), "µs-worst")
		})
	}
}

// BenchmarkDeleteRange truncates the beginning of a log of many small entries,
// one piece at a time.
func BenchmarkDeleteRange(b *testing.B) {
	s := openTestLog(b, filepath.Join(b.TempDir(), "log.db"), LogStoreOptions{})
	next := uint64(1)
	for b.Loop() {
		b.StopTimer()
		store(b, s, entries(next, deletePiece, 1000))
		next += deletePiece
		b.StartTimer()
		if err := s.DeleteRange(1, next-1); err != nil {
			b.Fatal(err)
		}
	}
}
