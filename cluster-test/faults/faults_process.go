package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

var processFaults = []fault{
	{"kill", "kill -9 of a node, then a start", 50 * time.Millisecond, 5 * time.Second, strikeKill},
	{"pause-short", "SIGSTOP for less than an election takes, then SIGCONT", 100 * time.Millisecond, 600 * time.Millisecond, strikePause},
	{"pause-long", "SIGSTOP for longer than an election takes, then SIGCONT: a leader wakes up among followers of another", 1500 * time.Millisecond, 7 * time.Second, strikePause},
	{"kill-many", "kill -9 of a majority at once, then a start of each", 50 * time.Millisecond, 2 * time.Second, strikeKillMany},
	{"restart-all", "kill -9 of every node at once, then a start of all", 50 * time.Millisecond, 2 * time.Second, strikeRestartAll},
	{"rolling-restart", "SIGTERM and start of one node after the other, each once the last one is back", 100 * time.Millisecond, time.Second, strikeRolling},
}

func strikeKill(ctx context.Context, b *blow) error {
	n, release, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	b.note("%s for %v", n.id, b.Lasts)
	n.kill()
	wait(ctx, b.Lasts)
	return b.back(ctx, n)
}

func strikePause(ctx context.Context, b *blow) error {
	n, release, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	b.note("%s for %v", n.id, b.Lasts)
	p := n.process()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, b.Lasts)
	return p.Signal(syscall.SIGCONT)
}

// holdMany takes so many nodes that no other fault has, all or none.
func (b *blow) holdMany(ctx context.Context, many int) (held []*node, release func(), err error) {
	release = func() {
		for _, n := range held {
			n.release()
		}
	}
	for range many {
		n, _, err := b.hold(ctx)
		if err != nil {
			release()
			return nil, nil, err
		}
		held = append(held, n)
	}
	return held, release, nil
}

func strikeKillMany(ctx context.Context, b *blow) error {
	return killMany(ctx, b, len(b.members())/2+1)
}

func strikeRestartAll(ctx context.Context, b *blow) error {
	return killMany(ctx, b, len(b.members()))
}

func killMany(ctx context.Context, b *blow, many int) error {
	held, release, err := b.holdMany(ctx, many)
	if err != nil {
		return err
	}
	defer release()
	b.note("%d nodes for %v", many, b.Lasts)
	for _, n := range held { // all at once, then wait
		n.expectEnd()
		if err := n.process().Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, n := range held {
		n.kill()
	}
	wait(ctx, b.Lasts)
	for _, n := range held {
		if err := n.start(); err != nil {
			return err
		}
	}
	for _, n := range held {
		if err := b.back(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func strikeRolling(ctx context.Context, b *blow) error {
	b.note("%d nodes, %v each", len(b.members()), b.Lasts)
	for _, n := range b.members() {
		select {
		case n.held <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		err := n.terminate()
		if err == nil {
			wait(ctx, b.Lasts)
			err = b.back(ctx, n)
		}
		n.release()
		if err != nil {
			return fmt.Errorf("%s: %w", n.id, err)
		}
	}
	return nil
}
