package raftnode

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A search that does not get on names all who are missing, and is told again when
// they are others or after a minute, but not when they fail in another way.
func TestASearchIsToldAgainOnlyWhenOthersAreMissing(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir()}
	l := c.listen(0)
	cfg := c.config(0)
	cfg.BootstrapExpect, cfg.Join = 3, []string{"absent-b:1", "absent-a:1"}
	cfg.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }
	n := c.open(cfg, l)
	defer n.Close()
	first := n.seek(t.Context())
	var absent *absentError
	if !errors.As(first, &absent) || !strings.HasPrefix(first.Error(), "1 of 3 expected nodes see each other; no answer from absent-a:1 (") ||
		!strings.Contains(first.Error(), "), absent-b:1 (") {
		t.Fatalf("the search says %v", first)
	}
	refused := errors.New("refused")
	second := &absentError{absent.state, map[string]error{"absent-a:1": refused, "absent-b:1": refused}}
	fewer := &absentError{absent.state, map[string]error{"absent-a:1": refused}}
	var told remark
	now := time.Now()
	for i, step := range []struct {
		err   error
		after time.Duration
		news  bool
	}{
		{first, 0, true},
		{second, time.Second, false},
		{first, 2 * time.Second, false},
		{fewer, 3 * time.Second, true},
		{second, 4 * time.Second, true},
		{first, 4*time.Second + remindEvery, true},
	} {
		if got := told.isNews(step.err, now.Add(step.after)); got != step.news {
			t.Errorf("step %d: news: %v, want %v", i, got, step.news)
		}
	}
}

// fullDisk is a node's disk that has no room for entries of shard 1.
type fullDisk struct{ Disk }

func (d fullDisk) OpenLog(group uint32) (LogBackend, error) {
	b, err := d.Disk.OpenLog(group)
	if err == nil && group == 1 {
		b = fullLog{b}
	}
	return b, err
}

type fullLog struct{ LogBackend }

func (fullLog) StoreLogs([]*raft.Log) error { return syscall.ENOSPC }

// A node whose disk was full between the term and the entry of a group's first
// configuration begins with both at the next start.
func TestAFirstConfigurationThatWasCutOffIsWrittenAgain(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir()}
	l := c.listen(0)
	fatal := make(chan error, 1)
	cfg := c.config(0)
	cfg.BootstrapExpect, cfg.OnFatal = 1, func(err error) { fatal <- err }
	cfg.OpenDisk = func() (Disk, error) {
		d, err := OpenFiles(cfg.DataDir, FilesOptions{})
		return fullDisk{d}, err
	}
	n := c.open(cfg, l)
	if err := <-fatal; !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	n.Close()
	c.nodes = []*Node{c.open(c.config(0), c.listen(0))}
	defer c.close(0)
	c.ready()
	c.mustTake(1)
}
