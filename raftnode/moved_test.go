package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newPort listens on a port that no node has had.
func newPort(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A copy of a node's folder, started elsewhere, is told that the node runs, and stops.
// Entries go on going to the one that was there.
func TestACopyOfARunningNodeIsRefused(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir()}
	log := new(lockedBuffer)
	c.start(3, joinAll)
	c.mustTake(1)
	original := filepath.Join(c.dir, "1")
	c.close(1)
	if err := os.CopyFS(filepath.Join(c.dir, "copy"), os.DirFS(original)); err != nil {
		t.Fatal(err)
	}
	c.close(0)
	loud := c.config(0)
	loud.Logger = slog.New(slog.NewTextHandler(log, nil))
	c.nodes[0] = c.open(loud, c.listen(0))
	c.nodes[1] = c.open(c.config(1), c.listen(1))
	c.ready()
	was, _ := c.nodes[0].peers.member("n2")

	fatal := make(chan error, 1)
	cfg, l := c.config(1), newPort(t)
	cfg.DataDir, cfg.RaftAdvertise, cfg.HTTPAdvertise = filepath.Join(c.dir, "copy"), l.Addr().String(), "http://127.0.0.1:20"
	cfg.OnFatal = func(err error) { fatal <- err }
	twin := c.open(cfg, l)
	defer twin.Close()
	select {
	case err := <-fatal:
		want := "two processes run with the identity of node n2: the other one answers at " + c.addrs[1]
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "new --node-id") {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the copy was not refused")
	}
	// It asks on until its process ends, which nobody does for it here.
	for range 3 {
		if _, err := twin.ask(request(t), addrOf("n1", c.addrs[0])); err != nil {
			t.Error(err)
		}
	}
	if now, _ := c.nodes[0].peers.member("n2"); now != was {
		t.Errorf("n2 is sought at %+v, was at %+v", now, was)
	}
	if _, err := c.nodes[0].ask(request(t), addrOf("n2", l.Addr().String())); err == nil || !strings.Contains(err.Error(), "two processes") {
		t.Errorf("the copy was asked, and believed: %v", err)
	}
	if got := log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "two processes run with the identity of one node") ||
		!strings.Contains(got, "refused="+l.Addr().String()) {
		t.Errorf("n1 does not tell it once:\n%s", got)
	}
	c.ready()
	c.mustTake(1)
}

// A node that was stopped and comes back elsewhere is believed, whatever answers or
// hangs where it was.
func TestAMovedNodeIsFoundWhateverIsWhereItWas(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	stranger := &testCluster{t: t, dir: t.TempDir()}
	for name, take := range map[string]func(net.Listener){
		"nobody":               func(l net.Listener) { l.Close() },
		"a machine that hangs": func(net.Listener) {}, // the kernel accepts
		"another server":       func(l net.Listener) { go http.Serve(l, nil) },
		"a node of another cluster": func(l net.Listener) {
			stranger.addrs = []string{l.Addr().String()}
			cfg := stranger.config(0)
			cfg.NodeID, cfg.BootstrapExpect = "n3", 1
			stranger.nodes = []*Node{stranger.open(cfg, l)}
			t.Cleanup(func() { stranger.close(0) })
			stranger.ready()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			c.close(2)
			left := c.listen(2)
			t.Cleanup(func() { left.Close() })
			take(left)
			l := newPort(t)
			c.addrs[2] = l.Addr().String()
			c.nodes[2] = c.open(c.config(2), l)
			eventually(t, "both others seek it where it is", func() bool {
				for _, n := range c.nodes[:2] {
					if s, ok := n.peers.fresh("n3"); !ok || s.Raft != c.addrs[2] {
						return false
					}
				}
				return true
			})
			c.ready()
			c.mustTake(1)
		})
	}
	c.t = t
}

// A node that announces another name of the same place answers at the old one, too.
func TestANodeWithAnotherNameIsTheSame(t *testing.T) {
	c := startCluster(t, 3)
	for _, advertise := range []string{strings.Replace(c.addrs[2], "127.0.0.1", "localhost", 1), c.addrs[2]} {
		c.close(2)
		cfg := c.config(2)
		cfg.RaftAdvertise = advertise
		cfg.HTTPAdvertise = fmt.Sprintf("http://%s", advertise)
		c.nodes[2] = c.open(cfg, c.listen(2))
		eventually(t, "the others know its name "+advertise, func() bool {
			one, _ := c.nodes[0].peers.member("n3")
			two, _ := c.nodes[1].peers.member("n3")
			return one == c.nodes[2].self() && two == one
		})
		c.ready()
	}
	c.mustTake(1)
}

// A question that was cut off has found out nothing: the member stays where it is known
// to be, until it announces itself again.
func TestAQuestionThatIsCutOffMovesNobody(t *testing.T) {
	c := startCluster(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := c.nodes[0]
	known, _ := n.peers.member("n2")
	if other := n.heard(ctx, status{Member: Member{ID: "n2", Raft: "127.0.0.1:1"}, ClusterID: n.ClusterID()}); other != "" {
		t.Errorf("it found n2 at %s", other)
	}
	if now, _ := n.peers.member("n2"); now != known {
		t.Errorf("n2 is sought at %+v, was at %+v", now, known)
	}
}

// What was found out about an address says nothing of one that has come since.
func TestAnAddressThatHasChangedMeanwhileIsCheckedAnew(t *testing.T) {
	first, second, third := Member{ID: "n2", Raft: "a:1"}, Member{ID: "n2", Raft: "b:1"}, Member{ID: "n2", Raft: "c:1"}
	p := newPeers([]Member{first})
	if !p.note(status{Member: second}, first) || p.note(status{Member: third}, first) {
		t.Error("one of two that came for the first address was to be taken")
	}
	if now, _ := p.member("n2"); now != second {
		t.Errorf("n2 is sought at %+v", now)
	}
}
