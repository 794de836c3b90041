package raftnode

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
)

// dataFormat is the version of the data folder's layout; see files.
const dataFormat = 2

// identity is node.json: who this node is, and which cluster it belongs to.
type identity struct {
	Format    int    `json:"format"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id,omitempty"` // hex; empty before the node belongs to a cluster
	Shards    int    `json:"shards,omitempty"`
	// LogStore is what the logs were begun with; empty is LogStoreBolt.
	LogStore string   `json:"log_store,omitempty"`
	Members  []Member `json:"members,omitempty"` // address book, for the next start
	// Bootstrap is the plan that this node has accepted; see bootstrap.go.
	Bootstrap *plan `json:"bootstrap,omitempty"`
	// Complete says that every group has its first configuration on disk: from
	// then on, a group without a log is a loss and not a beginning.
	Complete bool `json:"complete,omitempty"`
	// Lost are the groups whose files were damaged here and set aside, until this
	// node has all of them again; see repair.go.
	Lost []loss `json:"lost,omitempty"`
	// Removed says that the cluster has removed this node: it must not start again.
	Removed bool `json:"removed,omitempty"`
	// Sum is the CRC-32C, in hex, of the same document without it.
	Sum string `json:"crc32c,omitempty"`
}

// sum is what id.Sum has to be.
func (id identity) sum() string {
	id.Sum = ""
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // strings and numbers
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
}

// isOnce tells whether the document has the sum of one of that format: then the
// number of the format is what is damaged.
func (id identity) isOnce(format int) bool {
	id.Format = format
	return id.Sum == id.sum()
}

// said is the part that nodes tell each other.
func (id *identity) said() *Identity {
	s := &Identity{NodeID: id.NodeID}
	if b, err := hex.DecodeString(id.ClusterID); err == nil {
		copy(s.ClusterID[:], b)
	}
	return s
}

// readIdentity reads who the owner of d is; path names d in errors.
func readIdentity(d Disk, path string) (id identity, err error) {
	b, err := d.ReadIdentity()
	if err != nil {
		return id, err
	}
	if b == nil {
		return identity{Format: dataFormat}, nil
	}
	id, err = decodeIdentity(b)
	var format formatError
	switch {
	case errors.As(err, &format):
		return id, fmt.Errorf("the data folder %s has format %d, and this version reads format %d only; use the rlstore version that wrote it", path, format, dataFormat)
	case err != nil:
		return id, fmt.Errorf("%s is damaged: %w; restore it, or start with an empty folder under a new --node-id", filepath.Join(path, "node.json"), err)
	}
	return id, nil
}

// formatError is the version of a layout that this build does not know.
type formatError int

func (f formatError) Error() string { return fmt.Sprintf("format %d", int(f)) }

// decodeIdentity reads node.json. What it accepts can be worked with: an
// identity that is damaged must stop the start, and not the node later on.
func decodeIdentity(b []byte) (id identity, err error) {
	if err := json.Unmarshal(b, &id); err != nil {
		return id, err
	}
	switch {
	case id.Format != dataFormat && !id.isOnce(dataFormat):
		return id, formatError(id.Format)
	case id.Sum != id.sum():
		return id, errWrongSum
	case id.NodeID == "" || len(id.NodeID) > maxNodeID:
		return id, fmt.Errorf("%.40q is not a node's id", id.NodeID)
	case id.Complete && id.ClusterID == "":
		return id, errors.New("it has groups, but no cluster")
	}
	if id.ClusterID != "" {
		if err := checkCluster(id.ClusterID, id.Shards, id.Members); err != nil {
			return id, err
		}
	}
	for _, g := range id.Lost {
		if int64(g.Group) > int64(id.Shards) {
			return id, fmt.Errorf("it has lost group %d of %d", g.Group, id.Shards)
		}
	}
	if id.Bootstrap != nil {
		if err := id.Bootstrap.check(); err != nil {
			return id, fmt.Errorf("the accepted start of a cluster is wrong: %w", err)
		}
	}
	return id, nil
}

// saveIdentity replaces node.json.
func saveIdentity(d Disk, id identity) error {
	id.Sum = id.sum()
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := d.WriteIdentity(append(b, '\n')); err != nil {
		return fmt.Errorf("write node.json: %w", err)
	}
	return nil
}
