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
	err := p.current() // before the look-up, which it is about
	if stored, ok := p.node.Catalog().Policies[name]; ok {
		return stored.Doc, nil
	}
	if err != nil {
		return api.Policy{}, err
	}
	return api.Policy{}, api.NewProblem(api.UnknownPolicy, "there is no policy %.140q", name)
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

func (p policies) Put(ctx context.Context, doc api.Policy, c httpapi.Condition, noForward bool) (httpapi.PutResult, error) {
	res, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{
		Policy: doc, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch, NoneMatch: c.NoneMatch,
	}}, noForward)
	if err != nil {
		return httpapi.PutResult{}, err
	}
	return httpapi.PutResult{Policy: *res.Policy, Created: res.Created, Unchanged: res.Unchanged}, nil
}

func (p policies) Delete(ctx context.Context, name string, c httpapi.Condition, noForward bool) error {
	_, err := p.node.ChangeCatalog(ctx, fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{
		Name: name, IfMatch: c.IfMatch, AnyMatch: c.AnyMatch,
	}}, noForward)
	return err
}
