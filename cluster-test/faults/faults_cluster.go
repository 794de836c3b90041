package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
)

var clusterFaults = []fault{
	{"add-node", "a node joins", 0, time.Second, strikeAdd},
	{"remove-node", "a node is removed, and another one joins in its place", 0, time.Second, strikeRemove},
	{"transfer-storm", "leaderships are moved about several times a second", time.Second, 5 * time.Second, strikeTransfers},
}

// route tells whether this version has a route whose path begins so.
func route(method, prefix string) bool {
	return slices.ContainsFunc(api.Routes, func(r api.Route) bool {
		return r.Method == method && strings.HasPrefix(r.Path, prefix)
	})
}

var (
	canRemove   = route("DELETE", "/v1/cluster/members/")
	canTransfer = route("POST", "/v1/cluster/shards/")
)

func strikeAdd(ctx context.Context, b *blow) error {
	slot := b.spareSlot()
	if slot == 0 {
		return fmt.Errorf("%w: no place is free", errNotNow)
	}
	n, err := b.join(slot)
	if err != nil {
		return err
	}
	b.note("%s", n.id)
	return b.votes(ctx, n)
}

func strikeRemove(ctx context.Context, b *blow) error {
	if !canRemove {
		return fmt.Errorf("%w: this version removes no nodes", errNotNow)
	}
	repaired, err := b.mayDamage() // a member less is as good as a lost disk
	if err != nil {
		return err
	}
	defer repaired()
	n, release, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	b.note("%s", n.id)
	// Half of the time it is removed while it runs.
	if b.rng.IntN(2) == 0 {
		n.kill()
	}
	n.expectEnd()
	return b.replace(ctx, n)
}

func strikeTransfers(ctx context.Context, b *blow) error {
	if !canTransfer {
		return fmt.Errorf("%w: this version moves no leaderships on demand", errNotNow)
	}
	b.note("for %v", b.Lasts)
	for end := time.Now().Add(b.Lasts); time.Now().Before(end) && ctx.Err() == nil; {
		m := b.members()
		at, to := m[b.rng.IntN(len(m))], m[b.rng.IntN(len(m))]
		path := fmt.Sprintf("/v1/cluster/shards/%d/transfer", b.rng.IntN(b.plan.Shards+1))
		// It may well fail: other faults are at work.
		_ = at.ask(ctx, b.operator, "POST", path, map[string]string{"to": to.id}, nil)
		wait(ctx, time.Duration(b.rng.Int64N(int64(250*time.Millisecond))))
	}
	return nil
}

// mayDamage takes the right to destroy the files of one node, which only one
// has at a time, so that a majority of disks is always whole. repaired gives it
// back once the cluster has its full number of sound disks.
func (b *blow) mayDamage() (repaired func(), err error) {
	select {
	case b.damage <- struct{}{}:
	default:
		return nil, fmt.Errorf("%w: another node's files are damaged", errNotNow)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !canRemove && b.replaced > 0 {
		<-b.damage
		return nil, fmt.Errorf("%w: this version removes no nodes, so each lost one stays a voter", errNotNow)
	}
	return func() { <-b.damage }, nil
}

// replace does what an operator does about a node that has lost its data:
// removes it from the cluster, and starts another one, with an empty disk, in
// its place. n is in the fault's hands.
func (b *blow) replace(ctx context.Context, n *node) error {
	b.mu.Lock()
	b.replaced++
	b.mu.Unlock()
	if canRemove {
		if err := b.remove(ctx, n); err != nil {
			return err
		}
	}
	if err := n.retire(); err != nil {
		return err
	}
	slot := n.slot
	if !canRemove { // it stays a member, and Raft wants no address twice
		if slot = b.spareSlot(); slot == 0 {
			return fmt.Errorf("%w: no place is free", errNotNow)
		}
	}
	next, err := b.join(slot)
	if err != nil {
		return err
	}
	b.say("%s takes the place of %s", next.id, n.id)
	return b.votes(ctx, next)
}

// membersWithin is how long a cluster without faults may take to remove a node,
// or to make one a voter.
const membersWithin = 60 * time.Second

// andThen returns a context that ends so long after the faults do, of which ctx
// is: for what may fail while they strike, and must come about once they are
// healed.
func (w *world) andThen(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(w.whole)
	stop := context.AfterFunc(ctx, func() {
		if wait(later, d) {
			cancel()
		}
	})
	return later, func() { stop(); cancel() }
}

// remove takes n out of the cluster. Other faults may be at work, so it asks
// until that has come about.
func (w *world) remove(ctx context.Context, n *node) error {
	ctx, cancel := w.andThen(ctx, membersWithin)
	defer cancel()
	err := poll(ctx, func() error {
		err := errors.New("no node to ask")
		for _, m := range w.members() {
			if m == n || !m.running() {
				continue
			}
			if err = m.ask(ctx, w.operator, "DELETE", "/v1/cluster/members/"+n.id, nil, nil); err == nil {
				return nil
			}
			if strings.Contains(err.Error(), ": 404 Not Found: ") { // an earlier try did it
				return nil
			}
		}
		return err
	}, nil)
	if err != nil {
		return fmt.Errorf("node %s can't be removed within %v of the last fault: %w", n.id, membersWithin, err)
	}
	return nil
}

// votes waits until n is a voter of every group, as it sees it, or was removed
// by another fault.
func (w *world) votes(ctx context.Context, n *node) error {
	ctx, cancel := w.andThen(ctx, membersWithin)
	defer cancel()
	err := poll(ctx, func() error {
		s, err := n.status(ctx, w.operator)
		if err != nil {
			return err
		}
		if len(s.Shards) == 0 {
			return errors.New("it knows of no shards")
		}
		for _, g := range s.Shards {
			if !slices.ContainsFunc(g.Members, func(m api.MemberStatus) bool { return m.ID == n.id && m.Voter && !m.Repairing }) {
				return fmt.Errorf("it is no voter of shard %d", g.ID)
			}
		}
		return nil
	}, func() bool { return w.find(n.id) == nil })
	if err != nil && w.find(n.id) != nil {
		return fmt.Errorf("node %s did not become a voter everywhere within %v of the last fault: %w", n.id, membersWithin, err)
	}
	return nil
}
