package sim

import (
	"bytes"
	"fmt"
	"io"

	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/fsm"
)

// checkSnapshots holds every finished snapshot on every disk against a replay of
// the log up to its index: equal states have equal bytes.
func (w *world) checkSnapshots(replicas []*check.Replica) (wrong []string) {
	type place struct {
		group uint32
		index uint64
	}
	log := map[place][]byte{}
	for _, r := range replicas {
		for _, e := range r.Entries {
			log[place{e.Group, e.Index}] = e.Data
		}
	}
	for _, n := range w.nodes {
		for group := range uint32(w.shards + 1) {
			for _, f := range n.disk.snapshots()[group] {
				m := newMachine(group)
				for i := uint64(1); i <= f.meta.Index; i++ {
					if e := log[place{group, i}]; e != nil {
						if err := m.apply(i, e); err != nil {
							return append(wrong, fmt.Sprintf("group %d: the log can't be applied again: %v", group, err))
						}
					}
				}
				if !bytes.Equal(m.state(), f.data) {
					wrong = append(wrong, fmt.Sprintf("group %d: the snapshot of %s at index %d is not what the log gives", group, n.id, f.meta.Index))
				}
			}
		}
	}
	return wrong
}

// machine is a fresh state machine of a group.
type machine struct {
	apply func(index uint64, entry []byte) error
	state func() []byte // the snapshot that it would write
}

func newMachine(group uint32) *machine {
	if group == 0 {
		c := fsm.NewCatalog()
		return &machine{
			apply: func(i uint64, e []byte) error { _, err := c.Apply(i, e); return err },
			state: func() []byte { return written(c.Capture()) },
		}
	}
	m := fsm.NewBuckets(group)
	return &machine{
		apply: func(i uint64, e []byte) error { _, err := m.Apply(i, e); return err },
		state: func() []byte { return written(m.Capture()) },
	}
}

// written is the snapshot that a capture writes, or why it writes none.
func written(c interface {
	io.WriterTo
	Release()
}) []byte {
	defer c.Release()
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return fmt.Appendf(nil, "no snapshot: %v", err)
	}
	return b.Bytes()
}
