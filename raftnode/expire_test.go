package raftnode

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// An override goes away by itself, on every node, also when the leader of the
// catalog has changed meanwhile.
func TestAnOverrideGoesWhenItsTimeIsOver(t *testing.T) {
	c := startCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	change := func(cmd fsm.CatalogCommand) {
		t.Helper()
		if _, err := c.nodes[0].ChangeCatalog(ctx, cmd, false); err != nil {
			t.Fatal(err)
		}
	}
	limits := []api.Limit{{Name: "default", Algorithm: "token_bucket", Rate: 1, Per: api.Duration(time.Second), Burst: 1}}
	change(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: api.Policy{
		Name: "p", Mode: "strict", OnUnavailable: "closed", Enforcement: "enforce", Limits: limits,
	}}})
	change(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{Policy: "p", Override: api.Override{Key: "k", Limits: limits}}})
	change(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{Policy: "p", Override: api.Override{Key: "vip:*", Limits: limits, TTL: api.Duration(2 * time.Second)}}})
	put := c.nodes[0].CatalogTime()
	if _, err := c.nodes[0].Transfer(ctx, 0, "", false); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.nodes {
		if next := n.Catalog().NextExpiry(); next != math.MaxUint64 && next > put+2e9 {
			t.Fatalf("node %d expects the end at %d", i+1, next)
		}
		eventually(t, "the override goes", func() bool { return n.Catalog().NextExpiry() == math.MaxUint64 })
		if list, _ := n.Catalog().Policies["p"].Overrides("", 10, 0); len(list) != 1 || list[0].Key != "k" {
			t.Errorf("node %d has %+v", i+1, list)
		}
	}
}

func TestTheCatalogsTimeGoesOnWithoutEntries(t *testing.T) {
	c := startCluster(t, 3)
	for _, n := range c.nodes {
		before := n.CatalogTime()
		eventually(t, "time goes on", func() bool { return n.CatalogTime() > before+1e6 })
	}
}
