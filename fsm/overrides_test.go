package fsm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// randomText is a short word of two letters, with a '*' now and then.
func randomText(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(5) {
		b.WriteByte("ab*"[min(rng.IntN(8)/3, 2)])
	}
	return b.String()
}

func randomPattern(rng *rand.Rand) string {
	if rng.IntN(2) == 0 {
		return randomText(rng) + "*"
	}
	return randomText(rng) + "a"
}

// TestTheLongestMatchDecides compares with the rule as it is written.
func TestTheLongestMatchDecides(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all, list := noOverrides, map[string]*override{}
	for step := range 3000 {
		switch key := randomPattern(rng); {
		case rng.IntN(3) > 0:
			list[key] = &override{doc: api.Override{Key: key}}
			if rng.IntN(3) == 0 {
				list[key].expires = 1 + rng.Uint64N(50)
			}
			all = all.with(list[key])
		case list[key] != nil:
			delete(list, key)
			all = all.without(key)
		case rng.IntN(4) == 0:
			now := rng.Uint64N(50)
			had := len(list)
			for key, o := range list {
				if o.expires != 0 && o.expires <= now {
					delete(list, key)
				}
			}
			var n int
			if all, n = all.expire(now); n != had-len(list) {
				t.Fatalf("step %d: %d expired, want %d", step, n, had-len(list))
			}
		}
		next := ^uint64(0)
		for _, o := range list {
			if o.expires != 0 {
				next = min(next, o.expires)
			}
		}
		if all.n != len(list) || len(all.list()) != len(list) || all.nextExpiry() != next {
			t.Fatalf("step %d: %d overrides of %d, the next at %d, not %d", step, all.n, len(list), all.nextExpiry(), next)
		}
		for range 20 {
			key := randomText(rng)
			want := list[key]
			if _, pattern := strings.CutSuffix(key, "*"); pattern {
				want = nil // such a key can't have one of its own
			}
			for n := len(key); n >= 0 && want == nil; n-- {
				want = list[key[:n]+"*"]
			}
			if got := all.match(key); got != want {
				t.Fatalf("step %d: the key %q meets %+v, want %+v", step, key, got, want)
			}
		}
		if rng.IntN(50) == 0 { // as a snapshot does
			all = newOverrides(all.list())
		}
	}
}

func TestOverridesAreBounded(t *testing.T) {
	c := NewCatalog()
	index := uint64(0)
	apply := func(cmd CatalogCommand) *CatalogResult {
		t.Helper()
		index++
		res, err := c.Apply(index, encodeCatalog(t, 1, cmd))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	put := func(key string) *CatalogResult {
		t.Helper()
		return apply(CatalogCommand{PutOverride: &PutOverride{Policy: "a", Override: api.Override{Key: key, Limits: parsed(t, "a", 2).Limits}}})
	}
	apply(CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "a", 1)}})
	for n := range MaxPrefixes {
		if res := put(strings.Repeat("x", n) + "*"); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if res := put(strings.Repeat("x", MaxPrefixes) + "*"); res.Err == nil || res.Err.Code != api.InvalidRequest {
		t.Errorf("one length too many: %+v", res)
	}
	if res := put("yyy*"); res.Err != nil {
		t.Errorf("another prefix of a length that is there: %v", res.Err)
	}
	view := *c.View()
	view.overrides = MaxOverrides
	c.view.Store(&view)
	if res := put("one-more"); res.Err == nil || res.Err.Code != api.InvalidRequest {
		t.Errorf("one override too many: %+v", res)
	}
	if res := put("yyy*"); res.Err != nil {
		t.Errorf("an override that is there already: %v", res.Err)
	}
}

func TestOverridesWithEqualLimitsShareTheirNumbers(t *testing.T) {
	p := manyOverrides(t, 200)
	a, b := p.Override("user:1"), p.Override("team:100:x")
	if a == nil || a != b || a != p.Override("user:1") {
		t.Errorf("%p and %p", a, b)
	}
}

func TestAPastIsBounded(t *testing.T) {
	limits := make([]api.Limit, policy.MaxLimits)
	var h history
	for n := range 50 {
		h = h.with(&api.PolicyRevision{Revision: uint64(2 * n), Document: &api.Policy{Limits: limits[:1]}})
		h = h.with(&api.PolicyRevision{Revision: uint64(2*n + 1)})
	}
	if len(h.documents) != MaxRevisions || len(h.overrides) != MaxRevisions || len(h.list()) != 2*MaxRevisions {
		t.Errorf("%d documents and %d changes of overrides", len(h.documents), len(h.overrides))
	}
	for n := range 50 {
		h = h.with(&api.PolicyRevision{Revision: uint64(1000 + n), Document: &api.Policy{Limits: limits}})
	}
	if n := len(h.documents); n != 1+MaxPastLimits/policy.MaxLimits {
		t.Errorf("%d long documents", n)
	}
}

// manyOverrides is a policy with n overrides of keys and n/100 of patterns.
func manyOverrides(t testing.TB, n int) *CatalogPolicy {
	doc := parsed(t, "api", 1)
	doc.Revision = 1
	var list []*override
	for i := range n {
		list = append(list, &override{doc: api.Override{Key: fmt.Sprintf("user:%d", i), Limits: doc.Limits}})
		if i%100 == 0 {
			list = append(list, &override{doc: api.Override{Key: fmt.Sprintf("team:%d:*", i), Limits: doc.Limits}})
		}
	}
	v := NewCatalog().View()
	return v.resolved(doc, newOverrides(list), history{})
}

// BenchmarkOverride resolves keys of a policy with 100,000 overrides.
func BenchmarkOverride(b *testing.B) {
	const n = 100_000
	p := manyOverrides(b, n)
	for name, format := range map[string]string{"exact": "user:%d", "prefix": "team:%d:someone", "none": "nobody:%d"} {
		keys := make([]string, 4096)
		for i := range keys {
			keys[i] = fmt.Sprintf(format, i*100%n)
			p.Override(keys[i])
		}
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if s := p.Override(keys[i%len(keys)]); (s == nil) != (name == "none") {
					b.Fatal(s)
				}
			}
		})
	}
}

// BenchmarkEditOverride applies an edit to a policy with 100,000 overrides.
func BenchmarkEditOverride(b *testing.B) {
	const n = 100_000
	c := NewCatalog()
	v := *c.View()
	p := manyOverrides(b, n)
	v.Policies = map[string]*CatalogPolicy{"api": p}
	v.overrides = p.overrides.n
	c.view.Store(&v)
	var entries [][]byte
	for i := range 1000 {
		entries = append(entries, encodeCatalog(b, 1, CatalogCommand{PutOverride: &PutOverride{Policy: "api", Override: api.Override{
			Key: fmt.Sprintf("user:%d", i*97), Limits: parsed(b, "api", 2).Limits, TTL: api.Duration(time.Hour),
		}}}))
	}
	for i := 0; b.Loop(); i++ {
		if res, err := c.Apply(uint64(i+1), entries[i%len(entries)]); err != nil || res.Err != nil {
			b.Fatal(res, err)
		}
	}
}
