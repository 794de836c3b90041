package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/process"
	"github.com/rlstore/rlstore/raftnode"
	"github.com/rlstore/rlstore/server"
)

// controlEnv names the folder through which a node and its runner speak:
//
//	clock            by how much the clock is off: see process.SetClock
//	disk             1 byte: a diskFault
//	applied.N.jsonl  what the Nth process of the node applied, a check.Entry a line
//
// It lies outside the node's data, so a full disk does not stop it.
const controlEnv = "RLSTORE_FAULTS_CONTROL"

// Small budgets make a run of seconds see snapshots, and nodes that come back
// through one.
const (
	snapshotBytes = 256 << 10
	trailingBytes = 64 << 10
)

// nodeVerb is `rlstore serve` with the seams of the control folder. args are
// flags of the form --name=value.
func nodeVerb(ctx context.Context, args []string) error {
	cfg, err := server.Load(server.Sources{Flags: process.Flags(args)})
	if err != nil {
		return err
	}
	dir := os.Getenv(controlEnv)
	clock, err := process.OpenClock(filepath.Join(dir, "clock"))
	if err != nil {
		return err
	}
	disk, err := os.Open(filepath.Join(dir, "disk"))
	if err != nil {
		return err
	}
	applied, err := newAppliedFile(dir)
	if err != nil {
		return err
	}
	var opts []server.Option
	own := ownEnds()
	if own != nil {
		api, err := own.listen(cfg.HTTPAddr)
		if err != nil {
			return err
		}
		peers, err := own.listen(cfg.RaftAddr)
		if err != nil {
			return errors.Join(err, api.Close())
		}
		opts = append(opts, server.WithListeners(api, peers))
	}
	opts = append(opts, server.WithNode(func(c *raftnode.Config) {
		c.Clock = clock
		c.SnapshotBytes, c.TrailingBytes = snapshotBytes, trailingBytes
		c.OpenDisk = func() (raftnode.Disk, error) {
			d, err := raftnode.OpenFiles(cfg.DataDir, raftnode.FilesOptions{})
			if err != nil {
				return nil, err
			}
			return &faultyDisk{d, disk}, nil
		}
		c.OnApply = applied.write
		if own != nil {
			c.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return own.dial(ctx, "tcp", addr) }
		}
	}))
	s, err := server.New(cfg, opts...)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// appliedFile keeps what a node applied. Each entry is one write, so that a
// killed process leaves a torn last line at worst; each process has a file of
// its own, so that nothing follows a torn line.
type appliedFile struct{ file *os.File }

func newAppliedFile(dir string) (*appliedFile, error) {
	for n := 1; ; n++ {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("applied.%d.jsonl", n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if !os.IsExist(err) {
			return &appliedFile{f}, err
		}
	}
}

// write is called by the goroutines of several groups; the kernel appends one
// write after the other.
func (a *appliedFile) write(group uint32, l *raft.Log) {
	b, err := json.Marshal(check.Entry{Group: group, Index: l.Index, Term: l.Term, Data: l.Data})
	if err == nil {
		_, err = a.file.Write(append(b, '\n'))
	}
	if err != nil {
		// A log with a hole would convict the node of what it did not do.
		panic(fmt.Sprintf("keep what was applied: %v", err))
	}
}
