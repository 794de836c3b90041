package fsm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// MaxPolicies bounds the policies of a catalog: each write copies the map of
// them, and a list is one answer.
const MaxPolicies = 10_000

// maxRemoved bounds the removed nodes that a catalog remembers; the one that was
// removed first is forgotten first.
const maxRemoved = 1_000

// Catalog is the machine of group 0: policies with their overrides, and the slot map. It is as
// pure as [Buckets], under the same rules for the caller: entries come from
// [EncodeCatalog], each goes to Apply once and in order, from one goroutine,
// and an error halts the replica. View and Last may be called from any
// goroutine.
//
// Every effective change raises the catalog's one revision by 1, and a policy's
// revision is the catalog's as of its last change. So a revision never comes
// back, not even that of a policy that was deleted and made anew.
type Catalog struct {
	view atomic.Pointer[CatalogView]

	mu     sync.Mutex // guards what follows; held by Apply for a whole entry
	last   uint64     // cluster time, nanoseconds; never goes back
	index  uint64     // of the last entry applied, whether or not it changed anything
	broken error      // why Apply returned an error; nothing is applied after
}

// CatalogView is the catalog as of one change. It is immutable: neither it nor
// anything it refers to may be changed.
type CatalogView struct {
	ClusterID string
	Revision  uint64 // counts changes
	Index     uint64 // Raft index of the last entry that changed something
	Policies  map[string]*CatalogPolicy
	SlotMap   api.SlotMap // Version is 0 before there is one
	Removed   []string    // ids of nodes that were removed, in that order

	Enforcement api.Enforcement // of the whole cluster

	routes    *[api.Slots]uint32 // SlotMap's table; nil before there is one
	overrides int                // of all policies
}

// Policy returns the resolved limits of the policy of this name.
func (v *CatalogView) Policy(name string) (*policy.Set, bool) {
	p, ok := v.Policies[name]
	if !ok {
		return nil, false
	}
	return p.Set, true
}

// Route returns the shard that owns slot, or 0 before there is a slot map.
func (v *CatalogView) Route(slot uint16) uint32 {
	if v.routes == nil || slot >= api.Slots {
		return 0
	}
	return v.routes[slot]
}

// IsRemoved tells whether the node of this id was removed from the cluster.
func (v *CatalogView) IsRemoved(id string) bool { return slices.Contains(v.Removed, id) }

// SlotMapVersion returns the version of the slot map, or 0 before there is one.
func (v *CatalogView) SlotMapVersion() uint64 { return v.SlotMap.Version }

// List returns every policy, sorted by name.
func (v *CatalogView) List() []api.Policy {
	list := make([]api.Policy, 0, len(v.Policies))
	for _, name := range slices.Sorted(maps.Keys(v.Policies)) {
		list = append(list, v.Policies[name].Doc)
	}
	return list
}

// NewCatalog returns the machine of a new catalog, which holds nothing.
func NewCatalog() *Catalog {
	c := &Catalog{}
	c.view.Store(&CatalogView{Policies: map[string]*CatalogPolicy{}, Enforcement: api.Enforcement{Enforcement: api.EnforcementEnforce}})
	return c
}

// View returns the catalog as of the last change.
func (c *Catalog) View() *CatalogView { return c.view.Load() }

// Last returns the cluster time and the Raft index of the last entry applied.
// [Catalog.View] is at least as new.
func (c *Catalog) Last() (stamp, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.index
}

// CatalogResult is what a command came to.
type CatalogResult struct {
	Revision  uint64       `json:"revision"`            // of the catalog, after the command
	Policy    *api.Policy  `json:"policy,omitempty"`    // as stored, of a put that succeeded
	Created   bool         `json:"created,omitempty"`   // the put policy or override is new
	Unchanged bool         `json:"unchanged,omitempty"` // all was as the command wants it already
	Err       *api.Problem `json:"err,omitempty"`       // why it was refused; nothing changed then

	// Of a command about overrides that succeeded.
	Override       *api.Override `json:"override,omitempty"`        // as stored, of a put
	PolicyRevision uint64        `json:"policy_revision,omitempty"` // that of the policy now
}

// Apply applies one committed entry. index is its place in the log and grows
// from call to call. An error halts the replica: the entry is damaged, or made
// by a newer version, and to skip it would be to diverge. A command that is
// refused is no such error; see [CatalogResult.Err].
func (c *Catalog) Apply(index uint64, entry []byte) (*CatalogResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return nil, c.broken
	}
	res, err := c.apply(index, entry)
	if err != nil {
		c.broken = fmt.Errorf("catalog, log index %d: %w", index, err)
		return nil, c.broken
	}
	return res, nil
}

func (c *Catalog) apply(index uint64, entry []byte) (*CatalogResult, error) {
	if index <= c.index {
		return nil, fmt.Errorf("fsm: index %d is applied already", c.index)
	}
	stamp, cmd, err := decodeCatalog(entry)
	if err != nil {
		return nil, err
	}
	now := max(c.last, stamp)
	next := *c.view.Load() // the maps are copied where they change
	next.Revision++
	next.Index = index
	var res *CatalogResult
	switch {
	case cmd.Init != nil:
		res, err = next.init(cmd.Init)
	case cmd.PutPolicy != nil:
		res, err = next.put(cmd.PutPolicy, now)
	case cmd.PutOverride != nil:
		res, err = next.putOverride(cmd.PutOverride, now)
	case cmd.DeleteOverride != nil:
		res = next.deleteOverride(cmd.DeleteOverride, now)
	case cmd.ExpireOverrides != nil:
		res = next.expireOverrides(now)
	case cmd.SetEnforcement != nil:
		res, err = next.setEnforcement(cmd.SetEnforcement)
	case cmd.RemoveMember != nil:
		res, err = next.remove(cmd.RemoveMember.ID)
	default:
		res = next.delete(cmd.DeletePolicy)
	}
	if err != nil {
		return nil, err
	}
	if res.Err == nil && !res.Unchanged {
		c.view.Store(&next)
	}
	res.Revision = c.view.Load().Revision
	c.last, c.index = now, index
	return res, nil
}

// The commands change v, a shallow copy of the view whose revision and index
// are raised already. It is thrown away if the result is refused or unchanged.

func (v *CatalogView) init(cmd *CatalogInit) (*CatalogResult, error) {
	if v.SlotMap.Version != 0 {
		return &CatalogResult{Unchanged: true}, nil
	}
	routes, err := checkInit(cmd)
	if err != nil {
		return nil, err
	}
	v.ClusterID, v.SlotMap, v.routes = cmd.ClusterID, cmd.SlotMap, routes
	return &CatalogResult{}, nil
}

// checkInit returns the table of the command's slot map, which must have a
// version: 0 says that there is none yet.
func checkInit(cmd *CatalogInit) (*[api.Slots]uint32, error) {
	if cmd.ClusterID == "" || cmd.SlotMap.Version == 0 {
		return nil, errors.New("fsm: a catalog begins with a cluster id and a slot map of version 1 or higher")
	}
	return cmd.SlotMap.Table()
}

func (v *CatalogView) put(cmd *PutPolicy, now uint64) (*CatalogResult, error) {
	doc := cmd.Policy
	if err := policy.Supported(&doc); err != nil {
		return nil, fmt.Errorf("fsm: %w: it was written by a newer rlstore", err)
	}
	old := v.Policies[doc.Name]
	if p := conflict(doc.Name, old, cmd.IfMatch, cmd.AnyMatch, cmd.NoneMatch); p != nil {
		return &CatalogResult{Err: p}, nil
	}
	change := api.PolicyCreated
	if old != nil {
		if doc.Revision = old.Doc.Revision; equalPolicies(&doc, &old.Doc) {
			return &CatalogResult{Policy: &old.Doc, Unchanged: true}, nil
		}
		change = api.PolicyEdited
	} else if len(v.Policies) >= MaxPolicies {
		return &CatalogResult{Err: api.NewProblem(api.InvalidRequest, "the catalog holds %d policies, and that is the most; delete one first", MaxPolicies)}, nil
	}
	if cmd.RevertedTo != 0 {
		change = api.PolicyReverted
	}
	doc.Revision = v.Revision
	v.store(doc, old.exceptions(), old.past().with(&api.PolicyRevision{
		Revision: v.Revision, Change: change, TimeNS: now, At: cmd.At, Author: cmd.Author, Reason: cmd.Reason,
		Document: &doc, RevertedTo: cmd.RevertedTo,
	}))
	return &CatalogResult{Policy: &doc, Created: old == nil}, nil
}

func (v *CatalogView) delete(cmd *DeletePolicy) *CatalogResult {
	old := v.Policies[cmd.Name]
	if p := conflict(cmd.Name, old, cmd.IfMatch, cmd.AnyMatch, false); p != nil {
		return &CatalogResult{Err: p}
	}
	if old == nil {
		return unknownPolicy(cmd.Name)
	}
	v.Policies = maps.Clone(v.Policies)
	v.overrides -= old.exceptions().n
	delete(v.Policies, cmd.Name)
	return &CatalogResult{}
}

func unknownPolicy(name string) *CatalogResult {
	return &CatalogResult{Err: api.NewProblem(api.UnknownPolicy, "there is no policy %s", name)}
}

func (v *CatalogView) remove(id string) (*CatalogResult, error) {
	if err := api.CheckNodeID(id); err != nil {
		return nil, err
	}
	if v.IsRemoved(id) {
		return &CatalogResult{Unchanged: true}, nil
	}
	v.Removed = append(slices.Clone(v.Removed), id)
	v.Removed = v.Removed[max(0, len(v.Removed)-maxRemoved):]
	return &CatalogResult{}, nil
}

// conflict returns the problem of a condition that old, nil if there is no such
// policy, does not meet, or nil.
func conflict(name string, old *CatalogPolicy, match *uint64, anyMatch, noneMatch bool) *api.Problem {
	switch {
	case old == nil && match != nil:
		return api.NewProblem(api.RevisionConflict, "there is no policy %s, hence not at revision %d", name, *match)
	case old == nil && anyMatch:
		return api.NewProblem(api.RevisionConflict, "there is no policy %s, and the request is for one that exists", name)
	case old != nil && match != nil && old.Doc.Revision != *match:
		return api.NewProblem(api.RevisionConflict, "the policy %s is at revision %d, not %d", name, old.Doc.Revision, *match)
	case old != nil && noneMatch:
		return api.NewProblem(api.RevisionConflict, "the policy %s exists already, at revision %d", name, old.Doc.Revision)
	}
	return nil
}

func equalPolicies(a, b *api.Policy) bool {
	return a.Name == b.Name && a.Mode == b.Mode && a.OnUnavailable == b.OnUnavailable &&
		a.LeaseTTL == b.LeaseTTL && a.SyncInterval == b.SyncInterval && a.OnUnavailableFor == b.OnUnavailableFor &&
		slices.Equal(a.HotKeys, b.HotKeys) && a.Enforcement == b.Enforcement && a.TimeZone == b.TimeZone && a.Revision == b.Revision &&
		slices.Equal(a.Limits, b.Limits) && slices.Equal(a.Headers, b.Headers) && slices.Equal(a.ZoneRules, b.ZoneRules)
}
