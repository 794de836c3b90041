package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// smallLog returns the bytes of a log file of three groups, with a tree of two
// levels, an entry that needs several pages and one of several pieces, votes, and
// free pages. The first group is the one that useLog uses.
func smallLog(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "log.db")
	b, err := openOnlyLog(path, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	second, err1 := b.file.group(1)
	third, err2 := b.file.group(2)
	err = errors.Join(
		err1, err2, second.StoreLogs(entries(7, 3, 50)), second.StoreLogs(entries(10, 1, 2*pieceSize+1)), third.SetUint64([]byte("CurrentTerm"), 3),
		b.StoreLogs(entries(1, 100, 40)), b.StoreLogs(entries(101, 1, 9000)), b.StoreLogs(entries(102, 20, 300)),
		b.DeleteRange(1, 10), b.SetUint64([]byte("CurrentTerm"), 7), b.SetUint64([]byte("LastVoteTerm"), 7),
		b.Set([]byte("LastVoteCand"), []byte("n1")), b.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file[:usedPages(file)]
}

// usedPages is the end of what is in use of a file; the rest bbolt has taken in
// advance.
func usedPages(file []byte) int {
	page := os.Getpagesize()
	used := uint64(0)
	for i := range 2 {
		used = max(used, binary.LittleEndian.Uint64(file[i*page+boltPageHead+40:]))
	}
	return int(used) * page
}

// useLog does with the log file at path what a node may do, and returns the
// error of opening it.
func useLog(t testing.TB, path string) error {
	b, err := openOnlyLog(path, boltOptions())
	if err != nil {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the log: %v", err)
		}
		return err
	}
	defer b.Close()
	first, err1 := b.FirstIndex()
	last, err2 := b.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first > last {
		t.Errorf("the log is %d to %d, %v", first, last, err)
	}
	for i := first; i <= last && i < first+200; i++ {
		_ = b.GetLog(i, new(raft.Log)) // an entry may be damaged, and is an error then
	}
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		_, _ = b.GetUint64([]byte(key))
	}
	err = errors.Join(
		b.StoreLogs(entries(last+1, 3, 2000)), b.SetUint64([]byte("CurrentTerm"), 8),
		b.DeleteRange(first, min(first+50, last)), b.DeleteRange(last, last+3),
	)
	if err != nil {
		t.Errorf("a log that was opened can't be written to: %v", err)
	}
	return nil
}

// TestADamagedPageIsAnError: bbolt itself panics on it, or the process faults.
func TestADamagedPageIsAnError(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	file, page := smallLog(t), os.Getpagesize()
	path := filepath.Join(t.TempDir(), "log.db")
	refused := 0
	write := func(b []byte) error {
		os.Remove(path)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return useLog(t, path)
	}
	if err := write(file); err != nil {
		t.Fatalf("the whole file: %v", err)
	}
	for cut := 1; cut < len(file)/page; cut++ {
		if write(file[:cut*page]) == nil && cut < len(file)/page-1 {
			t.Errorf("cut to %d pages of %d, it is opened", cut, len(file)/page)
		}
	}
	for range 200 {
		bad := append([]byte(nil), file...)
		at := 2*page + r.IntN(len(file)/page-2)*page + r.IntN(64) // heads and elements
		bad[at] ^= 1 << r.IntN(8)
		if write(bad) != nil {
			refused++
		}
	}
	if refused < 50 {
		t.Errorf("of 200 damaged files %d are refused", refused)
	}
}

// FuzzBoltCheck gives damaged files to the check alone, which a damaged file
// must not harm either.
func FuzzBoltCheck(f *testing.F) {
	file := smallLog(f)
	addDamages(f)
	bad := make([]byte, len(file))
	f.Fuzz(func(t *testing.T, size uint32, edits []byte) {
		copy(bad, file)
		b := damage(bad, size, edits)
		c := newBoltChecker(bytes.NewReader(b), int64(len(b)))
		err := c.check()
		if len(edits) < 4 && size < 2 && err != nil {
			t.Fatalf("the file as it was is refused: %v", err)
		}
		if uint64(len(c.seen)) > uint64(len(b)/os.Getpagesize()) {
			t.Fatalf("%d pages of a file of %d bytes", len(c.seen), len(b))
		}
	})
}

// FuzzLogFile opens and uses those files that pass the check.
func FuzzLogFile(f *testing.F) {
	file := smallLog(f)
	addDamages(f)
	path := filepath.Join(f.TempDir(), "log.db")
	bad := make([]byte, len(file))
	f.Fuzz(func(t *testing.T, size uint32, edits []byte) {
		copy(bad, file)
		b := damage(bad, size, edits)
		c := newBoltChecker(bytes.NewReader(b), int64(len(b)))
		if c.check() != nil {
			return
		}
		os.Remove(path)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = useLog(t, path)
	})
}

func addDamages(f *testing.F) {
	f.Add(uint32(0), []byte{})
	f.Add(uint32(0), []byte{0, 0x20, 8, 1})
	f.Add(uint32(8192), []byte{0, 0x30, 0, 0xff})
	f.Add(uint32(1), []byte{0, 0, 32, 0xff, 0, 0, 64, 0})
	f.Add(uint32(0), []byte{0, 0, 16, 0})
}

// damage changes a log file: each four bytes of edits are a place, and what to
// write there. An odd size mends the checksums of the meta pages, as if a program
// at fault had written them; half of it, if it is not 0, is where to cut.
func damage(file []byte, size uint32, edits []byte) []byte {
	for ; len(edits) >= 4; edits = edits[4:] {
		at := int(edits[0])<<16 | int(edits[1])<<8 | int(edits[2])
		file[at%len(file)] = edits[3]
	}
	if size%2 == 1 {
		for at := 0; at <= os.Getpagesize(); at += os.Getpagesize() {
			m := file[at+boltPageHead : at+boltPageHead+boltMetaSize]
			sum := fnv.New64a()
			sum.Write(m[:boltMetaSize-8])
			binary.LittleEndian.PutUint64(m[boltMetaSize-8:], sum.Sum64())
		}
	}
	if n := int(size / 2); n > 0 && n < len(file) {
		return file[:n]
	}
	return file
}
