package raftnode

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// strays is a log of entries of these terms, from first on; term 0 is one that is damaged.
func strays(first uint64, terms ...uint64) *strayLog {
	log := &strayLog{entries: map[uint64]strayEntry{}}
	for i, term := range terms {
		if term > 0 {
			log.put(first+uint64(i), strayEntry{term: term})
		}
	}
	return log
}

// TestWhatLeadsFurthestIsChosen: entries follow each other, and a snapshot, by Raft's
// own rules, whatever logs they are in.
func TestWhatLeadsFurthestIsChosen(t *testing.T) {
	snap := func(term, index uint64) straySnapshot { return straySnapshot{at: logPlace{term, index}} }
	for name, c := range map[string]struct {
		remains remains
		end     logPlace
		from    uint64 // index of the snapshot
		beyond  uint64
	}{
		"a log":                          {remains{logs: []*strayLog{strays(1, 1, 1, 2)}}, logPlace{2, 3}, 0, 0},
		"a log with a gap":               {remains{logs: []*strayLog{strays(1, 1, 1, 0, 2, 2)}}, logPlace{1, 2}, 0, 5},
		"another log closes the gap":     {remains{logs: []*strayLog{strays(1, 1, 1, 0, 2, 2), strays(2, 1, 1, 2)}}, logPlace{2, 5}, 0, 0},
		"one with other entries doesn't": {remains{logs: []*strayLog{strays(1, 1, 1, 0, 2, 2), strays(2, 3, 3, 3)}}, logPlace{1, 2}, 0, 5},
		"the first entry is damaged":     {remains{logs: []*strayLog{strays(2, 1, 1)}}, logPlace{1, 3}, 0, 0},
		"a log that was cut to there":    {remains{logs: []*strayLog{strays(6, 2, 2)}, snaps: []straySnapshot{snap(2, 5)}}, logPlace{2, 7}, 5, 0},
		"a log behind a gap":             {remains{logs: []*strayLog{strays(7, 2, 2)}, snaps: []straySnapshot{snap(2, 5)}}, logPlace{2, 5}, 5, 8},
		"the newest of two snapshots":    {remains{logs: []*strayLog{strays(1, 1, 1, 1, 1)}, snaps: []straySnapshot{snap(1, 2), snap(1, 3)}}, logPlace{1, 4}, 3, 0},
		"a later term beats a longer log": {
			remains{logs: []*strayLog{strays(1, 1, 1, 1, 1, 1), strays(1, 1, 1, 3)}}, logPlace{3, 3}, 0, 0},
		"what a snapshot has overruled": {
			remains{logs: []*strayLog{strays(4, 2, 2, 2, 2)}, snaps: []straySnapshot{snap(3, 5)}}, logPlace{3, 5}, 5, 0},
		"what was cut off stays so": {remains{logs: []*strayLog{strays(1, 1, 2, 1, 1)}}, logPlace{2, 2}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			best := c.remains.chains()[0]
			if best.end != c.end || best.from() != c.from || c.remains.beyond(best.end) != c.beyond {
				t.Errorf("it ends at %+v, from a snapshot at %d, and beyond is %d", best.end, best.from(), c.remains.beyond(best.end))
			}
		})
	}
	for name, r := range map[string]remains{
		"nothing":            {},
		"the end of a log":   {logs: []*strayLog{strays(7, 2, 2)}},
		"only its beginning": {logs: []*strayLog{strays(3, 1)}},
	} {
		if got := r.chains(); len(got) > 0 {
			t.Errorf("%s leads to %+v", name, got)
		}
	}
}

// TestEntriesThatWereCutOffAreNotTakenForTheLogs: pages that are free still hold them.
func TestEntriesThatWereCutOffAreNotTakenForTheLogs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs.db")
	f, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	g, err := f.group(3)
	if err != nil {
		t.Fatal(err)
	}
	later := entries(6, 3, 100)
	for _, l := range later {
		l.Term = 9
	}
	for _, list := range [][]*raft.Log{entries(1, 5, 100), entries(6, 5, 3*pieceSize)} {
		if err := g.StoreLogs(list); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.DeleteRange(6, 10); err != nil {
		t.Fatal(err)
	}
	if err := g.StoreLogs(later); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []bool{false, true} {
		if damaged {
			flipIn(t, path, boltPageHead)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		logs, err := boltStrays(file, path)
		if err != nil || logs[3] == nil || (logs[3].damage != nil) != damaged {
			t.Fatalf("%+v, %v", logs, err)
		}
		r := remains{logs: []*strayLog{logs[3]}}
		best := r.chains()[0]
		if want := (logPlace{9, 8}); best.end != want || r.beyond(best.end) != 0 {
			t.Errorf("damaged %v: it ends at %+v, beyond it is %d", damaged, best.end, r.beyond(best.end))
		}
		if !damaged && logs[3].last != 8 {
			t.Errorf("a whole log ends at %d", logs[3].last)
		}
		for i := uint64(1); i <= 8; i++ {
			l, err := logs[3].read(i)
			if err != nil || l.Index != i || (i > 5) != (l.Term == 9) || len(l.Data) != 100 {
				t.Errorf("entry %d is %+v, %v", i, l, err)
			}
		}
	}
}
