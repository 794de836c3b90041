package main

import (
	"context"
	"time"
)

// A node counts a step forward of less than a second between two readings as a
// late reading (raftnode.Steady says why). So that every jump below is one that
// it has to see through, all that a clock may show are a multiple of this apart.
const clockStep = 2500 * time.Millisecond

var clockFaults = []fault{
	{"clock-jump", "a node's clock jumps by seconds or hours, forth or back, and stays so", 0, time.Second, strikeClock},
	{"clock-trembles", "a node's clock jumps forth and back by seconds, many times, and stays anywhere", time.Second, 4 * time.Second, strikeTremble},
}

// someNode is any member: a clock is nobody's to hold.
func (b *blow) someNode() *node {
	m := b.members()
	return m[b.rng.IntN(len(m))]
}

func strikeClock(_ context.Context, b *blow) error {
	n := b.someNode()
	most := int64(4) // 10 s
	if b.rng.IntN(2) == 0 {
		most = 4320 // 3 h
	}
	off := time.Duration(b.rng.Int64N(2*most+1)-most) * clockStep
	b.note("%s is off by %v", n.id, off)
	return n.setClock(off)
}

func strikeTremble(ctx context.Context, b *blow) error {
	n := b.someNode()
	b.note("%s for %v", n.id, b.Lasts)
	for end := time.Now().Add(b.Lasts); time.Now().Before(end) && ctx.Err() == nil; {
		if err := n.setClock(time.Duration(b.rng.Int64N(5)-2) * clockStep); err != nil {
			return err
		}
		wait(ctx, time.Duration(b.rng.Int64N(int64(50*time.Millisecond))))
	}
	return nil
}
