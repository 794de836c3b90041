package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
)

// nemesis breaks things and mends them, by a plan that follows from the seed.
type nemesis struct {
	w   *world
	rng *rand.Rand

	mend []mending // what is broken now
	op   *caller   // the operator's requests

	flipped *node // the last one whose disk was damaged
}

type mending struct {
	at time.Time // when it is due
	do func()
}

// fault is one kind of trouble: break something, and return how it is mended,
// nil if it mends itself.
type fault struct {
	name string
	do   func(n *nemesis) (mend func())
}

// kinds are all faults.
var kinds = []fault{
	{"kill", func(n *nemesis) func() { return n.down(n.anyNode(), false) }},
	{"kill-leader", func(n *nemesis) func() { return n.down(n.leader(), false) }},
	{"power-loss", func(n *nemesis) func() { return n.down(n.anyNode(), true) }},
	{"kill-all", (*nemesis).killAll},
	{"restart", (*nemesis).restart},
	{"split", (*nemesis).split},
	{"isolate-leader", func(n *nemesis) func() { return n.isolate(n.leader(), true, true) }},
	{"mute", func(n *nemesis) func() { return n.isolate(n.anyNode(), true, false) }},
	{"deaf", func(n *nemesis) func() { return n.isolate(n.anyNode(), false, true) }},
	{"mute-leader", func(n *nemesis) func() { return n.isolate(n.leader(), true, false) }},
	{"one-way", (*nemesis).oneWay},
	{"bridge", (*nemesis).bridge},
	{"answers-lost", (*nemesis).answersLost},
	{"resets", (*nemesis).resets},
	{"slow-link", (*nemesis).slowLink},
	{"slow-disk", (*nemesis).slowDisk},
	{"stuck-disk", (*nemesis).stuckDisk},
	{"failing-disk", (*nemesis).failingDisk},
	{"full-disk", (*nemesis).fullDisk},
	{"bit-flip", (*nemesis).bitFlip},
	{"clock-jump", (*nemesis).clockJump},
	{"clock-drift", (*nemesis).clockDrift},
	{"wall-jump", (*nemesis).wallJump},
	{"new-node", (*nemesis).newNode},
	{"remove-node", (*nemesis).removeNode},
	{"transfers", (*nemesis).transfers},
}

// maxDrift is how fast or slow a clock may run, in parts in a million.
const maxDrift = 500

// maxNodes bounds what new-node makes.
const maxNodes = 6

// run breaks things for so long.
func (n *nemesis) run(d time.Duration) {
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(n.rng.Int64N(int64(1500 * time.Millisecond))))
		n.mendDue(time.Now())
		n.revive()
		if len(n.mend) >= 3 {
			continue
		}
		f := kinds[n.rng.IntN(len(kinds))]
		mend := f.do(n)
		n.w.counts[f.name]++
		if mend != nil {
			n.mend = append(n.mend, mending{time.Now().Add(100*time.Millisecond + n.length()), mend})
		}
	}
}

// length draws how long a fault lasts: mostly some elections' time, sometimes
// so short that nobody has noticed, sometimes longer than connections live.
func (n *nemesis) length() time.Duration {
	switch n.rng.IntN(8) {
	case 0:
		return time.Duration(n.rng.Int64N(int64(200 * time.Millisecond)))
	case 1:
		return time.Duration(n.rng.Int64N(int64(14 * time.Second)))
	}
	return time.Duration(n.rng.Int64N(int64(4 * time.Second)))
}

// mendDue mends what is due.
func (n *nemesis) mendDue(now time.Time) {
	var later []mending
	for _, m := range n.mend {
		if m.at.After(now) {
			later = append(later, m)
		} else {
			m.do()
		}
	}
	n.mend = later
}

// healAll mends everything and starts every node.
func (n *nemesis) healAll() {
	n.w.happens("all is healed")
	n.mendDue(time.Now().Add(time.Hour))
	for _, node := range n.w.nodes {
		node.clock.drift(0)
		node.disk.mend()
	}
	for _, node := range n.w.members() {
		n.begin(node)
	}
	n.finishRemovals()
}

// revive starts the nodes that ended by themselves, as a supervisor would: their
// disks had failed them.
func (n *nemesis) revive() {
	for _, node := range n.w.members() {
		if node.running() || node.held || node.disk.broken() {
			continue
		}
		if node.proc != nil {
			n.w.happens("%s had ended: %v", node.id, node.proc.err)
		}
		n.begin(node)
	}
}

// begin starts a node's process. A disk may keep it from that; nothing else.
func (n *nemesis) begin(node *node) {
	if node.running() || node.removed {
		return
	}
	node.held = false
	n.w.happens("start %s", node.id)
	err := node.start()
	if err == nil {
		return
	}
	n.w.happens("%s does not start: %v", node.id, err)
	if !errors.Is(err, errIO) && !errors.Is(err, errDiskFull) && !strings.Contains(err.Error(), "stuck for") {
		n.w.rec.lie("node %s does not start again: %v", node.id, err)
	}
}

func (n *nemesis) anyNode() *node {
	members := n.w.members()
	return members[n.rng.IntN(len(members))]
}

// shuffled is the members in a random order.
func (n *nemesis) shuffled() []*node {
	list := n.w.members()
	n.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func ids(nodes []*node) (list []string) {
	for _, n := range nodes {
		list = append(list, n.id)
	}
	return list
}

// leader is a node that leads a group, as some running node believes; any node
// if none does.
func (n *nemesis) leader() *node {
	members := n.w.members()
	for _, i := range n.rng.Perm(len(members)) {
		p := members[i].proc
		if !members[i].running() {
			continue
		}
		shards := p.srv.Cluster().Shards
		if len(shards) == 0 {
			continue
		}
		if id := shards[n.rng.IntN(len(shards))].Leader; id != nil {
			for _, node := range members {
				if node.id == *id {
					return node
				}
			}
		}
	}
	return n.anyNode()
}

// down kills a node; it comes back when that is mended.
func (n *nemesis) down(node *node, silent bool) func() {
	n.w.happens("kill %s, silent %v", node.id, silent)
	node.held = true
	node.kill(silent)
	return func() { n.begin(node) }
}

func (n *nemesis) killAll() func() {
	n.w.happens("kill all")
	done := make(chan struct{})
	nodes := n.w.members()
	for _, node := range nodes {
		node.held = true
		go func() { node.kill(true); done <- struct{}{} }()
	}
	for range nodes {
		<-done
	}
	return func() {
		for _, node := range nodes {
			n.begin(node)
		}
	}
}

// restart stops a node as SIGTERM does, and starts it again at once.
func (n *nemesis) restart() func() {
	node := n.anyNode()
	n.w.happens("restart %s", node.id)
	_ = node.terminate() // a disk may have failed meanwhile
	n.begin(node)
	return nil
}

// cut parts two hosts, in the ways that are asked for.
func (n *nemesis) cut(a, b string, there, back bool) (mend func()) {
	if there {
		n.w.net.cut(a, b)
	}
	if back {
		n.w.net.cut(b, a)
	}
	return func() {
		if there {
			n.w.net.heal(a, b)
		}
		if back {
			n.w.net.heal(b, a)
		}
	}
}

func both(list []func()) func() {
	return func() {
		for _, f := range list {
			f()
		}
	}
}

// split parts the nodes in two groups; callers reach all.
func (n *nemesis) split() func() {
	nodes := n.shuffled()
	k := 1 + n.rng.IntN(len(nodes)-1)
	n.w.happens("split %v from the others", ids(nodes[:k]))
	var mends []func()
	for _, a := range nodes[:k] {
		for _, b := range nodes[k:] {
			mends = append(mends, n.cut(a.id, b.id, true, true))
		}
	}
	return both(mends)
}

// isolate parts a node from the other nodes: what it sends, what it hears, or
// both. Callers reach it.
func (n *nemesis) isolate(node *node, sends, hears bool) func() {
	n.w.happens("isolate %s: sends %v, hears %v", node.id, sends, hears)
	var mends []func()
	for _, other := range n.w.nodes {
		if other != node {
			mends = append(mends, n.cut(node.id, other.id, sends, hears))
		}
	}
	return both(mends)
}

func (n *nemesis) oneWay() func() {
	nodes := n.shuffled()
	a, b := nodes[0], nodes[1]
	n.w.happens("nothing gets from %s to %s", a.id, b.id)
	return n.cut(a.id, b.id, true, false)
}

// bridge parts two nodes that both still reach the third.
func (n *nemesis) bridge() func() {
	nodes := n.shuffled()
	a, b := nodes[0], nodes[1]
	n.w.happens("%s and %s are parted", a.id, b.id)
	return n.cut(a.id, b.id, true, true)
}

// answersLost lets callers' requests reach a node, and no answer back.
func (n *nemesis) answersLost() func() {
	node := n.leader()
	n.w.happens("the answers of %s to its callers are lost", node.id)
	var mends []func()
	for i := range n.w.callers + 1 {
		mends = append(mends, n.cut(node.id, fmt.Sprintf("c%d", i), true, false))
	}
	return both(mends)
}

// resets breaks the connections of two nodes, or of a node with its callers.
func (n *nemesis) resets() func() {
	node := n.leader()
	n.w.happens("the connections of %s are reset", node.id)
	for _, other := range n.w.nodes {
		if other != node {
			n.w.net.breakAll(node.id, other.id)
		}
	}
	for i := range n.w.callers + 1 {
		n.w.net.breakAll(node.id, fmt.Sprintf("c%d", i))
	}
	return nil
}

func (n *nemesis) slowLink() func() {
	node := n.anyNode()
	d := time.Duration(1+n.rng.IntN(1500)) * time.Millisecond
	n.w.happens("what %s sends is late by %v", node.id, d)
	set := func(d time.Duration) {
		for _, other := range n.w.nodes {
			if other != node {
				n.w.net.slow(node.id, other.id, d)
			}
		}
	}
	set(d)
	return func() { set(0) }
}

func (n *nemesis) slowDisk() func() {
	node := n.anyNode()
	d := time.Duration(1+n.rng.IntN(400)) * time.Millisecond
	n.w.happens("the disk of %s is slow by %v", node.id, d)
	node.disk.change(func(d2 *disk) { d2.slow = d })
	return func() { node.disk.change(func(d *disk) { d.slow = 0 }) }
}

// stuckDisk stops the writes of a node for a while; for more than ten seconds,
// and the node has to end.
func (n *nemesis) stuckDisk() func() {
	node := n.anyNode()
	d := time.Duration(n.rng.Int64N(int64(14 * time.Second)))
	n.w.happens("the disk of %s is stuck for %v", node.id, d)
	node.disk.change(func(f *disk) { f.stuck = time.Now().Add(d) })
	return nil
}

func (n *nemesis) failingDisk() func() {
	node := n.anyNode()
	n.w.happens("the next write of %s fails", node.id)
	node.disk.change(func(d *disk) { d.failing = 1 })
	return nil
}

func (n *nemesis) fullDisk() func() {
	node := n.anyNode()
	n.w.happens("the disk of %s is full", node.id)
	node.disk.change(func(d *disk) { d.full = true })
	return func() { node.disk.change(func(d *disk) { d.full = false }) }
}

// bitFlip damages what a node keeps of one group, or of all, while it is down. A
// cluster bears one such node at a time: the others have to have what it had.
func (n *nemesis) bitFlip() func() {
	node := n.anyNode()
	if n.flipped != nil && !n.flipped.removed && !n.flipped.isWhole(0) || !node.isWhole(3) {
		return nil
	}
	n.flipped = node
	group := int64(n.rng.IntN(n.w.shards + 1))
	if n.rng.IntN(2) == 0 {
		group = allGroups
	}
	n.w.happens("bits flip on the disk of %s, in the files of group %d", node.id, group)
	mend := n.down(node, n.rng.IntN(2) == 0)
	node.disk.flip(group)
	return mend
}

// isWhole tells whether a node knows itself to be a voter of every group, with no
// repair under way, and of each as so many voters at least that are to stay.
func (n *node) isWhole(voters int) bool {
	if !n.running() {
		return false
	}
	shards := n.proc.srv.Cluster().Shards
	for _, s := range shards {
		votes, own := 0, false
		for _, m := range s.Members {
			for _, node := range n.w.members() {
				if m.ID == node.id && m.Voter {
					votes++
				}
			}
			own = own || m.ID == n.id && m.Voter && !m.Repairing
		}
		if votes < voters || !own {
			return false
		}
	}
	return len(shards) > 0
}

// clockJump moves a boot clock back at will, or forward by more than a second:
// a smaller step forward is not told from a late reading, which is documented.
func (n *nemesis) clockJump() func() {
	node := n.anyNode()
	d := 1100*time.Millisecond + time.Duration(n.rng.ExpFloat64()*float64(time.Minute))
	if n.rng.IntN(2) == 0 {
		d = -time.Duration(n.rng.ExpFloat64() * float64(time.Minute))
	}
	n.w.happens("the clock of %s jumps by %v", node.id, d)
	node.clock.jump(d)
	return nil
}

func (n *nemesis) clockDrift() func() {
	node := n.anyNode()
	ppm := n.rng.Int64N(2*maxDrift+1) - maxDrift
	n.w.happens("the clock of %s drifts by %d ppm", node.id, ppm)
	node.clock.drift(ppm)
	return nil
}

// wallJump sets a node's time of day: wrong by seconds as by a leap, by hours as by a
// time zone, by years as by an empty battery.
func (n *nemesis) wallJump() func() {
	node := n.anyNode()
	unit := []time.Duration{time.Second, time.Hour, 10_000 * time.Hour}[n.rng.IntN(3)]
	d := time.Duration((2*n.rng.Float64() - 1) * n.rng.ExpFloat64() * float64(unit))
	n.w.happens("the time of day of %s jumps by %v", node.id, d)
	node.wall.jump(d)
	return nil
}

// newNode lets one more node join, if there is room for one.
func (n *nemesis) newNode() func() {
	if len(n.w.nodes) >= maxNodes {
		return nil
	}
	var join []string
	for _, node := range n.w.members() {
		join = append(join, node.raft())
	}
	node := n.w.addNode(0, join)
	n.w.happens("%s joins", node.id)
	n.begin(node)
	return nil
}

// removeNode takes a node out of the cluster for good, if enough others are
// there. Its process goes on for a while, as it would until somebody stops it.
func (n *nemesis) removeNode() func() {
	members := n.w.members()
	if len(members) < 4 || slices.ContainsFunc(n.w.nodes, func(node *node) bool { return node.gone && !node.removed }) {
		return nil
	}
	node := n.anyNode()
	node.gone = true
	n.remove(node)
	return func() {
		if node.removed {
			node.held = true
			_ = node.terminate()
		}
	}
}

// remove asks for a removal once, through any other node.
func (n *nemesis) remove(node *node) {
	through := n.anyNode()
	err := n.op.call("DELETE", through.http(), "/v1/cluster/members/"+node.id, nil, http.Header{}, 20*time.Second, nil)
	n.w.happens("remove %s through %s: %v", node.id, through.id, err)
	var p *api.Problem
	node.removed = err == nil || errors.As(err, &p) && p.Code == api.NotFound
}

// finishRemovals goes on with the removals that trouble has cut off. Until one has
// come to its end, the node may be needed: one of those that remain may not have
// heard of another one yet, and the library lets it refuse that one's candidacy.
func (n *nemesis) finishRemovals() {
	for _, node := range n.w.nodes {
		for range 60 {
			if !node.gone || node.removed {
				break
			}
			n.begin(node)
			time.Sleep(time.Second)
			n.revive()
			n.remove(node)
		}
		if node.gone && !node.removed {
			n.w.rec.lie("the removal of %s does not come to an end", node.id)
		}
	}
}

// transfers moves leaderships to and fro, as fast as they go.
func (n *nemesis) transfers() func() {
	for range 3 + n.rng.IntN(6) {
		to, through, shard := n.anyNode(), n.anyNode(), n.rng.IntN(n.w.shards+1)
		err := n.op.call("POST", through.http(), fmt.Sprintf("/v1/cluster/shards/%d/transfer", shard),
			fmt.Appendf(nil, `{"to":%q}`, to.id), nil, 2*time.Second, nil)
		n.w.happens("transfer shard %d to %s through %s: %v", shard, to.id, through.id, err)
	}
	return nil
}
