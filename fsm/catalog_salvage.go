package fsm

import (
	"bytes"
	"math"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/snapshot"
)

// Salvage replaces the state by what is left of a snapshot that [Catalog.Restore]
// refuses, and tells what is not. A policy whose record is damaged is gone, and with
// it whatever follows up to the next policy; so are a policy's changes and overrides
// that come behind a damaged record, for nobody can tell whether they are its own.
//
// slots is the slot map, for the case that the record with it is damaged. It fails
// only where the header is not right, and the old state stays.
func (c *Catalog) Salvage(file []byte, slots api.SlotMap) (Losses, error) {
	r, err := snapshot.NewReader(bytes.NewReader(file))
	if err != nil {
		return Losses{}, err
	}
	h := r.Header()
	if err := h.Check(snapshot.Header{Kind: snapshot.KindCatalog, Version: catalogVersion}); err != nil {
		return Losses{}, err
	}
	s := catalogSalvager{index: h.Index}
	if _, err := snapshot.Salvage(file, s.record, s.damage); err != nil {
		return Losses{}, err
	}
	if err := s.finish(slots); err != nil {
		return Losses{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Store(s.view)
	c.last, c.index, c.broken = h.TimeNS, h.Index, nil
	return s.losses, nil
}

// catalogSalvager is readCatalog, going on where something is wrong.
type catalogSalvager struct {
	index  uint64
	view   *CatalogView // nil before the head
	p      restoredPolicy
	behind bool // a damaged stretch has come since p began
	losses Losses
}

func (s *catalogSalvager) damage(snapshot.Damage) {
	s.losses.Stretches++
	s.losses.Policies++
	if s.view == nil { // it is the head's
		s.losses.Uncounted, s.losses.Policies = true, 0
		s.view, _ = readCatalogHead([]byte("{}"), s.index)
		s.view.Revision = math.MaxUint64 // whatever the policies say; see finish
	}
	s.behind = true
}

func (s *catalogSalvager) record(typ uint8, payload []byte) {
	var err error
	switch {
	case typ == catalogHeadRecord && s.view == nil:
		if s.view, err = readCatalogHead(payload, s.index); err != nil {
			s.view = nil
			s.damage(snapshot.Damage{})
		}
	case s.view == nil || typ == catalogHeadRecord:
	case typ == catalogPolicyRecord:
		s.view.add(&s.p)
		before := s.p.doc.Name
		s.behind = false
		if s.p, err = s.view.readPolicy(payload, before); err != nil {
			s.p = restoredPolicy{}
			s.damage(snapshot.Damage{})
		}
	case s.behind || s.p.doc.Name == "":
		s.losses.Parts++
	case typ == catalogRevisionRecord && s.p.readRevision(payload) != nil,
		typ == catalogOverrideRecord && s.p.readOverride(payload) != nil:
		s.losses.Parts++
	}
}

// finish makes a whole view of what was read.
func (s *catalogSalvager) finish(slots api.SlotMap) (err error) {
	if s.view == nil {
		s.damage(snapshot.Damage{})
	}
	s.view.add(&s.p)
	if s.losses.Uncounted {
		s.view.Revision, s.view.SlotMap = 1, slots
		for _, p := range s.view.Policies { // order-free: the maximum is one
			s.view.Revision = max(s.view.Revision, p.Doc.Revision)
		}
		s.view.routes, err = slots.Table()
	}
	return err
}

// Refound makes the catalog that of a new cluster with the same policies, before it
// is used. Its revision is at least the one given: shards that know of policies which
// this catalog has lost must not meet others under the same revisions. A node of this
// id may be a member again.
func (c *Catalog) Refound(clusterID string, slots api.SlotMap, revision uint64, node string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.view.Load()
	if v.SlotMap.Version == 0 {
		routes, err := slots.Table()
		if err != nil {
			return err
		}
		v.SlotMap, v.routes = slots, routes
	}
	v.ClusterID, v.Revision = clusterID, max(v.Revision, revision)
	v.Removed = nil
	for _, id := range c.view.Load().Removed {
		if id != node {
			v.Removed = append(v.Removed, id)
		}
	}
	c.view.Store(&v)
	return nil
}

// Revision is the newest revision of a policy that the shard has decided by.
func (m *Buckets) Revision() (newest uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, s := range m.sets.byID {
		if s != nil {
			newest = max(newest, s.revision)
		}
	}
	return newest
}
