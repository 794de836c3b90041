package clustertest

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rlstore/rlstore/cluster-test/process"
	"github.com/rlstore/rlstore/raftnode"
	"github.com/rlstore/rlstore/server"
)

// Some faults need a seam that the binary does not have: a clock that a test
// may move, snapshots after kilobytes instead of megabytes. For these the test
// binary runs itself as a node, with the same flags and the same assembly.
const (
	seamEnv      = "RLSTORE_CLUSTERTEST_NODE"      // set: be a node
	clockEnv     = "RLSTORE_CLUSTERTEST_CLOCK"     // file of the clock's shift
	snapshotsEnv = "RLSTORE_CLUSTERTEST_SNAPSHOTS" // bytes of log after which, and that stay behind: "65536,16384"
)

// withSeams makes n a node that runs in the test binary.
func withSeams(n *node, env ...string) {
	n.bin = "/proc/self/exe"
	if exe, err := os.Executable(); err == nil {
		n.bin = exe
	}
	n.env = append(env, seamEnv+"=1")
}

// serveWithSeams is the main function of such a node. args are "serve" and
// flags of the form --name=value.
func serveWithSeams(args []string) int {
	err := func() error {
		cfg, err := server.Load(server.Sources{Flags: process.Flags(args[1:])})
		if err != nil {
			return err
		}
		var opts []server.Option
		if file := os.Getenv(clockEnv); file != "" {
			clock, err := process.OpenClock(file)
			if err != nil {
				return err
			}
			opts = append(opts, server.WithNode(func(c *raftnode.Config) { c.Clock = clock }))
		}
		if s := os.Getenv(snapshotsEnv); s != "" {
			after, trailing, _ := strings.Cut(s, ",")
			a, err := strconv.ParseUint(after, 10, 64)
			if err != nil {
				return err
			}
			b, err := strconv.ParseUint(trailing, 10, 64)
			if err != nil {
				return err
			}
			opts = append(opts, server.WithNode(func(c *raftnode.Config) { c.SnapshotBytes, c.TrailingBytes = a, b }))
		}
		s, err := server.New(cfg, opts...)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return s.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

// movableClock is the clock of a node that a test moves.
type movableClock struct {
	file  string
	shift time.Duration
}

// newClock makes the clock of n movable.
func newClock(t testing.TB, c *cluster, n *node) *movableClock {
	t.Helper()
	m := &movableClock{file: c.tempFile(n.id + ".clock")}
	if err := m.jump(0); err != nil {
		t.Fatal(err)
	}
	n.env = append(n.env, clockEnv+"="+m.file)
	return m
}

// jump moves the clock at once.
func (m *movableClock) jump(d time.Duration) error {
	m.shift += d
	return process.SetClock(m.file, m.shift)
}
