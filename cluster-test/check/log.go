package check

import (
	"encoding/json"
	"fmt"
	"io"
)

// Entry is one applied command of a group's log.
type Entry struct {
	Group uint32 `json:"group"` // 0 is the catalog, else the shard
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	Data  []byte `json:"data"` // the entry as package fsm documents it
	// Run counts the processes of the node from 1, where the recorder knows.
	// Within one, indexes ascend; at 0 an index that goes back is a restart.
	Run int `json:"run,omitempty"`
}

// Replica is what one node applied, in the order in which it did. A node that
// restarts applies the entries behind its snapshot again: they stand here again.
type Replica struct {
	Node    string
	Entries []Entry
}

// ReadReplica reads what a node has applied: an [Entry] as JSON a line. The last
// line may be torn, as a killed process leaves it.
func ReadReplica(node string, r io.Reader) (*Replica, error) {
	rep := &Replica{Node: node}
	dec := json.NewDecoder(r)
	for {
		var e Entry
		switch err := dec.Decode(&e); {
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			return rep, nil
		case err != nil:
			return nil, fmt.Errorf("read what node %s applied: entry %d: %w", node, len(rep.Entries), err)
		}
		rep.Entries = append(rep.Entries, e)
	}
}
