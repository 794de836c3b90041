package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// What is damaged is set aside, never deleted: it is moved to
//
//	damaged/20261125T030405.678Z/   a folder each time, with the same paths below
//
// where `rlstore recover` finds it should no healthy copy be left, and from where
// an operator may delete it once the cluster is well. The entries of one group, out
// of a file that is whole and holds those of others, are copied there to
// groups/003/log.db, a log file with that group alone.
const (
	asideFolder = "damaged"
	asideStamp  = "20060102T150405.000Z"
)

// aside is where one start of a node sets damaged files aside.
type aside struct {
	root string // the data folder
	mu   sync.Mutex
	dir  string // made at the first use
}

// folder returns the place, which it makes if need be.
func (a *aside) folder() (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dir != "" {
		return a.dir, nil
	}
	dir := filepath.Join(a.root, asideFolder, time.Now().UTC().Format(asideStamp))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	a.dir = dir
	return dir, errors.Join(syncFolder(filepath.Dir(dir)), syncFolder(a.root))
}

// move takes a file or folder below root out of the way, if it is there.
func (a *aside) move(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	to, err := a.place(path)
	if err != nil {
		return err
	}
	if err := os.Rename(path, to); err != nil {
		return err
	}
	return errors.Join(syncFolder(filepath.Dir(to)), syncFolder(filepath.Dir(path)))
}

// place is where a path below root goes, which is free, in a folder that is there.
func (a *aside) place(path string) (string, error) {
	rel, err := filepath.Rel(a.root, path)
	if err != nil {
		return "", err
	}
	dir, err := a.folder()
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, rel)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return "", err
	}
	for i := 2; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return to, nil
		} else if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s.%d", filepath.Join(dir, rel), i)
	}
}

// SetAside implements Disk.
func (d *files) SetAside(groups []uint32) error {
	for _, id := range groups {
		if err := d.aside.move(d.group(id)); err != nil {
			return fmt.Errorf("set the files of group %d aside: %w", id, err)
		}
	}
	f, err := d.open()
	if errors.Is(err, ErrDamaged) {
		if err := d.aside.move(d.logFile()); err != nil {
			return fmt.Errorf("set the log aside: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, id := range groups {
		if err := d.exportLog(f, id); err != nil {
			return fmt.Errorf("set the log of group %d aside: %w", id, err)
		}
	}
	return nil
}

// exportLog moves the entries of a group out of the file that others share. Its
// votes are whole, and stay.
func (d *files) exportLog(f *boltFile, id uint32) error {
	if !f.has(id) {
		return nil
	}
	g, err := f.group(id)
	if err != nil {
		return err
	}
	first, err := g.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := g.LastIndex()
	if err != nil {
		return err
	}
	path, err := d.aside.place(filepath.Join(d.group(id), "log.db"))
	if err != nil {
		return err
	}
	copied, err := openOnlyLog(path+".tmp", boltOptions())
	if err != nil {
		return err
	}
	err = copyLog(copied, g, first, last)
	if err := errors.Join(err, copied.Close()); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(path+".tmp", path), syncFolder(filepath.Dir(path))); err != nil {
		return err
	}
	for ; first <= last; first += deletePiece {
		if err := g.DeleteRange(first, min(last, first+deletePiece-1)); err != nil {
			return err
		}
	}
	g.sizes = sizeRing{}
	return nil
}

// copyLog appends the entries from first to last of one log to another.
func copyLog(to, from raft.LogStore, first, last uint64) error {
	const some = 64
	batch := make([]*raft.Log, 0, some)
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := from.GetLog(i, &l); err != nil {
			return err
		}
		if batch = append(batch, &l); len(batch) == some || i == last {
			if err := to.StoreLogs(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}
