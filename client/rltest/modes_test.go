package rltest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

const modes = `
name: leased
limits: [{rate: 100, per: 1s, burst: 100}]
mode: leased
---
name: soft
limits: [{rate: 100, per: 1s, burst: 100}]
mode: soft
---
name: open
limits: [{rate: 10, per: 1s}]
on_unavailable: open
on_unavailable_for: 1m
---
name: local
limits: [{rate: 10, per: 1s}]
on_unavailable: local
`

// left is what the store itself has left of a bucket.
func left(t *testing.T, c *client.Client, policy string) int64 {
	t.Helper()
	s, err := c.Peek(t.Context(), policy, "k")
	if err != nil {
		t.Fatal(err)
	}
	return s.Remaining
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// TestLeasesGoByTheStoresTime: takes of a leased policy are spent from memory,
// never more than there is, and what is left of an idle lease comes back.
func TestLeasesGoByTheStoresTime(t *testing.T) {
	store := rltest.New(t, modes)
	c := store.Client()
	sources := map[string]int{}
	allowed := 0
	for range 300 {
		d, err := c.Take(t.Context(), "leased", "k", 1)
		if err != nil {
			t.Fatal(err)
		}
		sources[d.Source]++
		if d.Allowed {
			allowed++
		}
		if d.Mode != "leased" || d.Limit != 100 {
			t.Fatalf("%+v", d)
		}
	}
	if allowed > 100 || allowed < 80 || sources["lease"] < 250 {
		t.Errorf("allowed %d of 100; sources %v", allowed, sources)
	}
	store.Advance(500 * time.Millisecond)
	for range 10 {
		if d, err := c.Take(t.Context(), "leased", "k", 1); err != nil || !d.Allowed {
			t.Fatalf("50 tokens have come back: %+v, %v", d, err)
		}
	}
	poll(t, "the lease to be given back", func() bool {
		store.Advance(time.Second) // nobody takes
		return left(t, c, "leased") == 100
	})
}

// TestSoftBucketsSync: what a soft bucket spends is charged with the next sync.
func TestSoftBucketsSync(t *testing.T) {
	store := rltest.New(t, modes)
	c, other := store.Client(), store.Client()
	for i := range 60 {
		d, err := c.Take(t.Context(), "soft", "k", 1)
		if err != nil || !d.Allowed || d.Source != "soft" && i > 0 {
			t.Fatalf("take %d: %+v, %v", i, d, err)
		}
	}
	if n := left(t, other, "soft"); n != 99 {
		t.Errorf("before the sync the store has %d left", n)
	}
	store.Advance(time.Second)
	poll(t, "the sync", func() bool { return left(t, other, "soft") == 41 })
}

// TestANodeSpendsByTheStoresTime: so do buckets that the store itself spends from memory,
// for callers of HTTP.
func TestANodeSpendsByTheStoresTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // for its Wait; its time is not the store's
		store := rltest.New(t, modes)
		c := store.Client()
		advance := func(d time.Duration) {
			synctest.Wait()
			store.Advance(d)
			synctest.Wait()
		}
		take := func(policy string) (allowed int, sources map[string]int) {
			sources = map[string]int{}
			for range 110 {
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodPost, "/v1/take", strings.NewReader(`{"policy":"`+policy+`","key":"k"}`))
				r.Header.Set("Content-Type", api.MediaJSON)
				store.ServeHTTP(w, r)
				var d api.Decision
				if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK {
					t.Fatalf("%s: %v", w.Body, err)
				}
				sources[d.Source]++
				if d.Allowed {
					allowed++
				}
			}
			return allowed, sources
		}
		if n, sources := take("soft"); n != 100 || sources["soft"] != 110 {
			t.Errorf("soft: %d pass of 100, %v", n, sources)
		}
		for range 10 {
			advance(100 * time.Millisecond)
		}
		if n, _ := take("soft"); n < 50 || n > 100 { // what came before the sync is lost, at most half the burst
			t.Errorf("soft: %d pass of the 100 that have come", n)
		}
		if n, sources := take("leased"); n != 100 || sources["lease"] < 90 {
			t.Errorf("leased: %d pass of 100, %v", n, sources)
		}
		advance(500 * time.Millisecond)
		if n, _ := take("leased"); n != 50 {
			t.Errorf("leased: %d pass of the 50 that have come", n)
		}
		for range 5 {
			advance(time.Second)
		}
		if s, l := left(t, c, "soft"), left(t, c, "leased"); s != 100 || l != 100 {
			t.Errorf("%d and %d of 100 are left to the store when nobody takes", s, l)
		}
	})
}

// TestFailureRulesOfAStoreInMemory: open and local decide while the store is away,
// for as long as they may, and the store decides again when it is back.
func TestFailureRulesOfAStoreInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		c := store.Client(client.WithTimeout(time.Second))
		take := func(policy string) client.Decision {
			t.Helper()
			d, err := c.Take(t.Context(), policy, "k", 1)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		take("open")
		take("local")
		store.SetOutage(rltest.NoLeader)
		began := time.Now()
		for i := range 20 {
			if d := take("open"); !d.Allowed || d.Source != "open" || d.Mode != "strict" {
				t.Fatalf("%+v", d)
			}
			if d := take("local"); d.Source != "local" || d.Allowed != (i < 9+1) {
				t.Fatalf("take %d: %+v", i, d) // a second has passed until the first, and filled the bucket
			}
		}
		if d := time.Since(began); d > 2*time.Second+time.Millisecond {
			t.Errorf("the outage has cost %v; the first call of a shard has a timeout of a second, the others wait for none", d)
		}
		time.Sleep(time.Minute)
		if d, err := c.Take(t.Context(), "open", "k", 1); err == nil {
			t.Errorf("open for a minute, and after it: %+v", d)
		}
		store.SetOutage(rltest.Healthy)
		poll(t, "the store to be found again", func() bool {
			d, err := c.Take(t.Context(), "local", "k", 1)
			return err == nil && d.Source == "store"
		})
		if d := time.Since(began); d > time.Minute+5*time.Second {
			t.Errorf("it took %v to find the store again", d-time.Minute)
		}
	})
}
