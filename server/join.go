package server

import (
	"context"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/httpapi"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/raftnode"
)

// The types below give a node the methods that its upper floors declare.

// catalog is the node's catalog for the limiter.
type catalog struct{ node *raftnode.Node }

func (c catalog) Removed() bool                          { return c.node.Removed() }
func (c catalog) Current() bool                          { return c.node.CatalogCurrent() }
func (c catalog) Policy(name string) (*policy.Set, bool) { return c.node.Catalog().Policy(name) }
func (c catalog) Route(slot uint16) uint32               { return c.node.Catalog().Route(slot) }
func (c catalog) SlotMapVersion() uint64                 { return c.node.Catalog().SlotMapVersion() }

// shardLogs is the node's shards for the limiter.
type shardLogs struct{ node *raftnode.Node }

func (s shardLogs) Leader(shard uint32) limiter.Leader {
	m, local, known := s.node.Leader(shard)
	return limiter.Leader{ID: m.ID, HTTP: m.HTTP, Local: local, Known: known}
}

func (s shardLogs) Submit(shard uint32, p *limiter.Part) { s.node.Submit(shard, p) }

func (s shardLogs) Forward(ctx context.Context, nodeID string, shard uint32, batch []byte) ([]byte, error) {
	return s.node.Forward(ctx, nodeID, shard, batch)
}

func (s shardLogs) StalePeek(shard uint32, op api.Op, set *policy.Set) ([]byte, time.Duration, error) {
	return s.node.StalePeek(shard, op, set)
}

// policies is the node's catalog for the HTTP API.
type policies struct{ node *raftnode.Node }

func (p policies) Get(name string) (api.Policy, error) {
	stored, err := p.stored(name)
	if err != nil {
		return api.Policy{}, err
	}
	return stored.Doc, nil
}

func (p policies) List() (api.PolicyList, error) {
	if err := p.current(); err != nil {
		return api.PolicyList{}, err
	}
	view := p.node.Catalog()
	return api.PolicyList{Policies: view.List(), Revision: view.Revision}, nil
}

// current refuses to answer for a catalog that has not caught up since the
// node started: it may lack policies that exist.
func (p policies) current() error {
	if p.node.CatalogCurrent() {
		return nil
	}
	if p.node.Removed() {
		return api.NewProblem(api.Draining, "this node was removed from the cluster; ask another one")
	}
	e := api.NewProblem(api.NoLeader, "this node is starting, and has not caught up with the policies yet")
	e.RetryAfter = time.Second
	return e
}

func (p policies) Put(ctx context.Context, doc api.Policy, c httpapi.Condition, note httpapi.Note, noForward bool) (httpapi.PutResult, error) {
	return p.put(ctx, &fsm.PutPolicy{
		Policy: doc, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, NoneMatch: c.NoneMatch, Note: stamped(note),
	}, noForward)
}

func (p policies) put(ctx context.Context, cmd *fsm.PutPolicy, noForward bool) (httpapi.PutResult, error) {
	var err error
	if cmd.Policy.ZoneRules, err = policy.ZoneRules(cmd.Policy.TimeZone, time.Now()); err != nil {
		return httpapi.PutResult{}, err
	}
	res, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{PutPolicy: cmd}, noForward)
	if err != nil {
		return httpapi.PutResult{}, err
	}
	return httpapi.PutResult{Policy: *res.Policy, Created: res.Created, Unchanged: res.Unchanged}, nil
}

// stamped is the note of a command, with the time of this node's wall clock, which
// is for people only.
func stamped(n httpapi.Note) fsm.Note {
	return fsm.Note{Author: n.Author, Reason: n.Reason, At: time.Now().UTC().Format(time.RFC3339)}
}

func (p policies) Delete(ctx context.Context, name string, c httpapi.Condition, noForward bool) error {
	_, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{
		Name: name, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch,
	}}, noForward)
	return err
}

// stored is what the catalog holds of a policy.
func (p policies) stored(name string) (*fsm.CatalogPolicy, error) {
	err := p.current() // before the look-up, which it is about
	if stored, ok := p.node.Catalog().Policies[name]; ok {
		return stored, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, api.NewProblem(api.UnknownPolicy, "there is no policy %.140q", name)
}

func (p policies) Revisions(name string) (api.RevisionList, error) {
	stored, err := p.stored(name)
	if err != nil {
		return api.RevisionList{}, err
	}
	return api.RevisionList{Policy: name, Revision: stored.Doc.Revision, Revisions: stored.Revisions()}, nil
}

// Revert puts the document of an earlier revision. That is read from this node's
// copy: what a policy was at a revision never changes.
func (p policies) Revert(ctx context.Context, name string, revision uint64, c httpapi.Condition, note httpapi.Note, noForward bool) (httpapi.PutResult, error) {
	stored, err := p.stored(name)
	if err != nil {
		return httpapi.PutResult{}, err
	}
	doc := stored.At(revision)
	if doc == nil {
		return httpapi.PutResult{}, api.NewProblem(api.NotFound, "policy %s has no revision %d, or it is no longer remembered", name, revision)
	}
	c.AnyMatch = c.IfMatch == nil // a policy that was deleted meanwhile stays away
	return p.put(ctx, &fsm.PutPolicy{
		Policy: *doc, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, Note: stamped(note), RevertedTo: doc.Revision,
	}, noForward)
}

func (p policies) Overrides(name, after string, limit int) (api.OverrideList, error) {
	stored, err := p.stored(name)
	if err != nil {
		return api.OverrideList{}, err
	}
	list := api.OverrideList{Policy: name, Revision: stored.Doc.Revision}
	list.Overrides, list.Total = stored.Overrides(after, limit+1, p.node.CatalogTime())
	if len(list.Overrides) > limit {
		list.Overrides = list.Overrides[:limit]
		list.After = list.Overrides[limit-1].Key
	}
	return list, nil
}

func (p policies) PutOverride(ctx context.Context, name string, o api.Override, c httpapi.Condition, author string, noForward bool) (httpapi.OverrideResult, error) {
	res, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{PutOverride: &fsm.PutOverride{
		Policy: name, Override: o, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, Note: stamped(httpapi.Note{Author: author}),
	}}, noForward)
	if err != nil {
		return httpapi.OverrideResult{}, err
	}
	return httpapi.OverrideResult{Override: *res.Override, Created: res.Created, PolicyRevision: res.PolicyRevision}, nil
}

func (p policies) DeleteOverride(ctx context.Context, name, key string, c httpapi.Condition, note httpapi.Note, noForward bool) (revision uint64, err error) {
	res, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{DeleteOverride: &fsm.DeleteOverride{
		Policy: name, Key: key, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, Note: stamped(note),
	}}, noForward)
	return res.PolicyRevision, err
}

func (p policies) Matching(name, key string) (o api.Override, ok bool, err error) {
	stored, err := p.stored(name)
	if err != nil {
		return o, false, err
	}
	o, ok = stored.Matching(key, p.node.CatalogTime())
	return o, ok, nil
}

func (p policies) Enforcement() (api.Enforcement, error) {
	if err := p.current(); err != nil {
		return api.Enforcement{}, err
	}
	return p.node.Catalog().Enforcement, nil
}

func (p policies) SetEnforcement(ctx context.Context, value string, note httpapi.Note, noForward bool) (api.Enforcement, error) {
	_, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{SetEnforcement: &fsm.SetEnforcement{
		Enforcement: value, Note: stamped(note),
	}}, noForward)
	if err != nil {
		return api.Enforcement{}, err
	}
	return p.node.Catalog().Enforcement, nil
}
