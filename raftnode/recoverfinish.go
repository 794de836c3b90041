package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// finisher puts recovered files in the places of those that a data folder had. Each
// step can be repeated, so it does not matter where a crash comes.
type finisher struct {
	root string
	step func(string) error
}

// exists tells whether something is there.
func exists(path ...string) bool {
	_, err := os.Lstat(filepath.Join(path...))
	return err == nil
}

// pending tells whether a recovery of the folder is decided, and not finished.
func (f *finisher) pending() bool { return exists(f.root, recoveryFolder) }

// replaced are the names that go to their places, node.json last: while its new one
// waits, others may.
var replaced = []string{"groups", "logs.db", "node.spare.json", "node.json"}

// finish carries out a recovery that is decided. It returns where the old files are.
func (f *finisher) finish() (aside string, err error) {
	defer func() {
		if err != nil && f.pending() {
			err = fmt.Errorf("put the new files in their places: %w; the same command with --yes goes on, and no node starts from the folder before", err)
		}
	}()
	if err := syncFolder(f.root); err != nil { // that it is decided
		return "", err
	}
	recovery := filepath.Join(f.root, recoveryFolder)
	old, fresh := filepath.Join(recovery, "old"), filepath.Join(recovery, "new")
	if exists(fresh, "node.json") {
		// What was set aside before goes with what it is of.
		if err := f.move(f.root, old, asideFolder); err != nil {
			return "", err
		}
		for _, name := range replaced {
			if !exists(fresh, name) {
				continue // it is in its place
			}
			if err := f.move(f.root, old, name); err != nil {
				return "", err
			}
			if err := f.move(fresh, f.root, name); err != nil {
				return "", err
			}
		}
	}
	if exists(old) {
		aside = filepath.Join(f.root, asideFolder, time.Now().UTC().Format(asideStamp))
		if err := f.step("set the old files aside"); err != nil {
			return "", err
		}
		err := errors.Join(os.MkdirAll(filepath.Dir(aside), 0o700), os.Rename(old, aside))
		if err := errors.Join(err, syncFolder(filepath.Dir(aside)), syncFolder(recovery), syncFolder(f.root)); err != nil {
			return "", err
		}
	}
	if err := f.step("end"); err != nil {
		return "", err
	}
	// What is left of it says nothing under this name.
	staging := filepath.Join(f.root, recoveryStaging)
	if err := errors.Join(os.RemoveAll(staging), os.Rename(recovery, staging), syncFolder(f.root)); err != nil {
		return "", err
	}
	_ = os.RemoveAll(staging) // all is done, whatever stays of it
	return aside, nil
}

// move moves a name from one folder to another, if it is there.
func (f *finisher) move(from, to, name string) error {
	if !exists(from, name) {
		return nil
	}
	if err := f.step("move " + name); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
		return err
	}
	return errors.Join(syncFolder(to), syncFolder(from))
}

// resume finishes what was cut off, or tells of it.
func (f *finisher) resume(write bool) (*Recovery, error) {
	told := &Recovery{DataDir: f.root}
	b, err := os.ReadFile(filepath.Join(f.root, recoveryFolder, recoveryReport))
	if err == nil {
		err = json.Unmarshal(b, told)
	}
	if err != nil {
		return nil, fmt.Errorf("read what an earlier recovery left: %w", err)
	}
	told.CutOff = true
	if write {
		told.Aside, err = f.finish()
	}
	return told, err
}

func marshalReport(r *Recovery) ([]byte, error) { return json.MarshalIndent(r, "", "  ") }

// lockFile is held by the process that uses a data folder.
const lockFile = "LOCK"

// lockFolder takes the lock of a data folder, which may have to be made. It is held
// until it is closed.
func lockFolder(path string) (*os.File, error) {
	return lockAs(path, os.O_CREATE|os.O_RDWR, unix.LOCK_EX)
}

func lockAs(path string, flags, how int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockFile), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = errInUse
	case err != nil:
		err = fmt.Errorf("lock the data folder: flock %s: %w", lock.Name(), err)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

var errInUse = errors.New("in use by another process")

// lockStopped takes the lock of a folder whose node must be stopped. Who only reads
// shares it with others that do, also on a disk that can only be read, and makes none:
// nobody holds one then either.
func lockStopped(path string, write bool) (*os.File, error) {
	take := lockFolder
	if !write {
		take = func(path string) (*os.File, error) { return lockAs(path, os.O_RDONLY, unix.LOCK_SH) }
	}
	lock, err := take(path)
	switch {
	case errors.Is(err, errInUse):
		return nil, fmt.Errorf("the data folder %s is in use: its node runs; stop it first", path)
	case errors.Is(err, fs.ErrNotExist) && !write:
		return nil, nil
	}
	return lock, err
}

// ownFolder refuses to write files that the node could not use, since another user's.
func ownFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("the data folder %s belongs to user %d, and this is user %d, whose files the node may not use: run it as the user that the node runs as", path, stat.Uid, os.Geteuid())
	}
	return nil
}
