package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// mmapSize of address space is reserved for each log, so that a file which
	// grows within it is never mapped anew: remapping waits for all readers and
	// stops new ones. It costs no memory. A log within its byte budget stays
	// below this; from 64 MiB to 1 GiB no difference could be measured.
	mmapSize = 256 << 20

	// lockWait is how long to wait for another process to let go of the file.
	lockWait = time.Second
)

// boltLog is a log in one bbolt file.
type boltLog struct {
	*raftboltdb.BoltStore
	sizes sizeRing // of its entries, as it was opened
}

// openBolt opens the log file at path, or makes it; its folder must exist.
func openBolt(path string) (_ *boltLog, err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt's way to say that a page is damaged
			err = openError(path, fmt.Errorf("the file is damaged: %v", p))
		}
	}()
	sizes, err := readSizes(path)
	if err != nil {
		return nil, openError(path, err)
	}
	_, statErr := os.Stat(path)
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions()})
	if err != nil {
		return nil, openError(path, err)
	}
	if errors.Is(statErr, os.ErrNotExist) {
		// bbolt syncs the file but not its name: without this a power cut could
		// take away the whole file, and with it a vote that was given.
		if err := syncFolder(filepath.Dir(path)); err != nil {
			bolt.Close()
			return nil, openError(path, err)
		}
	}
	return &boltLog{bolt, sizes}, nil
}

// boltOptions: the list of free pages is not written with each commit but
// found anew at open, which halves the writes of a commit; and it is a map,
// since a log's free pages become many.
func boltOptions() *bbolt.Options {
	o := &bbolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
	if strconv.IntSize == 64 {
		o.InitialMmapSize = mmapSize
	}
	return o
}

func openError(path string, err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("the log %s is in use by another process", path)
	}
	return fmt.Errorf("open the log %s: %w", path, err)
}

// readSizes returns the sizes of the newest entries in the file at path, none
// if it is not there. It reads the tree's leaves but not the entries.
func readSizes(path string) (sizeRing, error) {
	var ring sizeRing
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return ring, nil
	} else if err != nil {
		return ring, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return ring, err
	}
	defer db.Close()
	// Only now: nobody else writes to the file while this process has its lock.
	if err := checkBolt(path); err != nil {
		return ring, fmt.Errorf("the file is damaged: %w", err)
	}
	return ring, db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("logs")) // raft-boltdb's
		if bucket == nil {
			return nil
		}
		var newest []sizedEntry
		c := bucket.Cursor()
		for k, v := c.Last(); k != nil && len(newest) < maxSizes; k, v = c.Prev() {
			newest = append(newest, sizedEntry{beUint64(k), len(v)})
		}
		for i := len(newest) - 1; i >= 0; i-- {
			ring.append(newest[i].index, newest[i].size)
		}
		return nil
	})
}

type sizedEntry struct {
	index uint64
	size  int
}

// readSizesOf fills ring with the sizes of the newest entries of any backend,
// which it has to read for that.
func readSizesOf(b LogBackend, ring *sizeRing) error {
	first, err := b.FirstIndex()
	if err != nil {
		return err
	}
	last, err := b.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	if last-first >= maxSizes {
		first = last - maxSizes + 1
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := b.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		ring.append(i, entrySize(&l))
	}
	return nil
}
