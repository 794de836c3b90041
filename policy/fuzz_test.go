package policy

import (
	"bytes"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// A document comes from whoever may edit policies, or, as inline limits, from
// any caller. Whatever it is, its errors name lines that it has, and what is
// accepted is normalized: put back, it stays as it is.

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: api\nlimits:\n  - {name: burst, rate: 100, per: 1s, burst: 200}\nmode: strict\n"), "api")
	f.Add([]byte(`{"name":"a","limits":[{"rate":5,"per":"1m"},{"rate":1,"per":"24h"}],"revision":4}`), "")
	f.Add([]byte("limits: &a [*a]\n---\n<<: !!x 1\n"), "x")
	f.Add([]byte("%TAG ! tag:x,2000:\n--- !t\nname: \"\\u0041\"\n"), "")
	f.Fuzz(func(t *testing.T, doc []byte, name string) {
		p, errs := Parse(doc, name)
		placed(t, errs, doc)
		if len(errs) == 0 {
			accepted(t, p)
		}
	})
}

func FuzzParseAll(f *testing.F) {
	f.Add([]byte("name: a\nlimits: [{rate: 5, per: 1m}]\n---\nname: ns/b\nlimits: [{rate: 1, per: 24h}]\n"))
	f.Add([]byte("# nothing\n---\n---\n...\n"))
	f.Add([]byte("{\"name\":\"a\",\"limits\":[{\"rate\":5,\"per\":\"1m\"}]}\n---\nname: a\nlimits: [*x]"))
	f.Fuzz(func(t *testing.T, file []byte) {
		docs, errs := ParseAll(file)
		placed(t, errs, file)
		if len(errs) > 0 {
			return
		}
		seen := map[string]bool{}
		for _, d := range docs {
			accepted(t, d.Policy)
			if seen[d.Policy.Name] {
				t.Errorf("two documents are named %s", d.Policy.Name)
			}
			seen[d.Policy.Name] = true
		}
	})
}

func FuzzParseInline(f *testing.F) {
	f.Add([]byte(`[{"name":"b","rate":1,"per":"1s"}]`))
	f.Add([]byte(`[{"rate":100,"per":"1m0s","burst":200},{"algorithm":"token_bucket","rate":5,"per":"24h"}]`))
	f.Add([]byte(`[{"rate":1e3,"per":1}]`))
	f.Add([]byte(`[{"algorithm":"fixed_window","rate":5,"per":"month"},{"algorithm":"sliding_window","rate":5,"per":"1s"},{"algorithm":"concurrency","max":5}]`))
	f.Add([]byte(`{"limits":null}`))
	f.Fuzz(func(t *testing.T, limits []byte) {
		set, err := ParseInline(limits)
		if err != nil {
			if p, ok := err.(*api.Problem); !ok || p.Code != api.InvalidPolicy || len(p.Errors) == 0 {
				t.Fatalf("%v is not an invalid policy with its errors", err)
			}
			return
		}
		again, rest, err := api.CutSetInfo(set.Encoded)
		if err != nil || len(rest) != 0 || !bytes.Equal(api.AppendSetInfo(nil, &again), set.Encoded) {
			t.Fatalf("the limits are encoded as %x: %v", set.Encoded, err)
		}
		if CheckName(set.Policy) == nil || set.Revision != 0 || len(set.Limits) == 0 {
			t.Fatalf("accepted as %+v", set.SetInfo)
		}
		for _, l := range set.Limits {
			rated := l.Rate >= 1 && l.Rate <= MaxRate && (l.Per >= int64(MinPer) && l.Per <= int64(MaxPer) || l.Algorithm == api.FixedWindow && l.Per == 0)
			if rated == (l.Algorithm == api.Concurrency) || l.Burst < 1 || l.Burst > MaxBurst || l.Algorithm > api.Concurrency {
				t.Fatalf("out of bounds: %+v", l)
			}
		}
	})
}

// placed checks that errors are at lines of the document, but for those about the
// name in the address.
func placed(t *testing.T, errs []api.FieldError, doc []byte) {
	for _, e := range errs {
		if e.Message == "" || e.Line < 1 && e.Path != "name" || e.Line > lastLine(doc)+1 {
			t.Errorf("a document of %d lines: %+v", lastLine(doc), e)
		}
	}
}

// accepted checks what every policy is once it has been parsed.
func accepted(t *testing.T, p api.Policy) {
	if CheckName(p.Name) != nil || len(p.Limits) == 0 || p.Revision != 0 || Supported(&p) != nil {
		t.Errorf("accepted as %+v", p)
	}
	reparse(t, p)
}
