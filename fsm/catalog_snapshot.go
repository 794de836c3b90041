package fsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/snapshot"
)

// A snapshot of the catalog, content version 1, in package snapshot's format,
// for shard 0. The header's index is that of the last entry applied. The first
// record, of type 1, is a catalogHead as JSON; then each policy is a record of
// type 2, an api.Policy as JSON, in the order of names. Equal catalogs write
// equal bytes.
const (
	catalogVersion = 1

	catalogHeadRecord   = 1
	catalogPolicyRecord = 2
)

type catalogHead struct {
	ClusterID string      `json:"cluster_id"`
	Revision  uint64      `json:"revision"`
	Index     uint64      `json:"index"` // of the last change
	SlotMap   api.SlotMap `json:"slot_map"`
	Removed   []string    `json:"removed,omitempty"` // oldest first
}

// CatalogCapture is the catalog as of one entry. Apply goes on meanwhile.
type CatalogCapture struct {
	view        *CatalogView
	last, index uint64
	broken      error
}

// Capture returns the current state.
func (c *Catalog) Capture() *CatalogCapture {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &CatalogCapture{c.view.Load(), c.last, c.index, c.broken}
}

// WriteTo writes the state as a snapshot, and returns the size of what it wrote.
func (c *CatalogCapture) WriteTo(out io.Writer) (int64, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	w, err := snapshot.NewWriter(out, snapshot.Header{
		Kind: snapshot.KindCatalog, Version: catalogVersion, Index: c.index, TimeNS: c.last,
	})
	if err != nil {
		return 0, err
	}
	record := func(typ uint8, v any) {
		b, jsonErr := json.Marshal(v)
		err = errors.Join(err, jsonErr)
		_ = w.Record(typ, b) // its error sticks; Close returns it
	}
	v := c.view
	record(catalogHeadRecord, catalogHead{v.ClusterID, v.Revision, v.Index, v.SlotMap, v.Removed})
	for _, p := range v.List() {
		record(catalogPolicyRecord, p)
	}
	if err != nil {
		return w.Size(), err
	}
	err = w.Close()
	return w.Size(), err
}

// Release lets go of the state. The capture must not be used afterwards.
func (c *CatalogCapture) Release() { c.view = nil }

// Restore replaces the state by a snapshot's, as a whole or, on an error, not
// at all.
func (c *Catalog) Restore(r io.Reader) error {
	h, v, err := readCatalog(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Store(v)
	c.last, c.index, c.broken = h.TimeNS, h.Index, nil
	return nil
}

func readCatalog(r io.Reader) (h snapshot.Header, v *CatalogView, err error) {
	in, err := snapshot.NewReader(r)
	if err != nil {
		return h, nil, err
	}
	h = in.Header()
	if err := h.Check(snapshot.Header{Kind: snapshot.KindCatalog, Version: catalogVersion}); err != nil {
		return h, nil, err
	}
	last := "" // name of the policy before
	for {
		typ, payload, err := in.Next()
		switch {
		case err == io.EOF && v != nil:
			return h, v, nil
		case err == io.EOF:
			return h, nil, errors.New("fsm: the catalog's snapshot is empty")
		case err != nil:
			return h, nil, err
		case typ == catalogHeadRecord && v == nil:
			v, err = readCatalogHead(payload, h.Index)
		case typ == catalogPolicyRecord && v != nil:
			last, err = v.readPolicy(payload, last)
		default:
			err = fmt.Errorf("a record of type %d is out of place", typ)
		}
		if err != nil {
			return h, nil, fmt.Errorf("fsm: the catalog's snapshot: %w", err)
		}
	}
}

func readCatalogHead(payload []byte, index uint64) (*CatalogView, error) {
	var head catalogHead
	if err := strictJSON(payload, &head); err != nil {
		return nil, err
	}
	if head.Index > index {
		return nil, fmt.Errorf("it changed at index %d, after its end at %d", head.Index, index)
	}
	v := &CatalogView{
		ClusterID: head.ClusterID, Revision: head.Revision, Index: head.Index,
		SlotMap: head.SlotMap, Policies: map[string]*CatalogPolicy{},
	}
	for _, id := range head.Removed {
		if res, err := v.remove(id); err != nil || res.Unchanged || len(head.Removed) > maxRemoved {
			return nil, fmt.Errorf("the removed node %q does not belong among %d", id, len(head.Removed))
		}
	}
	if v.SlotMap.Version != 0 {
		var err error
		if v.routes, err = v.SlotMap.Table(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// readPolicy adds a policy, whose name must come after that of the one before.
func (v *CatalogView) readPolicy(payload []byte, before string) (name string, err error) {
	var doc api.Policy
	if err := strictJSON(payload, &doc); err != nil {
		return "", err
	}
	if err := policy.Supported(&doc); err != nil {
		return "", err
	}
	if doc.Name <= before || doc.Revision == 0 || doc.Revision > v.Revision {
		return "", fmt.Errorf("policy %s at revision %d does not belong after %q at revision %d", doc.Name, doc.Revision, before, v.Revision)
	}
	v.Policies[doc.Name] = &CatalogPolicy{Doc: doc, Set: policy.Resolve(&doc)}
	return doc.Name, nil
}
