package fsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/snapshot"
)

// A snapshot of the catalog, content version 1, in package snapshot's format,
// for shard 0. The header's index is that of the last entry applied. The first
// record, of type 1, is a catalogHead as JSON; then each policy is a record of
// type 2, an api.Policy as JSON, in the order of names. Behind each come its
// history, records of type 3, each an api.PolicyRevision as JSON, first the
// documents and then the changes of overrides, oldest first; and its overrides,
// records of type 4, each a storedOverride as JSON, in the order of their keys. A
// policy without a history was written before there was one. Equal catalogs
// write equal bytes.
const (
	catalogVersion = 1

	catalogHeadRecord   = 1
	catalogPolicyRecord = 2

	catalogRevisionRecord = 3
	catalogOverrideRecord = 4
)

type catalogHead struct {
	ClusterID string      `json:"cluster_id"`
	Revision  uint64      `json:"revision"`
	Index     uint64      `json:"index"` // of the last change
	SlotMap   api.SlotMap `json:"slot_map"`
	Removed   []string    `json:"removed,omitempty"` // oldest first

	Enforcement *api.Enforcement `json:"enforcement,omitempty"` // nil is to enforce, and was never changed
}

// storedOverride is an override with the cluster time at which it expires.
type storedOverride struct {
	api.Override
	Expires uint64 `json:"expires_ns,omitempty"` // 0 is never
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
	head := catalogHead{ClusterID: v.ClusterID, Revision: v.Revision, Index: v.Index, SlotMap: v.SlotMap, Removed: v.Removed}
	if v.Enforcement.Revision != 0 {
		head.Enforcement = &v.Enforcement
	}
	record(catalogHeadRecord, head)
	for _, name := range slices.Sorted(maps.Keys(v.Policies)) {
		p := v.Policies[name]
		record(catalogPolicyRecord, p.Doc)
		for _, r := range slices.Concat(p.history.documents, p.history.overrides) {
			record(catalogRevisionRecord, r)
		}
		for _, o := range p.exceptions().list() {
			record(catalogOverrideRecord, storedOverride{o.doc, o.expires})
		}
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
	var p restoredPolicy // the one whose records are being read
	for {
		typ, payload, err := in.Next()
		switch {
		case err == io.EOF && v != nil:
			v.add(&p)
			return h, v, nil
		case err == io.EOF:
			return h, nil, errors.New("fsm: the catalog's snapshot is empty")
		case err != nil:
			return h, nil, err
		case typ == catalogHeadRecord && v == nil:
			v, err = readCatalogHead(payload, h.Index)
		case typ == catalogPolicyRecord && v != nil:
			v.add(&p)
			p, err = v.readPolicy(payload, p.doc.Name)
		case typ == catalogRevisionRecord && p.doc.Name != "":
			err = p.readRevision(payload)
		case typ == catalogOverrideRecord && p.doc.Name != "":
			err = p.readOverride(payload)
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
		Enforcement: api.Enforcement{Enforcement: api.EnforcementEnforce},
	}
	if e := head.Enforcement; e != nil {
		if !slices.Contains(Enforcements, e.Enforcement) || e.Revision == 0 || e.Revision > head.Revision {
			return nil, fmt.Errorf("the enforcement %q at revision %d does not belong to revision %d", e.Enforcement, e.Revision, head.Revision)
		}
		v.Enforcement = *e
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

// restoredPolicy is a policy whose records are being read.
type restoredPolicy struct {
	doc       api.Policy
	history   history
	overrides []*override
}

// readPolicy begins a policy, whose name must come after that of the one before.
func (v *CatalogView) readPolicy(payload []byte, before string) (p restoredPolicy, err error) {
	if err := strictJSON(payload, &p.doc); err != nil {
		return p, err
	}
	if err := policy.Supported(&p.doc); err != nil {
		return p, err
	}
	if p.doc.Name <= before || p.doc.Revision == 0 || p.doc.Revision > v.Revision {
		return p, fmt.Errorf("policy %s at revision %d does not belong after %q at revision %d", p.doc.Name, p.doc.Revision, before, v.Revision)
	}
	return p, nil
}

func (p *restoredPolicy) readRevision(payload []byte) error {
	r := new(api.PolicyRevision)
	if err := strictJSON(payload, r); err != nil {
		return err
	}
	list := &p.history.overrides
	if r.Document != nil {
		list = &p.history.documents
	}
	before := uint64(0)
	if n := len(*list); n > 0 {
		before = (*list)[n-1].Revision
	}
	if r.Revision <= before || r.Revision > p.doc.Revision || len(*list) >= MaxRevisions || len(p.overrides) > 0 ||
		r.Document != nil && (len(p.history.overrides) > 0 || r.Document.Name != p.doc.Name || r.Document.Revision != r.Revision) {
		return fmt.Errorf("a change of policy %s at revision %d does not belong after %d", p.doc.Name, r.Revision, before)
	}
	*list = append(*list, r)
	return nil
}

func (p *restoredPolicy) readOverride(payload []byte) error {
	var s storedOverride
	if err := strictJSON(payload, &s); err != nil {
		return err
	}
	if err := policy.SupportedOverride(&s.Override); err != nil {
		return err
	}
	before := ""
	if n := len(p.overrides); n > 0 {
		before = p.overrides[n-1].doc.Key
	}
	if s.Key <= before || s.Revision == 0 || s.Revision > p.doc.Revision || len(p.overrides) >= MaxOverrides || s.ExpiresInMS != 0 {
		return fmt.Errorf("the override of %q in policy %s does not belong after that of %q", s.Key, p.doc.Name, before)
	}
	p.overrides = append(p.overrides, &override{doc: s.Override, expires: s.Expires})
	return nil
}

// add puts a policy that was read whole into v; one without a name is none.
func (v *CatalogView) add(p *restoredPolicy) {
	if p.doc.Name == "" {
		return
	}
	v.overrides += len(p.overrides)
	v.Policies[p.doc.Name] = v.resolved(p.doc, newOverrides(p.overrides), p.history)
}
