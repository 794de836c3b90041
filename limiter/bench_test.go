package limiter

import (
	"fmt"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// catalogOf has one policy api with n overrides of keys, and a policy plain with
// none.
func catalogOf(b *testing.B, n int) *fsm.CatalogView {
	c := fsm.NewCatalog()
	index := uint64(0)
	apply := func(cmd fsm.CatalogCommand) {
		index++
		entry, err := fsm.EncodeCatalog(index, cmd)
		if err != nil {
			b.Fatal(err)
		}
		if res, err := c.Apply(index, entry); err != nil || res.Err != nil {
			b.Fatal(res, err)
		}
	}
	for _, name := range []string{"api", "plain"} {
		p, errs := policy.Parse([]byte("limits: [{rate: 100, per: 1s}]"), name)
		if errs != nil {
			b.Fatal(errs)
		}
		apply(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: p}})
	}
	limits := c.View().Policies["api"].Doc.Limits
	for i := range n {
		key := fmt.Sprintf("user:%d", i)
		if i%1000 == 0 {
			key = fmt.Sprintf("team:%d:*", i)
		}
		apply(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{Policy: "api", Override: api.Override{Key: key, Limits: limits}}})
	}
	return c.View()
}

// viewCatalog is a [Catalog] of one shard.
type viewCatalog struct{ *fsm.CatalogView }

func (viewCatalog) Current() bool          { return true }
func (viewCatalog) Removed() bool          { return false }
func (viewCatalog) Route(uint16) uint32    { return 1 }
func (viewCatalog) SlotMapVersion() uint64 { return 1 }

// BenchmarkPlan makes the plan of a batch of 1,000 takes, each of another key: of a
// policy without overrides, and of one with 100,000, of which none, each tenth or
// each key is overridden.
func BenchmarkPlan(b *testing.B) {
	view := catalogOf(b, 100_000)
	for _, c := range []struct {
		name, policy string
		every        int // of so many keys one has an override; 0 is none
	}{{"plain", "plain", 0}, {"none", "api", 0}, {"tenth", "api", 10}, {"all", "api", 1}} {
		b.Run(c.name, func(b *testing.B) {
			l := New(Config{Catalog: viewCatalog{view}})
			var batch api.Batch
			batch.Ref(c.policy)
			for i := range 1000 {
				key := fmt.Sprintf("none:%d", i)
				if c.every > 0 && i%c.every == 0 {
					key = fmt.Sprintf("user:%d", i*97+1)
				}
				batch.Add(api.Op{Kind: api.Take, Cost: 1, Key: key})
			}
			b.ReportAllocs()
			for b.Loop() {
				if pl, err := l.plan(bg, &batch, true); err != nil || !pl.whole() {
					b.Fatal(pl, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/take")
		})
	}
}

// BenchmarkSpend decides takes that this node spends from memory, by one and by a
// thousand, beside strict ones that a log in memory answers at once.
func BenchmarkSpend(b *testing.B) {
	c := newFake(b)
	defer c.giveBack()
	big := func(change func(*api.SetInfo)) func(*api.SetInfo) {
		return func(s *api.SetInfo) { change(s); s.Limits[0].Per = 1e9 }
	}
	c.policy("strict", 1<<31-1, big(func(*api.SetInfo) {}))
	c.policy("leased", 1<<31-1, big(leased))
	c.policy("soft", 1<<31-1, big(soft))
	n, key := c.nodes["n1"], keyIn(1, 0)
	for _, name := range []string{"strict", "leased", "soft"} {
		for _, size := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				var ops []namedOp
				for range size {
					ops = append(ops, take(name, key))
				}
				batch := batchOf(ops...)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := n.Do(bg, batch, Options{}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/take")
			})
		}
	}
}
