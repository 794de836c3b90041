package raftnode

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestLeadGoesOnFromTheArrivalOfTheLastEntry(t *testing.T) {
	const s = uint64(time.Second)
	type step func(k *Timekeeper, c *fakeClock)
	arrive := func(index uint64) step { return func(k *Timekeeper, _ *fakeClock) { k.Arrived(index, 0) } }
	truncate := func(from uint64) step { return func(k *Timekeeper, _ *fakeClock) { k.Truncated(from) } }
	second := func(k *Timekeeper, c *fakeClock) { c.advance(time.Second); k.steady.Now() }
	full := []step{arrive(7), second}
	for i := range uint64(maxArrivals) {
		full = append(full, second, arrive(8+i))
	}
	for name, c := range map[string]struct {
		steps []step
		index uint64 // of the last applied entry; its stamp is 100 s
		want  uint64
	}{
		"measured since":                {[]step{arrive(7), second, second}, 7, 102 * s},
		"not its own arrival":           {[]step{arrive(5), second, arrive(7), second}, 7, 101 * s},
		"unknown after a restart":       {[]step{second, second}, 7, 100 * s},
		"newer than all arrivals":       {[]step{arrive(5), second}, 7, 100 * s},
		"arrived in a write with 9":     {[]step{arrive(5), second, arrive(9), second}, 7, 101 * s},
		"9 was cut off again":           {[]step{arrive(5), second, arrive(9), second, truncate(8), second}, 7, 102 * s},
		"7 was replaced":                {[]step{arrive(7), second, truncate(7), arrive(7), second}, 7, 101 * s},
		"7 was replaced without a word": {[]step{arrive(7), second, arrive(7), second}, 7, 101 * s},
		"7 went and another log came":   {[]step{arrive(6), second, arrive(9), second, truncate(3), second}, 7, 100 * s},
		"the log was cleared":           {[]step{arrive(7), second, truncate(1), second}, 7, 100 * s},
		"nothing was ever applied":      {[]step{second}, 0, 100 * s},
		"too long ago to be remembered": {full, 7, 100*s + uint64(maxArrivals/2)*s},
	} {
		clock := new(fakeClock)
		k := NewTimekeeper(NewSteady(clock))
		for _, f := range c.steps {
			f(k, clock)
		}
		k.Lead(c.index, 100*s)
		if got := k.Now(); got != c.want {
			t.Errorf("%s: time goes on at %v, want %v", name, time.Duration(got), time.Duration(c.want))
		}
		if n := len(k.arrivals); n > maxArrivals {
			t.Errorf("%s: %d arrivals", name, n)
		}
	}
}

// simEntry is an entry of a simulated log, with the truth about it.
type simEntry struct {
	term, stamp uint64
	stamped     int64 // true time, ns
}

type simNode struct {
	clock  *fakeClock
	steady *Steady
	time   *Timekeeper
	log    []simEntry // log[i] has index i+1
	asleep bool       // stopped or suspended: nobody reads its clock
}

func (n *simNode) boot() {
	n.steady = NewSteady(n.clock)
	n.time = NewTimekeeper(n.steady)
}

// simCluster has one leader at a time that commits; a deposed one may go on
// stamping entries that nobody gets.
type simCluster struct {
	t         *testing.T
	rng       *rand.Rand
	now       int64 // true time, ns
	nodes     []*simNode
	leader    int
	term      uint64
	committed int
}

// pass lets true time pass. Clocks follow it, and now and then jump.
func (c *simCluster) pass(d time.Duration) {
	for d > 0 {
		step := min(d, time.Duration(1+c.rng.Int64N(int64(150*time.Millisecond))))
		d -= step
		c.now += int64(step)
		for _, n := range c.nodes {
			n.clock.advance(step)
			if c.rng.IntN(40) == 0 {
				jump := time.Duration(c.rng.Int64N(int64(time.Hour)))
				if n.asleep || c.rng.IntN(2) == 0 {
					// A step back by any amount; a step forward by more than
					// what a late reading could be, and not between the same
					// two readings as one back: together they look like one.
					n.clock.advance(-jump)
				} else {
					n.clock.advance(jump + 2*time.Second)
				}
			}
			if !n.asleep {
				n.steady.Now()
			}
		}
	}
}

func (c *simCluster) stamp(i int) {
	n := c.nodes[i]
	e := simEntry{term: c.term, stamp: n.time.Now(), stamped: c.now}
	if i != c.leader {
		e.term = 0 // a deposed one's; never replicated
	}
	n.log = append(n.log, e)
	n.time.Arrived(uint64(len(n.log)), e.stamp)
}

// replicate brings node i's log in line with the leader's, up to upTo.
func (c *simCluster) replicate(i, upTo int) {
	n, lead := c.nodes[i], c.nodes[c.leader].log
	if i == c.leader || upTo < c.committed && len(n.log) > upTo {
		return
	}
	same := 0
	for same < len(n.log) && same < upTo && n.log[same] == lead[same] {
		same++
	}
	if same < len(n.log) && same < upTo {
		n.time.Truncated(uint64(same + 1))
		n.log = n.log[:same]
	}
	if len(n.log) < upTo {
		n.log = append(n.log, lead[len(n.log):upTo]...)
		n.time.Arrived(uint64(upTo), n.log[upTo-1].stamp)
	}
}

// prefix returns how much of the leader's log node i has.
func (c *simCluster) prefix(i int) int {
	n, lead := c.nodes[i].log, c.nodes[c.leader].log
	same := 0
	for same < len(n) && same < len(lead) && n[same] == lead[same] {
		same++
	}
	return same
}

func (c *simCluster) commit() {
	have := make([]int, 0, len(c.nodes))
	for i := range c.nodes {
		have = append(have, c.prefix(i))
	}
	for want := c.nodes[c.leader].log; c.committed < len(want); c.committed++ {
		holders := 0
		for _, h := range have {
			if h > c.committed {
				holders++
			}
		}
		if holders <= len(c.nodes)/2 {
			return
		}
		if c.committed > 0 {
			a, b := want[c.committed-1], want[c.committed]
			if b.stamp < a.stamp {
				c.t.Fatalf("entry %d is stamped %d, the one before it %d", c.committed+1, b.stamp, a.stamp)
			}
			if got, truth := b.stamp-a.stamp, b.stamped-a.stamped; got > uint64(truth) {
				c.t.Fatalf("between entries %d and %d cluster time took %v of true %v", c.committed, c.committed+1, time.Duration(got), time.Duration(truth))
			}
		}
	}
}

// elect makes node i the leader, if a majority would vote for it.
func (c *simCluster) elect(i int) {
	n := c.nodes[i]
	if i == c.leader || c.prefix(i) < c.committed || n.asleep {
		return
	}
	// Entries of deposed leaders beyond the common log are not what is being
	// tested: the new leader starts from what it has of the last one's.
	if p := c.prefix(i); p < len(n.log) {
		n.time.Truncated(uint64(p + 1))
		n.log = n.log[:p]
	}
	c.leader = i
	c.term++
	var last uint64
	if len(n.log) > 0 {
		last = n.log[len(n.log)-1].stamp
	}
	n.time.Lead(uint64(len(n.log)), last)
	if now := n.time.Now(); now < last {
		c.t.Fatalf("a new leader begins at %d, before the last stamp %d", now, last)
	}
}

func TestClusterTimeIsNeverFasterThanTrueTimeNorGoesBack(t *testing.T) {
	seed := rand.Uint64()
	for round := range uint64(300) {
		t.Run(fmt.Sprintf("seed=%d,%d", seed, round), func(t *testing.T) { simulate(t, rand.New(rand.NewPCG(seed, round))) })
		if t.Failed() {
			return
		}
	}
}

func simulate(t *testing.T, rng *rand.Rand) {
	c := &simCluster{t: t, rng: rng, term: 1}
	for range 3 + 2*rng.IntN(2) {
		n := &simNode{clock: new(fakeClock)}
		n.clock.advance(time.Duration(rng.Int64N(int64(time.Hour))))
		n.boot()
		c.nodes = append(c.nodes, n)
	}
	c.nodes[0].time.Lead(0, 0)
	for range 400 {
		i := rng.IntN(len(c.nodes))
		switch rng.IntN(12) {
		case 0, 1, 2, 3:
			if !c.nodes[c.leader].asleep {
				c.stamp(c.leader)
			}
		case 4, 5, 6, 7:
			c.replicate(i, rng.IntN(len(c.nodes[c.leader].log)+1))
			c.commit()
		case 8:
			c.pass(time.Duration(rng.Int64N(int64(3 * time.Second))))
		case 9:
			c.elect(i)
		case 10:
			if i != c.leader && rng.IntN(3) == 0 {
				c.nodes[i].boot() // its log is on disk
			} else if i != c.leader {
				c.stamp(i) // deposed, and does not know it yet
			}
		case 11:
			c.nodes[i].asleep = !c.nodes[i].asleep
		}
		if rng.IntN(3) == 0 {
			c.pass(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
		}
	}
}

// TestClusterTimeKeepsUpWithTrueTime: the promise above would be kept by a
// clock that stands still.
func TestClusterTimeKeepsUpWithTrueTime(t *testing.T) {
	clocks := [2]*fakeClock{new(fakeClock), new(fakeClock)}
	var keepers [2]*Timekeeper
	for i, c := range clocks {
		keepers[i] = NewTimekeeper(NewSteady(c))
	}
	pass := func(d time.Duration) {
		for i, c := range clocks {
			c.advance(d)
			keepers[i].steady.Now()
		}
	}
	keepers[0].Lead(0, 0)
	var last uint64
	for index := range uint64(100) {
		leader, other := keepers[index/10%2], keepers[1-index/10%2]
		if index%10 == 0 {
			leader.Lead(index, last)
		}
		pass(500 * time.Millisecond)
		last = leader.Now()
		leader.Arrived(index+1, last)
		pass(10 * time.Millisecond) // on the way
		other.Arrived(index+1, last)
	}
	truth := 100 * 510 * time.Millisecond
	if got := time.Duration(last); got < truth-15*10*time.Millisecond || got > truth {
		t.Errorf("cluster time is %v after %v and 10 changes of the leader", got, truth)
	}
}
