package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
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
	// SetAside takes the entries and the snapshots of these groups out of the way,
	// without destroying them, so that the groups are as new here. Votes that are
	// whole it keeps. It is called before their logs are opened, and may be repeated.
	SetAside(groups []uint32) error
	// HasLog tells whether a group has a log here. As of every method, an error has
	// [ErrDamaged] in its chain if what is stored is not as it was written; of this
	// one, that is so for all groups.
	HasLog(group uint32) (bool, error)
	// OpenLog opens the log and votes of a group, or makes them.
	OpenLog(group uint32) (LogBackend, error)
	// OpenSnapshots opens the snapshots of a group.
	OpenSnapshots(group uint32, log hclog.Logger) (Snapshots, error)
	Close() error
}

// Snapshots are those of one group.
type Snapshots interface {
	raft.SnapshotStore
	// Mend sets aside what is damaged, down to the newest snapshot that is whole, if the
	// group loses nothing by that: its log, whose first and last index are given (0 if it
	// is empty), has to go on from there, and to reach beyond what was set aside. Else it
	// changes nothing and fails, with [ErrDamaged]. It comes before everything else.
	Mend(first, last uint64) error
	// SetAside counts the damaged snapshots that were, since they were opened.
	SetAside() uint64
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
//	node.spare.json            the same, written before it
//	logs.db                    logs and votes of all groups
//	groups/000/snapshots/      of the catalog
//	groups/000/wal/            entries of the catalog, with LogStoreWAL
//	groups/001/ …              of each shard
//	damaged/                   what was not as it was written; see aside
type files struct {
	path    string
	options FilesOptions
	lock    *os.File
	aside   aside

	mu   sync.Mutex // guards logs
	logs *boltFile  // nil before it is opened
}

// FilesOptions are what may be different about the files of a node.
type FilesOptions struct {
	// LogStore is LogStoreBolt or LogStoreWAL; "" is LogStoreBolt.
	LogStore string
	// OnCommit hears of each transaction of entries that went to the disk, from
	// the goroutine that waits for it. Nil is nobody.
	OnCommit func(entries, bytes int, d time.Duration)
	// Logger hears of what was repaired; nil is slog's default.
	Logger *slog.Logger
}

// OpenFiles creates the folder if need be, and locks it.
func OpenFiles(path string, o FilesOptions) (Disk, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	lock, err := lockFolder(path)
	switch {
	case errors.Is(err, errInUse):
		return nil, fmt.Errorf("the data folder %s is in use by another process; give each node a --data-dir of its own", path)
	case err != nil:
		return nil, err
	case exists(path, recoveryFolder):
		lock.Close()
		return nil, fmt.Errorf("a recovery of the data folder %s was cut off; 'rlstore recover --data-dir %s --yes' goes on with it", path, path)
	}
	return &files{path: path, options: o, lock: lock, aside: aside{root: path}}, nil
}

func (d *files) identityFile() string { return filepath.Join(d.path, "node.json") }

func (d *files) group(id uint32) string {
	return filepath.Join(d.path, "groups", fmt.Sprintf("%03d", id))
}

func (d *files) logFile() string { return filepath.Join(d.path, "logs.db") }

func (d *files) spareFile() string { return filepath.Join(d.path, "node.spare.json") }

// ReadIdentity implements Disk. If node.json is damaged or gone, and its spare is
// whole, that takes its place: it is as new, or newer by a write that never returned.
func (d *files) ReadIdentity() ([]byte, error) {
	b, err := os.ReadFile(d.identityFile())
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return nil, fmt.Errorf("read the data folder: %w", err)
	}
	if !missing {
		_, err := decodeIdentity(b)
		var format formatError
		if err == nil || errors.As(err, &format) {
			return b, nil
		}
	}
	spare, err := os.ReadFile(d.spareFile())
	if err == nil {
		_, err = decodeIdentity(spare)
	}
	if err == nil {
		if err := errors.Join(d.aside.move(d.identityFile()), replaceFile(d.identityFile(), spare)); err != nil {
			return nil, fmt.Errorf("put the spare in the place of node.json: %w", err)
		}
		d.options.Logger.Error("node.json was damaged or missing, and its spare has taken its place; nothing is lost", "file", d.identityFile())
		return spare, nil
	}
	if missing {
		_, errLogs := os.Stat(d.logFile())
		_, errGroups := os.Stat(filepath.Join(d.path, "groups"))
		if errLogs == nil || errGroups == nil {
			return nil, fmt.Errorf("the data folder %s holds logs but no node.json; restore that file, or start with an empty folder under a new --node-id", d.path)
		}
		return nil, nil
	}
	return b, nil
}

// WriteIdentity implements Disk. The spare comes first, so that it is never older.
func (d *files) WriteIdentity(b []byte) error {
	if err := replaceFile(d.spareFile(), b); err != nil {
		return err
	}
	return replaceFile(d.identityFile(), b)
}

// replaceFile writes a file as a whole, or not at all.
func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	return err
}

// The ways to keep the entries of the logs. Votes are always in bbolt.
const (
	LogStoreBolt = "bolt" // all groups in one bbolt file
	LogStoreWAL  = "wal"  // each group in segments of raft-wal
)

// open opens the file of the logs, or makes it, if that has not been done yet.
func (d *files) open() (*boltFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.logs == nil {
		f, err := openBolt(d.logFile())
		if err != nil {
			return nil, err
		}
		f.onCommit = d.options.OnCommit
		d.logs = f
	}
	return d.logs, nil
}

// HasLog implements Disk.
func (d *files) HasLog(group uint32) (bool, error) {
	if _, err := os.Stat(d.logFile()); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	f, err := d.open()
	if err != nil {
		return false, err
	}
	return f.has(group), nil
}

// OpenLog implements Disk.
func (d *files) OpenLog(group uint32) (LogBackend, error) {
	f, err := d.open()
	if err != nil {
		return nil, err
	}
	g, err := f.group(group)
	if err != nil || d.options.LogStore != LogStoreWAL {
		return g, err
	}
	dir := filepath.Join(d.group(group), "wal")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the log: %w", err)
	}
	if err := errors.Join(syncFolder(d.group(group)), syncFolder(filepath.Dir(d.group(group))), syncFolder(d.path)); err != nil {
		return nil, fmt.Errorf("create the folder of the log: %w", err)
	}
	return openWAL(dir, g)
}

// OpenSnapshots implements Disk.
func (d *files) OpenSnapshots(group uint32, log hclog.Logger) (Snapshots, error) {
	store, err := raft.NewFileSnapshotStoreWithLogger(d.group(group), snapshotsKept, log)
	if err != nil {
		return nil, err
	}
	s := &summedSnapshots{SnapshotStore: store, path: filepath.Join(d.group(group), "snapshots"), aside: &d.aside, log: log}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("remove what a crash left of a snapshot: %w", err)
	}
	return s, nil
}

// Close implements Disk.
func (d *files) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.logs != nil {
		err = d.logs.Close()
	}
	return errors.Join(err, d.lock.Close())
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
