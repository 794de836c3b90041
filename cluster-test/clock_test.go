package clustertest

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// storm is by how far a clock trembles in a storm.
const storm = 10 * time.Millisecond

// TestJumpingClocksChangeNoDecision moves the boot clocks of leaders and of
// followers by hours, makes them tremble, changes leaders in between, and
// replays all that was decided. A jump that counted would refill both policies
// to the brim.
func TestJumpingClocksChangeNoDecision(t *testing.T) {
	rng := seeded(t)
	clocks := map[*node]*movableClock{}
	c := three(t, func(n *node) { withSeams(n) })
	for _, n := range c.nodes {
		clocks[n] = newClock(t, c, n)
	}
	c.own(t)

	glacial := c.nodes[0].put(t, unique("glacial"), 100, time.Hour, 100)
	flowing := c.nodes[0].put(t, unique("flowing"), 50, time.Second, 20)
	h, cl := newHistory(glacial, flowing), c.client(t)
	// A step of less than a second that is taken back right away may count
	// once for each storm until the clock has caught up with it.
	const rounds = 3
	h.slack = rounds * storm
	slow := drive(t, cl, h, glacial.Name, []string{"k"}, 3)
	quick := drive(t, cl, h, flowing.Name, []string{"k", "l"}, 6)
	jump := func(n *node, d time.Duration) {
		t.Helper()
		t.Logf("%v: the clock of %s jumps by %v", h.now().Round(time.Millisecond), n.id, d)
		if err := clocks[n].jump(d); err != nil {
			t.Fatal(err)
		}
		quick.flows(t, 20)
	}
	for round := range rounds {
		quick.flows(t, 50)
		leader := c.leaderOf(t, "k")
		followers := c.others(leader)
		hours := time.Duration(1+rng.IntN(1000)) * time.Hour
		jump(leader, hours)
		jump(followers[0], -hours)
		jump(followers[1], time.Hour)
		jump(leader, -2*hours)
		for _, n := range c.nodes {
			if got := clockJumps(t, n); got == 0 {
				t.Errorf("%s counts no jump of its clock: this test shows nothing", n.id)
			}
		}
		tick := time.NewTicker(time.Millisecond)
		for range 100 {
			for _, n := range c.nodes {
				if err := clocks[n].jump(storm); err != nil {
					t.Fatal(err)
				}
			}
			<-tick.C
			for _, n := range c.nodes {
				if err := clocks[n].jump(-storm); err != nil {
					t.Fatal(err)
				}
			}
			<-tick.C
		}
		tick.Stop()
		// The follower whose clock went back, or the one whose went forward,
		// goes on with the time of the old leader.
		if round%2 == 0 {
			leader.terminate(t)
		} else {
			leader.kill(t)
		}
		jump(followers[0], time.Hour)
		jump(followers[1], -time.Hour)
		leader.start(t)
		leader.waitReady(t)
	}
	slow.finish(t)
	quick.finish(t)
	h.mustHold(t)

	// In so many minutes at 100 an hour; a jump would have given 100 more.
	elapsed := h.now()
	if got, most := h.allowed(glacial.Name, "k"), 100+int64(elapsed*100/time.Hour)+1; got < 100 || got > most {
		t.Errorf("%d tokens of %s were granted in %v, want 100 to %d", got, glacial.Name, elapsed, most)
	}
}

// clockJumps is how many steps of its clock a node has ignored.
func clockJumps(t testing.TB, n *node) int {
	t.Helper()
	v, err := n.metric("rlstore_clock_jumps_total")
	if err != nil {
		t.Fatal(err)
	}
	return int(v)
}

// metric reads one value, such as `rlstore_peer_reachable{peer="n2"}`.
func (n *node) metric(series string) (float64, error) {
	resp, err := plain.Get("http://" + n.http + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			_, _ = io.Copy(io.Discard, resp.Body)
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("node %s has no metric %s", n.id, series)
}
