package raftnode

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dataFormat is the version of the data folder's layout:
//
//	LOCK                       held by the process that uses the folder
//	node.json                  identity, below
//	groups/000/log.db          log and votes of the catalog
//	groups/000/snapshots/
//	groups/001/ …              the same of each shard
const dataFormat = 1

// identity is node.json: who this node is, and which cluster it belongs to.
type identity struct {
	Format    int      `json:"format"`
	NodeID    string   `json:"node_id"`
	ClusterID string   `json:"cluster_id,omitempty"` // hex; empty before the node belongs to a cluster
	Shards    int      `json:"shards,omitempty"`
	Members   []Member `json:"members,omitempty"` // address book, for the next start
	// Bootstrap is the plan that this node has accepted; see bootstrap.go.
	Bootstrap *plan `json:"bootstrap,omitempty"`
	// Complete says that every group has its first configuration on disk: from
	// then on, a group without a log is a loss and not a beginning.
	Complete bool `json:"complete,omitempty"`
}

// said is the part that nodes tell each other.
func (id *identity) said() *Identity {
	s := &Identity{NodeID: id.NodeID}
	if b, err := hex.DecodeString(id.ClusterID); err == nil {
		copy(s.ClusterID[:], b)
	}
	return s
}

// dataDir is an open, locked data folder.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir creates the folder if need be, locks it, and reads its identity.
func openDataDir(path string) (*dataDir, identity, error) {
	var id identity
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, id, fmt.Errorf("create the data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, id, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, id, fmt.Errorf("the data folder %s is in use by another process; give each node a --data-dir of its own", path)
	}
	d := &dataDir{path, lock}
	b, err := os.ReadFile(d.identityFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Join(path, "groups")); err == nil {
			d.close()
			return nil, id, fmt.Errorf("the data folder %s holds logs but no node.json; restore that file, or start with an empty folder under a new --node-id", path)
		}
		return d, identity{Format: dataFormat}, nil
	case err != nil:
		d.close()
		return nil, id, fmt.Errorf("read the data folder: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		d.close()
		return nil, id, fmt.Errorf("%s is damaged: %w; restore it, or start with an empty folder under a new --node-id", d.identityFile(), err)
	}
	if id.Format != dataFormat {
		d.close()
		return nil, id, fmt.Errorf("the data folder %s has format %d, and this version reads format %d only; use the rlstore version that wrote it", path, id.Format, dataFormat)
	}
	return d, id, nil
}

func (d *dataDir) identityFile() string { return filepath.Join(d.path, "node.json") }

func (d *dataDir) group(id uint32) string {
	return filepath.Join(d.path, "groups", fmt.Sprintf("%03d", id))
}

// save replaces node.json: the old one or the new one survives a crash.
func (d *dataDir) save(id identity) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	tmp := d.identityFile() + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write node.json: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, d.identityFile())
	}
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("write node.json: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *dataDir) close() { d.lock.Close() }
