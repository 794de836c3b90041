package clustertest

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	flags := map[string]string{}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	err := func() error {
		cfg, err := server.Load(server.Sources{Flags: flags})
		if err != nil {
			return err
		}
		var opts []server.Option
		if file := os.Getenv(clockEnv); file != "" {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			opts = append(opts, server.WithNode(func(c *raftnode.Config) { c.Clock = shiftedClock{raftnode.BootClock(), f} }))
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

// shiftedClock is the machine's clock plus what a file of 8 bytes says: its
// reader sees a shift the moment that it is written.
type shiftedClock struct {
	raftnode.Clock
	shift *os.File
}

// Now implements raftnode.Clock.
func (c shiftedClock) Now() int64 {
	var b [8]byte
	if _, err := c.shift.ReadAt(b[:], 0); err != nil {
		panic(err)
	}
	return c.Clock.Now() + int64(binary.LittleEndian.Uint64(b[:]))
}

// movableClock is the writer's side of a shiftedClock.
type movableClock struct {
	file  *os.File
	shift time.Duration
}

// newClock makes the clock of n movable.
func newClock(t testing.TB, c *cluster, n *node) *movableClock {
	t.Helper()
	f, err := os.Create(c.tempFile(n.id + ".clock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m := &movableClock{file: f}
	if err := m.jump(0); err != nil {
		t.Fatal(err)
	}
	n.env = append(n.env, clockEnv+"="+f.Name())
	return m
}

// jump moves the clock at once.
func (m *movableClock) jump(d time.Duration) error {
	m.shift += d
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(m.shift))
	_, err := m.file.WriteAt(b[:], 0)
	return err
}
