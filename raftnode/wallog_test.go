package raftnode

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// openWALDisk opens the files of a node that keeps its entries in raft-wal, and
// the log of group 1.
func openWALDisk(t *testing.T, dir string) (Disk, LogBackend, error) {
	t.Helper()
	d, err := OpenFiles(dir, FilesOptions{LogStore: LogStoreWAL})
	if err != nil {
		t.Fatal(err)
	}
	g, err := d.OpenLog(1)
	if err != nil {
		d.Close()
	}
	return d, g, err
}

func TestAWALKeepsWhatItWasGiven(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir, want := t.TempDir(), map[uint64]raft.Log{}
	for round := range 3 {
		d, g, err := openWALDisk(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		if has, err := d.HasLog(1); !has || err != nil {
			t.Errorf("it has a log: %v, %v", has, err)
		}
		if got := contents(t, g); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: it holds %d entries, want %d", round, len(got), len(want))
		}
		if err := writeAtRandom(g, want, rng); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, g); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d, written: it holds %d entries, want %d", round, len(got), len(want))
		}
		term, err := g.GetUint64([]byte("CurrentTerm"))
		if absent := err != nil && err.Error() == "not found"; absent != (round == 0) || term != uint64(round) {
			t.Errorf("round %d: the term is %d, %v", round, term, err)
		}
		if err := errors.Join(g.SetUint64([]byte("CurrentTerm"), uint64(round)+1), g.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAFlippedBitInAWALChangesNoEntry: it is refused, or ends before the damage,
// which a crash may also have done.
func TestAFlippedBitInAWALChangesNoEntry(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	d, g, err := openWALDisk(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		logs := entries(1+5*i, 5, 8+rng.IntN(3000))
		for _, l := range logs {
			binary.BigEndian.PutUint64(l.Data, rng.Uint64())
		}
		if err := g.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	want := contents(t, g)
	if err := errors.Join(g.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "groups", "001", "wal", "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	whole, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 60 {
		damaged, at := flipOne(rng, whole)
		if err := os.WriteFile(segments[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		d, g, err := openWALDisk(t, dir)
		if err != nil {
			if refused++; !strings.Contains(err.Error(), dir) {
				t.Errorf("byte %d: the error does not name the log: %v", at, err)
			}
			continue
		}
		got := contents(t, g)
		for i, l := range got {
			if !reflect.DeepEqual(l, want[i]) {
				t.Errorf("byte %d: entry %d is another", at, i)
			}
		}
		if err := errors.Join(g.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 60 were refused", refused)
}

func TestADataFolderKeepsItsLogStore(t *testing.T) {
	c := startCluster(t, 1)
	cfg := c.nodes[0].cfg
	c.close(0)
	cfg.LogStore, cfg.OpenDisk = LogStoreWAL, nil
	cfg.Listener = c.listen(0)
	n, err := Open(cfg)
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "begun with --log-store bolt") {
		t.Errorf("got %v", err)
	}
	c.nodes[0] = c.open(c.config(0), c.listen(0))
}

// TestAWALIsCutAtBothEnds, as Raft does it, and goes on after a snapshot.
func TestAWALIsCutAtBothEnds(t *testing.T) {
	d, g, err := openWALDisk(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := NewLogStore("of group 1", g, LogStoreOptions{Logger: quiet, OnFatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 3*deletePiece + 10
	store(t, s, entries(1, n, 100))
	for _, cut := range [][4]uint64{{1, 300, 301, n}, {n - 100, n, 301, n - 101}, {0, n, 0, 0}} {
		if err := s.DeleteRange(cut[0], cut[1]); err != nil {
			t.Fatal(err)
		}
		if got := bounds(t, s); got != [2]uint64{cut[2], cut[3]} {
			t.Errorf("after the cut from %d to %d it is %v", cut[0], cut[1], got)
		}
	}
	store(t, s, entries(5000, 3, 100)) // what follows on a snapshot
	if got := bounds(t, s); got != [2]uint64{5000, 5002} {
		t.Errorf("it is %v", got)
	}
}
