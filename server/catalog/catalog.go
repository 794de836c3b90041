// Package catalog gives a node's copy of the catalog the methods that the limiter
// and the HTTP API declare. The node behind it is a raftnode.Node, or in tests of
// applications one without consensus.
package catalog

import (
	"context"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/httpapi"
	"github.com/rlstore/rlstore/policy"
)

// Node holds a copy of the catalog, and takes changes of it.
type Node interface {
	// Catalog returns the present copy.
	Catalog() *fsm.CatalogView
	// CatalogCurrent says whether the copy has caught up since the node started.
	CatalogCurrent() bool
	// CatalogTime is about the cluster time of the catalog, and not ahead of it.
	CatalogTime() uint64
	// Removed says that the node was removed from its cluster.
	Removed() bool
	// Barred says that the catalog bars the node: it was removed, or is just being
	// removed, and soon hears of changes no more.
	Barred() bool
	// ChangeCatalog applies a command; with noForward only where the catalog is led.
	// Its errors are problems.
	ChangeCatalog(ctx context.Context, cmd fsm.CatalogCommand, noForward bool) (fsm.CatalogResult, error)
}

// Catalog is a node's catalog for the limiter (limiter.Catalog), and for the HTTP
// API ([httpapi.Policies], [httpapi.Overrides], [httpapi.Switch]), which document
// its methods.
type Catalog struct {
	node Node
	now  func() time.Time
}

// Of returns the catalog of a node. now is a wall clock: it dates notes, which are
// for people only, and the rules of time zones, which are stored with a policy.
func Of(node Node, now func() time.Time) *Catalog { return &Catalog{node, now} }

// The methods of limiter.Catalog.

func (c *Catalog) Removed() bool                          { return c.node.Removed() }
func (c *Catalog) Current() bool                          { return c.node.CatalogCurrent() }
func (c *Catalog) Policy(name string) (*policy.Set, bool) { return c.node.Catalog().Policy(name) }
func (c *Catalog) Route(slot uint16) uint32               { return c.node.Catalog().Route(slot) }
func (c *Catalog) SlotMapVersion() uint64                 { return c.node.Catalog().SlotMapVersion() }

// XRateLimit tells whether a policy asks for the X-RateLimit triple.
func (c *Catalog) XRateLimit(name string) bool {
	p, ok := c.node.Catalog().Policies[name]
	return ok && slices.Contains(p.Doc.Headers, policy.XRateLimit)
}

// Get implements [httpapi.Policies].
func (c *Catalog) Get(name string) (api.Policy, error) {
	stored, err := c.stored(name)
	if err != nil {
		return api.Policy{}, err
	}
	return stored.Doc, nil
}

// List implements [httpapi.Policies].
func (c *Catalog) List() (api.PolicyList, error) {
	if err := c.current(); err != nil {
		return api.PolicyList{}, err
	}
	view := c.node.Catalog()
	return api.PolicyList{Policies: view.List(), Revision: view.Revision}, nil
}

// current refuses to answer for a catalog that has not caught up since the
// node started, since it may lack policies that exist, and for one that hears of
// changes no more.
func (c *Catalog) current() error {
	if c.node.Barred() {
		return api.NewProblem(api.Draining, "this node was removed from the cluster; ask another one")
	}
	if c.node.CatalogCurrent() {
		return nil
	}
	e := api.NewProblem(api.NoLeader, "this node is starting, and has not caught up with the policies yet")
	e.RetryAfter = time.Second
	return e
}

// Put implements [httpapi.Policies].
func (c *Catalog) Put(ctx context.Context, doc api.Policy, cond httpapi.Condition, note httpapi.Note, noForward bool) (httpapi.PutResult, error) {
	return c.put(ctx, &fsm.PutPolicy{
		Policy: doc, IfMatch: cond.IfMatch, AnyMatch: cond.AnyMatch, NoneMatch: cond.NoneMatch, Note: c.stamped(note),
	}, noForward)
}

func (c *Catalog) put(ctx context.Context, cmd *fsm.PutPolicy, noForward bool) (httpapi.PutResult, error) {
	var err error
	if cmd.Policy.ZoneRules, err = policy.ZoneRules(cmd.Policy.TimeZone, c.now()); err != nil {
		return httpapi.PutResult{}, err
	}
	res, err := c.node.ChangeCatalog(ctx, fsm.CatalogCommand{PutPolicy: cmd}, noForward)
	if err != nil {
		return httpapi.PutResult{}, err
	}
	return httpapi.PutResult{Policy: *res.Policy, Created: res.Created, Unchanged: res.Unchanged}, nil
}

// stamped is the note of a command, with the time of this node's wall clock.
func (c *Catalog) stamped(n httpapi.Note) fsm.Note {
	return fsm.Note{Author: n.Author, Reason: n.Reason, At: c.now().UTC().Format(time.RFC3339)}
}

// Delete implements [httpapi.Policies].
func (c *Catalog) Delete(ctx context.Context, name string, cond httpapi.Condition, noForward bool) error {
	_, err := c.node.ChangeCatalog(ctx, fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{
		Name: name, IfMatch: cond.IfMatch, AnyMatch: cond.AnyMatch,
	}}, noForward)
	return err
}

// stored is what the catalog holds of a policy.
func (c *Catalog) stored(name string) (*fsm.CatalogPolicy, error) {
	err := c.current() // before the look-up, which it is about
	if stored, ok := c.node.Catalog().Policies[name]; ok && !c.node.Barred() {
		return stored, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, api.NewProblem(api.UnknownPolicy, "there is no policy %.140q", name)
}

// Revisions implements [httpapi.Policies].
func (c *Catalog) Revisions(name string) (api.RevisionList, error) {
	stored, err := c.stored(name)
	if err != nil {
		return api.RevisionList{}, err
	}
	return api.RevisionList{Policy: name, Revision: stored.Doc.Revision, Revisions: stored.Revisions()}, nil
}

// Revert puts the document of an earlier revision. That is read from this node's
// copy: what a policy was at a revision never changes.
func (c *Catalog) Revert(ctx context.Context, name string, revision uint64, cond httpapi.Condition, note httpapi.Note, noForward bool) (httpapi.PutResult, error) {
	stored, err := c.stored(name)
	if err != nil {
		return httpapi.PutResult{}, err
	}
	doc := stored.At(revision)
	if doc == nil {
		return httpapi.PutResult{}, api.NewProblem(api.NotFound, "policy %s has no revision %d, or it is no longer remembered", name, revision)
	}
	cond.AnyMatch = cond.IfMatch == nil // a policy that was deleted meanwhile stays away
	return c.put(ctx, &fsm.PutPolicy{
		Policy: *doc, IfMatch: cond.IfMatch, AnyMatch: cond.AnyMatch, Note: c.stamped(note), RevertedTo: doc.Revision,
	}, noForward)
}

// Overrides implements [httpapi.Overrides].
func (c *Catalog) Overrides(name, after string, limit int) (api.OverrideList, error) {
	stored, err := c.stored(name)
	if err != nil {
		return api.OverrideList{}, err
	}
	list := api.OverrideList{Policy: name, Revision: stored.Doc.Revision}
	list.Overrides, list.Total = stored.Overrides(after, limit+1, c.node.CatalogTime())
	if len(list.Overrides) > limit {
		list.Overrides = list.Overrides[:limit]
		list.After = list.Overrides[limit-1].Key
	}
	return list, nil
}

// PutOverride implements [httpapi.Overrides].
func (c *Catalog) PutOverride(ctx context.Context, name string, o api.Override, cond httpapi.Condition, author string, noForward bool) (httpapi.OverrideResult, error) {
	res, err := c.node.ChangeCatalog(ctx, fsm.CatalogCommand{PutOverride: &fsm.PutOverride{
		Policy: name, Override: o, IfMatch: cond.IfMatch, AnyMatch: cond.AnyMatch, Note: c.stamped(httpapi.Note{Author: author}),
	}}, noForward)
	if err != nil {
		return httpapi.OverrideResult{}, err
	}
	return httpapi.OverrideResult{Override: *res.Override, Created: res.Created, PolicyRevision: res.PolicyRevision}, nil
}

// DeleteOverride implements [httpapi.Overrides].
func (c *Catalog) DeleteOverride(ctx context.Context, name, key string, cond httpapi.Condition, note httpapi.Note, noForward bool) (revision uint64, err error) {
	res, err := c.node.ChangeCatalog(ctx, fsm.CatalogCommand{DeleteOverride: &fsm.DeleteOverride{
		Policy: name, Key: key, IfMatch: cond.IfMatch, AnyMatch: cond.AnyMatch, Note: c.stamped(note),
	}}, noForward)
	return res.PolicyRevision, err
}

// Matching implements [httpapi.Overrides].
func (c *Catalog) Matching(name, key string) (o api.Override, ok bool, err error) {
	stored, err := c.stored(name)
	if err != nil {
		return o, false, err
	}
	o, ok = stored.Matching(key, c.node.CatalogTime())
	return o, ok, nil
}

// Enforcement implements [httpapi.Switch].
func (c *Catalog) Enforcement() (api.Enforcement, error) {
	if err := c.current(); err != nil {
		return api.Enforcement{}, err
	}
	return c.node.Catalog().Enforcement, nil
}

// SetEnforcement implements [httpapi.Switch].
func (c *Catalog) SetEnforcement(ctx context.Context, value string, note httpapi.Note, noForward bool) (api.Enforcement, error) {
	_, err := c.node.ChangeCatalog(ctx, fsm.CatalogCommand{SetEnforcement: &fsm.SetEnforcement{
		Enforcement: value, Note: c.stamped(note),
	}}, noForward)
	if err != nil {
		return api.Enforcement{}, err
	}
	return c.node.Catalog().Enforcement, nil
}
