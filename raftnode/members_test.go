package raftnode

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// request is the time of one request, with room for a slow machine: repetitions need
// one each.
func request(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// members lists who is in the cluster in the eyes of n.
func members(n *Node) (ids []string) {
	for _, m := range n.Cluster().Nodes {
		ids = append(ids, m.ID)
	}
	return ids
}

// knows tells whether a node stands in another one's address book, in memory or
// on its disk.
func (c *testCluster) knows(i int, id string) bool {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.config(i).DataDir, "node.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	_, book := c.nodes[i].peers.member(id)
	_, members, _ := strings.Cut(string(b), `"members"`)
	members, _, _ = strings.Cut(members, "]") // a plan that began the cluster follows
	return book || strings.Contains(members, `"`+id+`"`)
}

// refusal is why f fails for good; what a repetition may cure is repeated.
func refusal(t *testing.T, f func() error) (p *api.Problem) {
	t.Helper()
	eventually(t, "it is refused, or done", func() bool {
		p = &api.Problem{}
		err := f()
		if err != nil {
			p = api.AsProblem(err)
		}
		return err == nil || !p.Retryable
	})
	return p
}

// failing is the check of n that fails, or "".
func failing(n *Node, name string) string {
	for _, check := range n.Ready() {
		if check.Name == name && !check.OK {
			return check.Detail
		}
	}
	return ""
}

// A node that is removed leaves every group and every address book, says so, knows
// who leads, and refuses to start again. Nobody elects because of it.
func TestRemovedNodeIsGoneForGood(t *testing.T) {
	c := startCluster(t, 3)
	at, leader := c.leader(1)
	c.mustTake(1)
	// The one that leads, through itself: the hardest case.
	id := leader.NodeID()
	insist(t, func() error { return leader.RemoveMember(request(t), id) })
	if !leader.Barred() {
		t.Error("it answers for a catalog of which it hears no more")
	}
	rest := []int{(at + 1) % 3, (at + 2) % 3}
	eventually(t, "everybody has heard of it", func() bool {
		for _, i := range rest {
			if slices.Contains(members(c.nodes[i]), id) || c.knows(i, id) {
				return false
			}
			for _, g := range c.nodes[i].groupList() {
				if g.has(id) || g.leader() == id || g.leader() == "" {
					return false
				}
			}
		}
		return failing(leader, "member") != ""
	})
	if s := failing(leader, "member"); !strings.Contains(s, "was removed") || !strings.Contains(s, "new --node-id") {
		t.Errorf("it says %q", s)
	}
	eventually(t, "the removed node knows the new leader", func() bool {
		m, _, known := leader.Leader(1)
		_, next := c.leader(1)
		return known && m.ID == next.NodeID()
	})
	if leader.CatalogCurrent() {
		t.Error("it claims to hear of policies")
	}
	c.mustTake(1)
	insist(t, func() error { return c.nodes[rest[0]].RemoveMember(request(t), id) }) // again
	if err := c.nodes[rest[0]].add(request(t), &Member{ID: id, Raft: c.addrs[at]}); err == nil {
		for _, g := range c.nodes[rest[0]].groupList() {
			if g.has(id) {
				t.Errorf("it was added to %s again", g)
			}
		}
	}
	eventually(t, "the removed node asks for no vote", func() bool {
		for _, g := range leader.groupList() {
			if g.raft.ReloadableConfig().HeartbeatTimeout != never {
				return false
			}
		}
		return true
	})

	c.close(at)
	cfg := c.config(at)
	cfg.Join, cfg.Listener = c.addrs, c.listen(at)
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "was removed from its cluster") {
		t.Errorf("started again, it said %v", err)
	}
}

// A node that was removed while it was down hears of it when it comes back, and
// is not taken in again; nor under its old id with an empty folder.
func TestNodeRemovedWhileItWasDown(t *testing.T) {
	c := startCluster(t, 3)
	c.close(2)
	eventually(t, "the others miss it", func() bool {
		_, one := c.nodes[0].peers.fresh("n3")
		_, two := c.nodes[1].peers.fresh("n3")
		return !one && !two
	})
	p := refusal(t, func() error { return c.nodes[0].RemoveMember(request(t), "n2") })
	if p.Code != api.Conflict || !strings.Contains(p.Detail, "n3") {
		t.Fatalf("n2 was to be removed while n3 is down: %v", p)
	}
	if c.nodes[0].Catalog().IsRemoved("n2") {
		t.Fatal("what was refused has begun")
	}
	insist(t, func() error { return c.nodes[0].RemoveMember(request(t), "n3") })
	c.nodes[2] = c.open(c.config(2), c.listen(2))
	eventually(t, "the node says that it was removed", func() bool { return failing(c.nodes[2], "member") != "" })
	for _, i := range []int{0, 1} {
		if got := members(c.nodes[i]); !slices.Equal(got, []string{"n1", "n2"}) {
			t.Errorf("n%d lists %v", i+1, got)
		}
		eventually(t, "its address is forgotten", func() bool { return !c.knows(i, "n3") })
	}
	c.close(2)

	fatal := make(chan error, 1)
	cfg := c.config(2)
	cfg.DataDir, cfg.Join = t.TempDir(), c.addrs[:2]
	cfg.OnFatal = func(err error) { fatal <- err }
	c.nodes[2] = c.open(cfg, c.listen(2))
	select {
	case err := <-fatal:
		if !strings.Contains(err.Error(), "was removed from the cluster") {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it was not refused")
	}

	// Down to one, and no further.
	insist(t, func() error { return c.nodes[1].RemoveMember(request(t), "n2") })
	if p := refusal(t, func() error { return c.nodes[0].RemoveMember(request(t), "n1") }); p.Code != api.Conflict {
		t.Errorf("the last node: %v", p)
	}
	c.mustTake(1)
}

// A removal that was cut off half-way is finished by asking again, through
// another node.
func TestRemovalGoesOnWhereItWasCutOff(t *testing.T) {
	c := startCluster(t, 3)
	insist(t, func() error {
		_, err := c.nodes[0].ChangeCatalog(request(t), fsm.CatalogCommand{RemoveMember: &fsm.RemoveMember{ID: "n3"}}, false)
		return err
	})
	g, err := c.nodes[0].group(2)
	if err != nil {
		t.Fatal(err)
	}
	insist(t, func() error {
		_, err := c.nodes[0].changeGroup(request(t), g, memberChange{Group: 2, Remove: "n3"})
		return err
	})
	if got := members(c.nodes[0]); !slices.Contains(got, "n3") {
		t.Fatalf("half removed, it is no member of %v any more", got)
	}
	insist(t, func() error { return c.nodes[1].RemoveMember(request(t), "n3") })
	eventually(t, "it is in no group", func() bool { return !c.nodes[0].belongs("n3") && !c.nodes[1].belongs("n3") })
	if p := refusal(t, func() error { return c.nodes[1].RemoveMember(request(t), "n9") }); p.Code != api.NotFound {
		t.Errorf("a node that never was: %v", p)
	}

	// The next one comes under a new id, and gets its votes.
	l := c.listen(3)
	cfg := c.config(3)
	cfg.Join = c.addrs[:1]
	c.nodes = append(c.nodes, c.open(cfg, l))
	eventually(t, "the new node votes in every group", func() bool {
		for _, g := range c.nodes[0].groupList() {
			if !slices.Equal(voterIDs(g), []string{"n1", "n2", "n4"}) {
				return false
			}
		}
		return true
	})
}

// A node is added as it announces itself, once it has found the cluster.
func TestNodeIsAddedByRequest(t *testing.T) {
	c := startCluster(t, 2)
	refused := func(what string, m Member, code api.Code, says string) {
		t.Helper()
		p := refusal(t, func() error { return c.nodes[0].AddMember(request(t), m.ID, m.Raft, m.HTTP) })
		if p.Code != code || !strings.Contains(p.Detail, says) {
			t.Errorf("%s: %v, want %s and %q", what, p, code, says)
		}
	}
	l := c.listen(2) // and nobody answers yet
	want := Member{ID: "n3", Raft: c.addrs[2], HTTP: c.config(2).HTTPAdvertise}
	refused("a node that does not answer", want, api.Conflict, "no node answers")

	added := make(chan error, 1) // the request may come before the node
	second := c.nodes[1]
	go func() { added <- second.AddMember(request(t), want.ID, want.Raft, want.HTTP) }()
	cfg := c.config(2)
	cfg.Join = c.addrs[:1]
	c.nodes = append(c.nodes, c.open(cfg, l))
	if err := <-added; err != nil && !api.AsProblem(err).Retryable {
		t.Fatal(err)
	}
	insist(t, func() error { return second.AddMember(request(t), want.ID, want.Raft, want.HTTP) })
	for _, g := range c.nodes[1].groupList() {
		eventually(t, "the node is in every group", func() bool { return g.has("n3") })
	}
	if got := members(c.nodes[1]); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
		t.Errorf("the members are %v", got)
	}
	eventually(t, "the others will know it after a restart", func() bool {
		return c.nodes[0].remembers("n3") && c.nodes[1].remembers("n3")
	})
	refused("under another id", Member{"n9", want.Raft, want.HTTP}, api.InvalidRequest, "is n3 with raft")
	refused("under another URL", Member{"n3", want.Raft, "http://h:1"}, api.InvalidRequest, "is n3 with raft")
	refused("as itself, elsewhere", Member{"n1", want.Raft, want.HTTP}, api.InvalidRequest, "not n1")

	other := startCluster(t, 1)
	foreign := other.nodes[0].self()
	foreign.ID = "n4"
	refused("of another cluster", foreign, api.Conflict, "belongs to another cluster")

	insist(t, func() error { return c.nodes[0].RemoveMember(request(t), "n3") })
	refused("that was removed", want, api.Conflict, "was removed")
}

// Two members that have never heard of each other, since each was down when the other
// joined, meet by the configuration.
func TestMembersThatNeverMetFindEachOther(t *testing.T) {
	c := startCluster(t, 3)
	a, b := c.nodes[0], c.nodes[1]
	know := func(n, other *Node) bool {
		_, ok := n.peers.member(other.NodeID())
		return ok
	}
	for know(a, b) || know(b, a) { // a call that was under way brings it back
		a.peers.forget(b.NodeID())
		b.peers.forget(a.NodeID())
	}
	eventually(t, "each hears from the other", func() bool {
		_, ab := a.peers.fresh(b.NodeID())
		_, ba := b.peers.fresh(a.NodeID())
		return ab && ba && know(a, b) && know(b, a)
	})
}
