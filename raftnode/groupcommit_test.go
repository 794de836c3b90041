package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestGroupsThatWaitShareACommit: what comes while a commit is on its way goes
// into the next one, whatever group it is of.
func TestGroupsThatWaitShareACommit(t *testing.T) {
	f, err := openBolt(filepath.Join(t.TempDir(), "logs.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const groups = 10
	var commits []int
	f.onCommit = func(entries, bytes int, _ time.Duration) {
		commits = append(commits, entries)
		if bytes < entries*100 {
			t.Errorf("%d bytes in %d entries", bytes, entries)
		}
	}
	f.disk.Lock() // the commit under way
	var wg sync.WaitGroup
	for id := range uint32(groups) {
		g := &boltLog{file: f, id: id}
		f.groups[id] = g
		wg.Go(func() {
			if err := g.StoreLogs(entries(1, 2, 100)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.next != nil && f.next.entries == 2*groups
	})
	f.disk.Unlock()
	wg.Wait()
	if !reflect.DeepEqual(commits, []int{2 * groups}) {
		t.Errorf("the commits held %v entries", commits)
	}
	for id := range uint32(groups) {
		if got := bounds(t, f.groups[id]); got != [2]uint64{1, 2} {
			t.Errorf("the log of group %d is %v", id, got)
		}
	}
}

// TestNoGroupGoesOnFromAnothersFailedCommit: all that waited for it get its
// error, and so does whoever comes later.
func TestNoGroupGoesOnFromAnothersFailedCommit(t *testing.T) {
	f, err := openBolt(filepath.Join(t.TempDir(), "logs.db"))
	if err != nil {
		t.Fatal(err)
	}
	var groups [3]*boltLog
	for id := range groups {
		if groups[id], err = f.group(uint32(id)); err != nil {
			t.Fatal(err)
		}
	}
	f.disk.Lock()
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for id := range errs {
		wg.Go(func() { errs[id] = groups[id].StoreLogs(entries(1, 1, 8)) })
	}
	eventually(t, "both wait", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.next != nil && f.next.entries == 2
	})
	if err := f.Close(); err != nil { // a file that can't be written to
		t.Fatal(err)
	}
	f.disk.Unlock()
	wg.Wait()
	for _, err := range append(errs, groups[2].Set([]byte("k"), nil), groups[2].StoreLogs(entries(1, 1, 8))) {
		if err == nil || !errors.Is(err, errs[0]) {
			t.Errorf("got %v, want %v", err, errs[0])
		}
	}
	if last, err := groups[0].LastIndex(); err != nil || last != 0 {
		t.Errorf("the log ends with %d, %v, and nothing was written", last, err)
	}
}

// TestLogsInOneFileAreLikeLogsOfTheirOwn compares what groups hold that write
// side by side with what each was given, also after the file is opened again.
func TestLogsInOneFileAreLikeLogsOfTheirOwn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	path := filepath.Join(t.TempDir(), "logs.db")
	const groups = 4
	var want [groups]map[uint64]raft.Log
	for id := range want {
		want[id] = map[uint64]raft.Log{}
	}
	for round := range 3 {
		f, err := openBolt(path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for id := range uint32(groups) {
			if got := f.has(id); got != (round > 0) {
				t.Errorf("round %d: that group %d has a log is %v", round, id, got)
			}
			g, err := f.group(id)
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, g); !reflect.DeepEqual(got, want[id]) {
				t.Fatalf("round %d: group %d holds %d entries, want %d", round, id, len(got), len(want[id]))
			}
			wg.Go(func() {
				if err := writeAtRandom(g, want[id], rand.New(rand.NewPCG(seed, uint64(id)))); err != nil {
					t.Errorf("group %d: %v", id, err)
				}
			})
		}
		wg.Wait()
		for id := range uint32(groups) {
			if got := contents(t, f.groups[id]); !reflect.DeepEqual(got, want[id]) {
				t.Errorf("round %d: group %d holds %d entries, want %d, or others", round, id, len(got), len(want[id]))
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// contents reads a whole log by index.
func contents(t *testing.T, g LogBackend) map[uint64]raft.Log {
	t.Helper()
	all := map[uint64]raft.Log{}
	for b, i := bounds(t, g), uint64(0); b[0] > 0 && b[0]+i <= b[1]; i++ {
		var l raft.Log
		if err := g.GetLog(b[0]+i, &l); err != nil {
			t.Fatal(err)
		}
		all[l.Index] = l
	}
	return all
}

// writeAtRandom appends to a log and cuts both of its ends, and does the same to
// want.
func writeAtRandom(g LogBackend, want map[uint64]raft.Log, rng *rand.Rand) error {
	for range 60 {
		first, _ := g.FirstIndex()
		last, _ := g.LastIndex()
		switch n := uint64(rng.IntN(8)); {
		case n < 6 || last == 0:
			next := last + 1
			if last == 0 {
				next = 1 + uint64(rng.IntN(1000))
			}
			logs := entries(next, 1+int(n), rng.IntN(200))
			if rng.IntN(4) == 0 {
				const tail = tailPieces * tailSize
				edges := []int{wholeUpTo, pieceSize, pieceSize + tail, 2*pieceSize + tail, 3 * pieceSize}
				logs[0].Data = make([]byte, edges[rng.IntN(len(edges))]-1+rng.IntN(3))
				binary.BigEndian.PutUint64(logs[0].Data, rng.Uint64())
				logs[0].Extensions = []byte("an extension")
				logs[0].AppendedAt = time.Unix(0, rng.Int64())
			}
			for _, l := range logs {
				if len(l.Data) == 0 {
					l.Data = nil
				}
				want[l.Index] = *l
			}
			if err := g.StoreLogs(logs); err != nil {
				return err
			}
			if err := g.StoreLogs(entries(next+20, 1, 1)); err == nil {
				return fmt.Errorf("a gap after %d is taken", next)
			}
		default:
			from, to := first, first+uint64(rng.IntN(10))
			if n == 7 {
				from, to = last-min(last-1, uint64(rng.IntN(10))), last+uint64(rng.IntN(2))
			}
			if err := g.DeleteRange(from, to); err != nil {
				return err
			}
			for i := from; i <= to; i++ {
				delete(want, i)
			}
		}
	}
	return nil
}
