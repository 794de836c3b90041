package policy

import (
	"errors"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestEqualInlineLimitsShareBuckets(t *testing.T) {
	groups := [][]string{
		{`[{"rate":5,"per":"1m"}]`, `[{"name":"default","rate":5,"per":"60s","burst":5}]`, "[ {\n\"burst\": 5, \"per\": \"1m0s\", \"rate\": 5, \"algorithm\": \"token_bucket\"} ]"},
		{`[{"rate":6,"per":"1m"}]`},
		{`[{"rate":5,"per":"2m"}]`},
		{`[{"rate":5,"per":"1m","burst":6}]`},
		{`[{"name":"x","rate":5,"per":"1m"}]`},
		{`[{"rate":5,"per":"1m"},{"rate":6,"per":"1m"}]`},
		{`[{"rate":6,"per":"1m"},{"rate":5,"per":"1m"}]`},
		{`[{"algorithm":"fixed_window","rate":5,"per":"1m"}]`},
		{`[{"algorithm":"sliding_window","rate":5,"per":"1m"}]`},
		{`[{"algorithm":"fixed_window","rate":5,"per":"month"}]`},
		{`[{"algorithm":"concurrency","max":5}]`},
	}
	owner := map[string]int{}
	for i, group := range groups {
		for _, text := range group {
			set, err := ParseInline([]byte(text))
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if set.Revision != 0 || CheckName(set.Policy) == nil {
				t.Errorf("%s: policy %q at revision %d could be one of the catalog", text, set.Policy, set.Revision)
			}
			if j, ok := owner[string(set.Encoded)]; ok && j != i {
				t.Errorf("groups %d and %d share %q", i, j, set.Policy)
			}
			if j, ok := owner[set.Policy]; ok && j != i {
				t.Errorf("groups %d and %d share %q", i, j, set.Policy)
			}
			owner[set.Policy], owner[string(set.Encoded)] = i, i
		}
	}
	if len(owner) != 2*len(groups) {
		t.Errorf("%d groups have %d identities", len(groups), len(owner)/2)
	}
}

func TestInlineNameReadsWell(t *testing.T) {
	set, err := ParseInline([]byte(`[{"rate":1,"per":"3600s"},{"name":"x","rate":2,"per":"1.5s","burst":7}]`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "inline:limit-1=1/1h/1,x=2/1.5s/7"; set.Policy != want {
		t.Errorf("%q, want %q", set.Policy, want)
	}
	if set.MinBurst != 1 {
		t.Errorf("least burst %d, want 1", set.MinBurst)
	}
}

func TestWrongInlineLimitsAreInvalidPolicies(t *testing.T) {
	cases := map[string]string{
		``:                                   "0 limits: this is not JSON\n",
		`- {rate: 5, per: 1m}`:               "0 limits: this is not JSON\n",
		`[{"rate":5,"per":"1m"}] x`:          "0 limits: this is not JSON\n",
		`{}`:                                 "0 limits: it needs a list of limits, such as [{rate: 100, per: 1s}], not a mapping\n",
		`null`:                               "0 limits: it needs a list of limits, such as [{rate: 100, per: 1s}], not nothing\n",
		`[]`:                                 "0 limits: it is empty; it needs 1 to 16 limits\n",
		`[{"rate":0,"per":"1m"}]`:            "0 limits[0].rate: it needs to be 1 to 2147483647, not 0\n",
		`[{"rate":5,"per":"1m","per":"2m"}]`: "0 limits[0].per: this field is here already; keep one of them\n",
		`[{"rate":5,"per":"1m","a":1}]`:      "0 limits[0].a: unknown field \"a\"; the fields here are name, algorithm, rate, per, burst, max\n",
	}
	for text, want := range cases {
		_, err := ParseInline([]byte(text))
		var p *api.Problem
		if !errors.As(err, &p) || p.Code != api.InvalidPolicy {
			t.Errorf("%s: error %v", text, err)
		} else if got := lines(p.Errors); got != want {
			t.Errorf("%s: got\n%swant\n%s", text, got, want)
		}
	}
}
