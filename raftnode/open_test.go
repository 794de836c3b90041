package raftnode

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// watchedDisk is a node's disk that hears of each group whose snapshots are opened.
type watchedDisk struct {
	Disk
	opening func(group uint32) error
}

func (d watchedDisk) OpenSnapshots(group uint32, log hclog.Logger) (Snapshots, error) {
	if err := d.opening(group); err != nil {
		return nil, err
	}
	return d.Disk.OpenSnapshots(group, log)
}

// stoppedNode is the configuration of a node that was part of a cluster of one and
// has been closed; opening hears of its groups at the next start.
func stoppedNode(t *testing.T, opening func(group uint32) error) Config {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir()}
	l := c.listen(0)
	cfg := c.config(0)
	cfg.BootstrapExpect = 1
	c.nodes = []*Node{c.open(cfg, l)}
	c.ready()
	c.close(0)
	cfg.OpenDisk = func() (Disk, error) {
		d, err := OpenFiles(cfg.DataDir, FilesOptions{})
		return watchedDisk{d, opening}, err
	}
	return cfg
}

func reopen(t *testing.T, cfg Config) (*Node, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	return Open(cfg)
}

// One group waits for the other here: a node that opened them one after the other
// would never start.
func TestGroupsOpenSideBySide(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	}
	second := make(chan struct{})
	cfg := stoppedNode(t, func(group uint32) error {
		switch group {
		case 0:
			<-second
		case 1:
			close(second)
		}
		return nil
	})
	n, err := reopen(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for i, g := range n.groupList() {
		if g.id != uint32(i) {
			t.Errorf("group %d stands in place %d", g.id, i)
		}
	}
	eventually(t, "the node serves", func() bool {
		return !slices.ContainsFunc(n.Ready(), func(c Check) bool { return !c.OK })
	})
}

// Whichever group fails, the error is that of the first one that does, the others
// are closed, and the folder is free for another start.
func TestAGroupThatDoesNotOpenEndsTheStart(t *testing.T) {
	bad := map[uint32]bool{1: true, 2: true}
	cfg := stoppedNode(t, func(group uint32) error {
		if bad[group] {
			return errors.New("the snapshots can't be opened")
		}
		return nil
	})
	for len(bad) > 0 {
		first := uint32(2)
		if bad[1] {
			first = 1
		}
		n, err := reopen(t, cfg)
		if err == nil {
			n.Close()
			t.Fatal("it started without one of its groups")
		}
		if want := fmt.Sprintf("snapshots of group %d", first); !strings.Contains(err.Error(), want) {
			t.Errorf("it said %q, want %q", err, want)
		}
		delete(bad, first)
	}
	n, err := reopen(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestANodeIsClosedWhileItFormsItsCluster: whatever it has opened by then is closed
// (TestMain looks for what is left), and it goes on from there at its next start.
func TestANodeIsClosedWhileItFormsItsCluster(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir()}
	l := c.listen(0)
	cfg := c.config(0)
	for range 10 {
		cfg.BootstrapExpect, cfg.Listener = 1, l
		n, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		l = c.listen(0)
	}
	cfg.Listener = l
	c.nodes = []*Node{c.open(cfg, l)}
	defer c.close(0)
	c.ready()
	c.mustTake(1)
}
