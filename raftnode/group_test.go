package raftnode

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// A crash between storing a leader's snapshot and clearing the log leaves
// entries that do not follow on from the snapshot: they go before Raft starts.
func TestALogBehindItsSnapshotIsDropped(t *testing.T) {
	for _, tc := range []struct {
		name           string
		snapshot, last uint64 // indexes; 0 is none
		kept           uint64 // last index after
	}{
		{"no snapshot", 0, 50, 50},
		{"log behind the snapshot", 100, 50, 0},
		{"log up to the snapshot", 50, 50, 50},
		{"log beyond the snapshot", 30, 50, 50},
		{"no log", 100, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, err := OpenLogStore(filepath.Join(t.TempDir(), "log.db"), LogStoreOptions{OnFatal: func(err error) { t.Error(err) }})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			for i := uint64(1); i <= tc.last; i++ {
				if err := store.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: []byte("x")}}); err != nil {
					t.Fatal(err)
				}
			}
			snaps := raft.NewInmemSnapshotStore()
			if tc.snapshot > 0 {
				sink, err := snaps.Create(1, tc.snapshot, 1, raft.Configuration{}, 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				sink.Close()
			}
			if err := store.dropBehind(snaps); err != nil {
				t.Fatal(err)
			}
			if last, err := store.LastIndex(); err != nil || last != tc.kept {
				t.Fatalf("last index %d, %v; want %d", last, err, tc.kept)
			}
		})
	}
}
