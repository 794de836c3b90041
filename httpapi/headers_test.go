package httpapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/dunglas/httpsfv"

	"github.com/rlstore/rlstore/api"
)

// The fields are written by hand; a library of structured fields must read in them
// what was meant, and write the same bytes.
func TestTheDraftsFieldsAreStructuredFields(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		a := answer{set: &api.SetInfo{}, res: api.Result{Status: api.StatusAllowed}}
		var policies, states httpsfv.List
		for i := range 1 + rng.IntN(4) {
			info := api.LimitInfo{
				Name: fmt.Sprintf("l%d._-", i), Algorithm: uint8(rng.IntN(4)),
				Rate: 1 + rng.Int64N(1<<31-1), Per: 1 + rng.Int64N(1<<50), Burst: 1 + rng.Int64N(1<<31-1),
			}
			v := api.LimitValues{Remaining: rng.Int64N(1 << 31), ResetAfter: rng.Uint64()}
			a.set.Limits, a.res.Limits = append(a.set.Limits, info), append(a.res.Limits, v)

			p := httpsfv.NewItem(info.Name)
			p.Params.Add("q", info.Burst)
			if info.Algorithm != api.Concurrency {
				p.Params.Add("w", fillSeconds(&info))
			}
			s := httpsfv.NewItem(info.Name)
			s.Params.Add("r", v.Remaining)
			s.Params.Add("t", min(ceil(v.ResetAfter, 1e6), maxField))
			policies, states = append(policies, p), append(states, s)
		}
		h := http.Header{}
		a.setRateLimit(h)
		for name, list := range map[string]httpsfv.List{"RateLimit-Policy": policies, "RateLimit": states} {
			want, err := httpsfv.Marshal(list)
			if err != nil {
				t.Fatal(err)
			}
			if len(h[name]) != 1 || h[name][0] != want {
				t.Fatalf("%s: %q, want %q", name, h[name], want)
			}
			if _, err := httpsfv.UnmarshalList(h[name]); err != nil {
				t.Fatalf("%s: %q: %v", name, h[name], err)
			}
		}
	}
}

func TestTheOldTripleIsThereForPoliciesThatAskForIt(t *testing.T) {
	w := newWorld(t)
	doc := `{"limits":[{"rate":2,"per":"1m"}],"headers":["x-ratelimit"]}`
	if r := w.do("PUT", "/v1/policies/old", doc, "Content-Type: application/json"); r.StatusCode != http.StatusCreated {
		t.Fatal(r.body)
	}
	triple := func(policy, query string) []string {
		r := w.post("/v1/take"+query, `{"policy":"`+policy+`","key":"k"}`)
		return slices.Concat(r.Header["X-Ratelimit-Limit"], r.Header["X-Ratelimit-Remaining"], r.Header["X-Ratelimit-Reset"])
	}
	for _, want := range [][]string{{"2", "1", "30"}, {"2", "0", "60"}, {"2", "0", "30"}} {
		if got := triple("old", "?deny_status=429"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := triple("api", ""); got != nil {
		t.Errorf("a policy that does not ask has %q", got)
	}
}
