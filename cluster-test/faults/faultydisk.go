package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/raftnode"
)

// diskFault is what a node's disk does to writes; the control folder's file
// holds it as one byte, which each write reads.
type diskFault byte

const (
	diskHealthy diskFault = iota
	diskRefuses           // an error, and nothing is written
	diskLies              // an error, though it is written
	diskFull              // ENOSPC, and nothing is written
	diskSlow              // each write takes slowWrite more
	diskStuck             // no write ends before the fault does
)

// slowWrite is far above a write's usual time and far below an election's.
const slowWrite = 60 * time.Millisecond

var errDisk = errors.New("input/output error of a disk under test")

// faultyDisk is a node's disk with the faults that the file asks for.
type faultyDisk struct {
	raftnode.Disk
	fault *os.File
}

func (d *faultyDisk) now() diskFault {
	var b [1]byte
	if _, err := d.fault.ReadAt(b[:], 0); err != nil {
		panic(err)
	}
	return diskFault(b[0])
}

// write does f under the fault of the moment.
func (d *faultyDisk) write(f func() error) error {
	switch d.now() {
	case diskRefuses:
		return errDisk
	case diskLies:
		return errors.Join(errDisk, f())
	case diskFull:
		return fmt.Errorf("write: %w", syscall.ENOSPC)
	case diskSlow:
		<-time.After(slowWrite)
	case diskStuck:
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			if d.now() != diskStuck {
				tick.Stop()
				break
			}
		}
	}
	return f()
}

// WriteIdentity implements raftnode.Disk.
func (d *faultyDisk) WriteIdentity(b []byte) error {
	return d.write(func() error { return d.Disk.WriteIdentity(b) })
}

// OpenLog implements raftnode.Disk.
func (d *faultyDisk) OpenLog(group uint32) (raftnode.LogBackend, error) {
	b, err := d.Disk.OpenLog(group)
	if err != nil {
		return nil, err
	}
	return &faultyLog{b, d}, nil
}

// OpenSnapshots implements raftnode.Disk.
func (d *faultyDisk) OpenSnapshots(group uint32, log hclog.Logger) (raftnode.Snapshots, error) {
	s, err := d.Disk.OpenSnapshots(group, log)
	if err != nil {
		return nil, err
	}
	return &faultySnapshots{s, d}, nil
}

// faultyLog is a log and its votes on a faulty disk.
type faultyLog struct {
	raftnode.LogBackend
	disk *faultyDisk
}

func (l *faultyLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }
func (l *faultyLog) StoreLogs(e []*raft.Log) error {
	return l.disk.write(func() error { return l.LogBackend.StoreLogs(e) })
}
func (l *faultyLog) DeleteRange(first, last uint64) error {
	return l.disk.write(func() error { return l.LogBackend.DeleteRange(first, last) })
}
func (l *faultyLog) Set(key, val []byte) error {
	return l.disk.write(func() error { return l.LogBackend.Set(key, val) })
}
func (l *faultyLog) SetUint64(key []byte, val uint64) error {
	return l.disk.write(func() error { return l.LogBackend.SetUint64(key, val) })
}

// faultySnapshots is the snapshots of a group on a faulty disk.
type faultySnapshots struct {
	raftnode.Snapshots
	disk *faultyDisk
}

func (s *faultySnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.Snapshots.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	return &faultySink{sink, s.disk}, nil
}

type faultySink struct {
	raft.SnapshotSink
	disk *faultyDisk
}

func (s *faultySink) Write(b []byte) (n int, err error) {
	err = s.disk.write(func() error { n, err = s.SnapshotSink.Write(b); return err })
	return n, err
}

func (s *faultySink) Close() error { return s.disk.write(s.SnapshotSink.Close) }
