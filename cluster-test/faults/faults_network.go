package main

import (
	"context"
	"fmt"
	"time"
)

var networkFaults = []fault{
	{"halves", "nodes split into two halves that don't hear each other", time.Second, 8 * time.Second, strikeHalves},
	{"one-way", "some nodes are not heard by some others, and hear them", time.Second, 7 * time.Second, strikeOneWay},
	{"bridge", "two groups of nodes don't hear each other, and one node hears both", time.Second, 7 * time.Second, strikeBridge},
	{"isolate-leader", "the leader of a shard and the other nodes don't hear each other; callers reach it", time.Second, 7 * time.Second, strikeIsolate},
	{"lost-answers", "nothing that a node sends arrives, at other nodes and callers or at callers only; it hears all", time.Second, 6 * time.Second, strikeLostAnswers},
	{"flapping", "a node's links break and mend several times a second", time.Second, 5 * time.Second, strikeFlapping},
	{"slow-link", "what a node sends passes at 24 KiB/s", time.Second, 6 * time.Second, strikeSlow},
}

// slots are those of the members, in an order that the blow draws.
func (b *blow) slots() []int {
	var list []int
	for _, n := range b.members() {
		list = append(list, n.slot)
	}
	b.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// sever cuts links for as long as the blow lasts.
func (b *blow) sever(ctx context.Context, which []link) error {
	mend, err := b.links.sever(which)
	if err != nil {
		return err
	}
	wait(ctx, b.Lasts)
	return mend()
}

func strikeHalves(ctx context.Context, b *blow) error {
	s := b.slots()
	half := len(s) / 2
	cut := apart(s[:half], s[half:])
	which := "callers reach both"
	if b.rng.IntN(2) == 0 { // the callers live beside the smaller half
		cut = append(cut, apart([]int{callers}, s[half:])...)
		which = "callers reach the first"
	}
	b.note("slots %v from %v for %v, %s", s[:half], s[half:], b.Lasts, which)
	return b.sever(ctx, cut)
}

func strikeOneWay(ctx context.Context, b *blow) error {
	s := b.slots()
	from := 1 + b.rng.IntN(len(s)-1)
	b.note("slots %v are not heard by %v for %v", s[:from], s[from:], b.Lasts)
	return b.sever(ctx, between(s[:from], s[from:]))
}

func strikeBridge(ctx context.Context, b *blow) error {
	s := b.slots()
	if len(s) < 3 {
		return fmt.Errorf("%w: too few nodes", errNotNow)
	}
	half := len(s) / 2
	b.note("slots %v from %v for %v, %d hears both", s[:half], s[half+1:], b.Lasts, s[half])
	return b.sever(ctx, apart(s[:half], s[half+1:]))
}

func strikeIsolate(ctx context.Context, b *blow) error {
	shard := uint32(b.rng.IntN(b.plan.Shards + 1))
	leader := b.find(b.leader(ctx, shard))
	if leader == nil {
		return fmt.Errorf("%w: shard %d has no leader", errNotNow, shard)
	}
	b.note("%s, which leads shard %d, for %v", leader.id, shard, b.Lasts)
	return b.sever(ctx, apart([]int{leader.slot}, b.slots()))
}

func strikeLostAnswers(ctx context.Context, b *blow) error {
	s := b.slots()
	to := []int{callers}
	if b.rng.IntN(2) == 0 {
		to = append(to, s...)
	}
	b.note("what slot %d sends to %v, for %v", s[0], to, b.Lasts)
	return b.sever(ctx, between(s[:1], to))
}

func strikeFlapping(ctx context.Context, b *blow) error {
	s := b.slots()
	b.note("slot %d for %v", s[0], b.Lasts)
	for end := time.Now().Add(b.Lasts); time.Now().Before(end) && ctx.Err() == nil; {
		mend, err := b.links.sever(apart(s[:1], append(s[1:], callers)))
		if err != nil {
			return err
		}
		wait(ctx, time.Duration(b.rng.Int64N(int64(300*time.Millisecond))))
		if err := mend(); err != nil {
			return err
		}
		wait(ctx, time.Duration(b.rng.Int64N(int64(300*time.Millisecond))))
	}
	return nil
}

func strikeSlow(ctx context.Context, b *blow) error {
	b.slowMu.Lock() // one at a time: a link has one pace
	defer b.slowMu.Unlock()
	slot := b.slots()[0]
	b.note("slot %d for %v", slot, b.Lasts)
	if err := b.net.setSlow(slot, true); err != nil {
		return err
	}
	wait(ctx, b.Lasts)
	return b.net.setSlow(slot, false)
}
