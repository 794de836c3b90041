package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// Disk is where a node keeps what it must not lose. A node owns its Disk, and
// closes it last.
//
// [OpenFiles] makes the one that every user gets. A test puts its own in the
// place, or around it, for disks that are slow, full, or forget.
type Disk interface {
	// ReadIdentity returns what was last written with WriteIdentity, nil if
	// nothing was.
	ReadIdentity() ([]byte, error)
	// WriteIdentity replaces it: the old one or the new one survives a crash,
	// and the new one once it has returned.
	WriteIdentity([]byte) error
	// HasLog tells whether a group has a log here.
	HasLog(group uint32) (bool, error)
	// OpenLog opens the log and votes of a group, or makes them.
	OpenLog(group uint32) (LogBackend, error)
	// OpenSnapshots opens the snapshots of a group.
	OpenSnapshots(group uint32, log hclog.Logger) (raft.SnapshotStore, error)
	Close() error
}

// LogBackend is what a [LogStore] rests on. What was written is on disk once
// the call has returned.
type LogBackend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// files is a Disk in a folder of its own:
//
//	LOCK                       held by the process that uses the folder
//	node.json                  identity
//	groups/000/log.db          log and votes of the catalog
//	groups/000/snapshots/
//	groups/001/ …              the same of each shard
type files struct {
	path string
	lock *os.File
}

// OpenFiles creates the folder if need be, and locks it.
func OpenFiles(path string) (Disk, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("the data folder %s is in use by another process; give each node a --data-dir of its own", path)
	}
	return &files{path, lock}, nil
}

func (d *files) identityFile() string { return filepath.Join(d.path, "node.json") }

func (d *files) group(id uint32) string {
	return filepath.Join(d.path, "groups", fmt.Sprintf("%03d", id))
}

func (d *files) log(group uint32) string { return filepath.Join(d.group(group), "log.db") }

// ReadIdentity implements Disk.
func (d *files) ReadIdentity() ([]byte, error) {
	b, err := os.ReadFile(d.identityFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Join(d.path, "groups")); err == nil {
			return nil, fmt.Errorf("the data folder %s holds logs but no node.json; restore that file, or start with an empty folder under a new --node-id", d.path)
		}
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the data folder: %w", err)
	}
	return b, nil
}

// WriteIdentity implements Disk.
func (d *files) WriteIdentity(b []byte) error {
	tmp := d.identityFile() + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, d.identityFile())
	}
	if err == nil {
		err = syncFolder(d.path)
	}
	return err
}

// HasLog implements Disk.
func (d *files) HasLog(group uint32) (bool, error) {
	_, err := os.Stat(d.log(group))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// OpenLog implements Disk.
func (d *files) OpenLog(group uint32) (LogBackend, error) {
	if err := os.MkdirAll(d.group(group), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the log: %w", err)
	}
	return openBolt(d.log(group))
}

// OpenSnapshots implements Disk.
func (d *files) OpenSnapshots(group uint32, log hclog.Logger) (raft.SnapshotStore, error) {
	store, err := raft.NewFileSnapshotStoreWithLogger(d.group(group), snapshotsKept, log)
	if err != nil {
		return nil, err
	}
	return &summedSnapshots{store, filepath.Join(d.group(group), "snapshots")}, nil
}

// Close implements Disk.
func (d *files) Close() error { return d.lock.Close() }

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
