package bench

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/raftnode"
)

// BenchmarkEngine is one entry after the other through the bare library, with
// the same log store, transport settings and fsync as a shard has: what a take
// would cost if rlstore cost nothing.
func BenchmarkEngine(b *testing.B) {
	leader := startEngine(b)
	entry := make([]byte, 100) // about one take's
	drive(b, 1, 1, func(int, int) error {
		return leader.Apply(append([]byte(nil), entry...), time.Second).Error()
	})
}

// startEngine starts three bare Raft nodes over loopback and returns the leader.
func startEngine(b *testing.B) *raft.Raft {
	b.Helper()
	const nodes = 3
	var trans [nodes]*raft.NetworkTransport
	var first raft.Configuration
	for i := range nodes {
		t, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
			MaxPool: 2, MaxRPCsInFlight: 1, Timeout: 3 * time.Second, Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			b.Fatal(err)
		}
		trans[i] = t
		first.Servers = append(first.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: t.LocalAddr()})
	}
	var rafts [nodes]*raft.Raft
	for i := range nodes {
		disk, err := raftnode.OpenFiles(b.TempDir(), raftnode.FilesOptions{LogStore: logStore()})
		if err != nil {
			b.Fatal(err)
		}
		log, err := disk.OpenLog(0)
		if err != nil {
			b.Fatal(err)
		}
		store, err := raftnode.NewLogStore("of the engine", log, raftnode.LogStoreOptions{
			OnFatal: func(err error) { b.Error(err) },
		})
		if err != nil {
			b.Fatal(err)
		}
		c := raft.DefaultConfig()
		c.LocalID = first.Servers[i].ID
		c.Logger = hclog.NewNullLogger()
		c.CommitTimeout = 200 * time.Millisecond
		c.NoLegacyTelemetry = true
		logs, err := raft.NewLogCache(64, store)
		if err != nil {
			b.Fatal(err)
		}
		snaps := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(c, logs, store, snaps, trans[i], first); err != nil {
			b.Fatal(err)
		}
		if rafts[i], err = raft.NewRaft(c, discard{}, logs, store, snaps, trans[i]); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := rafts[i].Shutdown().Error(); err != nil {
				b.Error(err)
			}
			trans[i].Close()
			store.Close()
			disk.Close()
		})
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		for _, r := range rafts {
			if r.State() == raft.Leader && r.Barrier(time.Second).Error() == nil {
				return r
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("no leader within 20 s")
	return nil
}

// discard is a state machine without state.
type discard struct{}

func (discard) Apply(*raft.Log) any                 { return nil }
func (discard) Restore(r io.ReadCloser) error       { return r.Close() }
func (discard) Snapshot() (raft.FSMSnapshot, error) { return discard{}, nil }
func (discard) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (discard) Release()                            {}
