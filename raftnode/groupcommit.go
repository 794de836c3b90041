package raftnode

import (
	"time"

	"github.com/hashicorp/raft"
)

// commit is one transaction of entries: what the groups of a node wanted to
// append while the one before was on its way to the disk. There is no timer: a
// lone append goes out at once, and the slower the disk is, the more go together.
type commit struct {
	carriers       []*raft.Log
	entries, bytes int
	done           chan struct{} // closed once err is set
	err            error
}

// append puts carriers into the commit that is being gathered, and returns when
// that is on disk. The caller that begins one carries it out for all.
func (f *boltFile) append(carriers []*raft.Log, entries, bytes int) error {
	f.mu.Lock()
	c := f.next
	begun := c == nil
	if begun {
		c = &commit{done: make(chan struct{})}
		f.next = c
	}
	c.carriers = append(c.carriers, carriers...)
	c.entries += entries
	c.bytes += bytes
	f.mu.Unlock()
	if !begun {
		<-c.done
		return c.err
	}
	c.err = f.change(func() error {
		f.mu.Lock()
		f.next = nil // who comes now begins the next one, and waits for the disk
		f.mu.Unlock()
		start := time.Now()
		err := f.store.StoreLogs(c.carriers)
		if err == nil && f.onCommit != nil {
			f.onCommit(c.entries, c.bytes, time.Since(start))
		}
		return err
	})
	close(c.done)
	return c.err
}

// change carries out one transaction after the one under way. Once one failed
// there are no more: what the disk took after it would be believed.
func (f *boltFile) change(do func() error) error {
	f.disk.Lock()
	defer f.disk.Unlock()
	if f.failed == nil {
		f.failed = do()
	}
	return f.failed
}
