package raftnode

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// flipOne returns content with one bit changed of a byte that is in use.
func flipOne(rng *rand.Rand, content []byte) ([]byte, int) {
	for {
		if at := rng.IntN(len(content)); content[at] != 0 {
			b := bytes.Clone(content)
			b[at] ^= 1 << rng.IntN(8)
			return b, at
		}
	}
}

// whole reads everything that a log holds.
func whole(t *testing.T, b LogBackend) (all []raft.Log, term uint64, votedFor string) {
	t.Helper()
	bound := bounds(t, b)
	for i := bound[0]; i > 0 && i <= bound[1]; i++ {
		var l raft.Log
		if err := b.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	term, err := b.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		t.Fatal(err)
	}
	vote, err := b.Get([]byte("LastVoteCand"))
	if err != nil {
		t.Fatal(err)
	}
	return all, term, string(vote)
}

// TestAFlippedBitInALogIsFoundAtTheStart: a log with a damaged bit either is
// refused, in words that name the file, or nothing that it holds has changed.
func TestAFlippedBitInALogIsFoundAtTheStart(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	path := filepath.Join(dir, "logs.db")
	f, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	const groups = 3
	for i := range uint64(12) { // of some pages, some entries longer than one, some of pieces
		for id := range uint32(groups) {
			b, err := f.group(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.StoreLogs(entries(1+10*i, 9, 8+rng.IntN(6000)/(1+int(i%4)*8))); err != nil {
				t.Fatal(err)
			}
			if err := b.StoreLogs(entries(10+10*i, 1, rng.IntN(3*pieceSize)/(1+int(i%3)*8))); err != nil {
				t.Fatal(err)
			}
		}
	}
	type held struct {
		entries []raft.Log
		term    uint64
		vote    string
	}
	read := func(f *boltFile) (all [groups]held) {
		for id := range all {
			b, err := f.group(uint32(id))
			if err != nil {
				t.Fatal(err)
			}
			all[id].entries, all[id].term, all[id].vote = whole(t, b)
		}
		return all
	}
	for id := range uint32(groups) {
		b, _ := f.group(id)
		err := errors.Join(
			b.DeleteRange(1, 57), b.SetUint64([]byte("CurrentTerm"), 7+uint64(id)),
			b.Set([]byte("LastVoteCand"), fmt.Appendf(nil, "127.0.0.1:910%d", id)),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	want := read(f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 300 {
		damaged, at := flipOne(rng, content)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := checkBolt(path); err != nil {
			refused++
			continue
		}
		f, err := openBolt(path)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if got := read(f); !reflect.DeepEqual(got, want) {
			t.Errorf("byte %d: the logs hold something else, and are opened", at)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 30 { // most bytes are of pages that are free, or are read by nobody
		t.Errorf("%d of 300 were refused", refused)
	}
	damaged := bytes.Clone(content)
	damaged[boltPageHead]++
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openBolt(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("what a node says of it: %v", err)
	}
}

// TestALogThatLostItsEndIsRefused: a page says that it has one element less.
func TestALogThatLostItsEndIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	b, err := openOnlyLog(path, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.StoreLogs(entries(1, 100, 200)), b.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	cut := 0
	for at := 2 * page; at+page <= len(whole); at += page {
		flags, count := binary.LittleEndian.Uint16(whole[at+8:]), binary.LittleEndian.Uint16(whole[at+10:])
		if flags != boltLeaf || count < 2 || binary.LittleEndian.Uint64(whole[at:]) != uint64(at/page) {
			continue
		}
		damaged := bytes.Clone(whole)
		binary.LittleEndian.PutUint16(damaged[at+10:], count-1)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := openOnlyLog(path, boltOptions()); err == nil {
			// A page that is not in use any more may say what it likes.
			last, err := b.LastIndex()
			if err != nil || last != 100 {
				t.Errorf("page %d is cut short, and the log ends with %d, %v", at/page, last, err)
			}
			b.Close()
			continue
		}
		cut++
	}
	if cut == 0 {
		t.Error("no page was found to be cut short")
	}
}

func TestAFlippedBitInASnapshotIsFoundAtTheStart(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	d, err := OpenFiles(dir, FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	log := hclog.NewNullLogger()
	snaps, err := d.OpenSnapshots(1, log)
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "127.0.0.1:9101"}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, 1000, 3, conf, 7, &raft.InmemTransport{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write([]byte("the state of a shard")); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if err := snaps.Mend(0, 0); err != nil {
		t.Fatalf("it is whole: %v", err)
	}
	for _, name := range []string{"meta.json", "state.bin"} {
		path := filepath.Join(dir, "groups", "001", "snapshots", sink.ID(), name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			damaged, at := flipOne(rng, content)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := snaps.Mend(0, 0); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s, byte %d: %v", name, at, err)
			}
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := snaps.Mend(0, 0); err != nil {
		t.Errorf("it is whole again: %v", err)
	}
}

func TestAFlippedBitInNodeJSONIsFoundAtTheStart(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	v := identity{
		Format: dataFormat, NodeID: "n1", ClusterID: strings.Repeat("0a", 16), Shards: 6, Complete: true,
		Members: []Member{{ID: "n1", Raft: "127.0.0.1:9101", HTTP: "http://127.0.0.1:8101"}},
	}
	v.Sum = v.sum()
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		damaged, at := flipOne(rng, content)
		// Case does not count in a field's name, nor one space more or less.
		if got, err := decodeIdentity(damaged); err == nil && !reflect.DeepEqual(got, v) {
			t.Errorf("byte %d: it is read as %+v", at, got)
		}
	}
}

// A snapshot that a crash cut short is nobody's, and as large as a state.
func TestUnfinishedSnapshotsAreRemovedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenFiles(dir, FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "127.0.0.1:9101"}}}
	open := func() Snapshots {
		t.Helper()
		snaps, err := d.OpenSnapshots(1, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return snaps
	}
	snaps := open()
	for _, finish := range []bool{true, false} {
		sink, err := snaps.Create(raft.SnapshotVersionMax, 1000, 3, conf, 7, &raft.InmemTransport{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Write([]byte("the state of a shard")); err != nil {
			t.Fatal(err)
		}
		if finish {
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	folders := func() int {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(dir, "groups", "001", "snapshots"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if n := folders(); n != 2 {
		t.Fatalf("%d folders of a snapshot and a half", n)
	}
	snaps = open()
	if list, err := snaps.List(); err != nil || len(list) != 1 || folders() != 1 {
		t.Errorf("after a start: %d folders, the snapshots %+v, %v", folders(), list, err)
	}
}
