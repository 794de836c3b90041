package raftnode

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// appender appends entries of one length to the groups of a file in turns, as a node
// does.
type appender struct {
	file   *boltFile
	groups [3]*boltLog
	last   [3]raft.Log
	n      int
}

func newAppender(t testing.TB, size int) *appender {
	f, err := openBolt(filepath.Join(t.TempDir(), "logs.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a := &appender{file: f}
	for i := range a.groups {
		if a.groups[i], err = f.group(uint32(i)); err != nil {
			t.Fatal(err)
		}
		a.last[i] = raft.Log{Term: 1, Data: make([]byte, size)}
	}
	return a
}

// append is one entry. It returns its log, and its index.
func (a *appender) append(t testing.TB) (*boltLog, uint64) {
	i := a.n % len(a.groups)
	a.n++
	l := &a.last[i]
	l.Index++
	if err := a.groups[i].StoreLogs([]*raft.Log{l}); err != nil {
		t.Fatal(err)
	}
	return a.groups[i], l.Index
}

// amplification is how many bytes of pages were written for each byte of an entry.
func (a *appender) amplification() float64 {
	stats := a.file.store.Stats().TxStats
	return float64(stats.GetPageAlloc()) / float64(a.n*len(a.last[0].Data))
}

// A page that is written anew with every append holds next to nothing of a long entry.
func TestLongEntriesAreWrittenAboutOnce(t *testing.T) {
	for size, atMost := range map[int]float64{12 << 10: 3.6, 64 << 10: 1.5, 256 << 10: 1.2} {
		a := newAppender(t, size)
		for range 100 {
			a.append(t)
		}
		if got := a.amplification(); got < 1 || got > atMost {
			t.Errorf("an entry of %d bytes is written %.2f times", size, got)
		}
	}
}

// BenchmarkAppend tells what an append costs, by the length of the entry.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{300, 1500, 3000, 6 << 10, 12 << 10, 24 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			a := newAppender(b, size)
			keep := uint64(8<<20/size + 64) // in each group, twice as many at most
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if g, last := a.append(b); last%keep == 0 && last > keep {
					if err := g.DeleteRange(1, last-keep); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(a.amplification(), "written/byte")
		})
	}
}
