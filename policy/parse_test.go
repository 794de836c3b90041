package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

const minute = api.Duration(time.Minute)

// lines renders errors one a line, as golden text.
func lines(errs []api.FieldError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "%d %s: %s\n", e.Line, e.Path, e.Message)
	}
	return b.String()
}

func normalized(name string, limits ...api.Limit) api.Policy {
	return api.Policy{Name: name, Limits: limits, Mode: "strict", OnUnavailable: "closed", Enforcement: "enforce"}
}

func TestAcceptedDocumentsAreNormalized(t *testing.T) {
	second := api.Duration(time.Second)
	cases := []struct {
		promise, doc, address string
		want                  api.Policy
	}{
		{"a full document stays as it is",
			"name: api\nlimits:\n  - {name: burst, algorithm: token_bucket, rate: 100, per: 1s, burst: 200}\nmode: strict\non_unavailable: closed\nenforcement: enforce\n", "",
			normalized("api", api.Limit{Name: "burst", Algorithm: "token_bucket", Rate: 100, Per: second, Burst: 200})},
		{"burst defaults to rate, one limit is named default",
			"name: api\nlimits: [{rate: 5, per: 1m}]", "",
			normalized("api", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5})},
		{"several limits without names are numbered",
			"name: a\nlimits: [{rate: 5, per: 60s}, {name: x, rate: 1, per: 1s}, {rate: 6, per: 1m0s}]", "",
			normalized("a",
				api.Limit{Name: "limit-1", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5},
				api.Limit{Name: "x", Algorithm: "token_bucket", Rate: 1, Per: second, Burst: 1},
				api.Limit{Name: "limit-3", Algorithm: "token_bucket", Rate: 6, Per: minute, Burst: 6})},
		{"JSON is read, tabs and all",
			"{\n\t\"name\":\"ns/a.b\",\n\t\"limits\":[{\"rate\":5,\"per\":\"1m\"}]}", "ns/a.b",
			normalized("ns/a.b", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5})},
		{"the address names a document without a name",
			"limits: [{rate: 5, per: 1m}]", "ns/api",
			normalized("ns/api", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5})},
		{"a revision is ignored, so that what was got can be put",
			"name: api\nrevision: 18446744073709551615\nlimits: [{rate: 5, per: 1m}]", "api",
			normalized("api", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5})},
		{"the bounds themselves pass",
			"name: api\nlimits: [{rate: 2147483647, per: 8784h, burst: 2147483647}, {rate: 1000000, per: 1ms, burst: 1}]", "",
			normalized("api",
				api.Limit{Name: "limit-1", Algorithm: "token_bucket", Rate: MaxRate, Per: MaxPer, Burst: MaxBurst},
				api.Limit{Name: "limit-2", Algorithm: "token_bucket", Rate: 1000000, Per: MinPer, Burst: 1})},
		{"every algorithm, and a time zone; its rules are the server's",
			`name: a
limits:
- {algorithm: fixed_window, rate: 5, per: month}
- {algorithm: fixed_window, rate: 5, per: 1m}
- {algorithm: sliding_window, rate: 6, per: 1m}
- {algorithm: concurrency, max: 7}
time_zone: Europe/Berlin
time_zone_rules: [[0, 3600]]
enforcement: off
`, "", api.Policy{Name: "a", Mode: "strict", OnUnavailable: "closed", Enforcement: "off", TimeZone: "Europe/Berlin", Limits: []api.Limit{
				{Name: "limit-1", Algorithm: "fixed_window", Rate: 5, Per: api.Month},
				{Name: "limit-2", Algorithm: "fixed_window", Rate: 5, Per: minute},
				{Name: "limit-3", Algorithm: "sliding_window", Rate: 6, Per: minute},
				{Name: "limit-4", Algorithm: "concurrency", Max: 7},
			}}},
		{"a lease and a failure rule get their defaults",
			"name: a\nmode: leased\non_unavailable: local\nlimits: [{rate: 5, per: 1m}]", "",
			api.Policy{Name: "a", Mode: "leased", LeaseTTL: api.Duration(5 * time.Second), OnUnavailable: "local", Enforcement: "enforce",
				Limits: []api.Limit{{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5}}}},
		{"soft syncs each second unless it says otherwise",
			"name: a\nmode: soft\nlimits: [{rate: 5, per: 1m}]", "",
			api.Policy{Name: "a", Mode: "soft", SyncInterval: second, OnUnavailable: "closed", Enforcement: "enforce",
				Limits: []api.Limit{{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5}}}},
		{"what belongs to a mode and a failure rule is kept",
			"name: a\nmode: auto\nlease_ttl: 100ms\nhot_keys: [x, 'user:{7}']\non_unavailable: open\non_unavailable_for: 60s\nlimits: [{rate: 5, per: 1m}]", "",
			api.Policy{Name: "a", Mode: "auto", LeaseTTL: MinLeaseTTL, HotKeys: []string{"x", "user:{7}"},
				OnUnavailable: "open", OnUnavailableFor: minute, Enforcement: "enforce",
				Limits: []api.Limit{{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5}}}},
		{"the contract's example",
			`name: api
limits:
  - {name: burst, rate: 100, per: 1s, burst: 200}      # algorithm: token_bucket
  - {name: daily, algorithm: fixed_window, rate: 100000, per: 24h}
mode: strict                 # strict | leased | soft
on_unavailable: closed       # open | closed | local
enforcement: enforce         # enforce | shadow | off
`, "", normalized("api",
				api.Limit{Name: "burst", Algorithm: "token_bucket", Rate: 100, Per: second, Burst: 200},
				api.Limit{Name: "daily", Algorithm: "fixed_window", Rate: 100000, Per: 24 * 60 * minute})},
		{"empty documents around it don't count",
			"# policies\n---\n---\nname: a\nlimits: [{rate: 5, per: 1m}]\n---\n", "",
			normalized("a", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5})},
	}
	for _, c := range cases {
		t.Run(c.promise, func(t *testing.T) {
			got, errs := Parse([]byte(c.doc), c.address)
			if len(errs) > 0 {
				t.Fatalf("refused:\n%s", lines(errs))
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			reparse(t, got)
		})
	}
}

// reparse checks that what a server returns can be put back.
func reparse(t *testing.T, p api.Policy) {
	t.Helper()
	p.Revision, p.ZoneRules = 7, []api.ZoneShift{{0, 3600}, {1, 0}}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, errs := Parse(b, p.Name)
	if len(errs) > 0 {
		t.Fatalf("accepted, and then its JSON %s is refused:\n%s", b, lines(errs))
	}
	p.Revision, p.ZoneRules = 0, nil
	if !reflect.DeepEqual(again, p) {
		t.Fatalf("reads back as %+v, was %+v", again, p)
	}
}

func TestEveryErrorIsReportedWithItsPlace(t *testing.T) {
	const some = "\nlimits: [{rate: 5, per: 1m}]\n"
	cases := []struct{ promise, doc, address, want string }{
		{"all at once, in the order of lines",
			`mode: fast
on_unavailable: fail
enforcement: maybe
limits:
- rate: "100"
  per: 60
- rate: 1.5
  per: 1s
  burst: true
- {}
- 3
- rate: 0
  per: 9000h
  burst: 99999999999999999999
colour: blue
`, "", `
1 name: it is missing; give the policy a name
1 mode: "fast" is not a value of this field; it takes strict, leased, soft, auto
2 on_unavailable: "fail" is not a value of this field; it takes closed, open, local
3 enforcement: "maybe" is not a value of this field; it takes enforce, shadow, off
5 limits[0].rate: it needs a whole number, not text; remove the quotes
6 limits[0].per: a duration needs its unit, such as 60s or 60ms
7 limits[1].rate: it needs a whole number in plain digits, such as 100, not "1.5"
9 limits[1].burst: it needs a whole number in plain digits, such as 100, not "true"
10 limits[2].rate: it is missing; add the tokens that come back each per, such as 100
10 limits[2].per: it is missing; add a duration such as 1s or 24h
11 limits[3]: a limit is a mapping of fields (name, algorithm, rate, per, burst, max), not a number
12 limits[4].rate: it needs to be 1 to 2147483647, not 0
13 limits[4].per: it needs to be 1ms to 8784h, not 9000h
14 limits[4].burst: it needs to be 1 to 2147483647, not 99999999999999999999
15 colour: unknown field "colour"; the fields here are name, limits, mode, lease_ttl, sync_interval, hot_keys, on_unavailable, on_unavailable_for, enforcement, time_zone, headers, revision, time_zone_rules
`},
		{"a field may stand once",
			"name: a\nlimits:\n- rate: 1\n  per: 1s\n  rate: 2\nname: a\n", "", `
5 limits[0].rate: this field is here already, at line 3; keep one of them
6 name: this field is here already, at line 1; keep one of them
`},
		{"JSON too", "{\"name\":\"a\",\n\"limits\":[{\"rate\":1e3,\n\"per\":\"1s\",\"Rate\":1}]}", "", `
2 limits[0].rate: it needs a whole number in plain digits, such as 100, not "1e3"
3 limits[0].Rate: unknown field "Rate"; the fields here are name, algorithm, rate, per, burst, max
`},
		{"YAML's own notations of numbers are refused",
			"name: a\nlimits:\n- rate: 1_000\n  per: 1s\n  burst: 0x10\n- rate: 010\n  per: 1:30\n", "", `
3 limits[0].rate: it needs a whole number in plain digits, such as 100, not "1_000"
5 limits[0].burst: it needs a whole number in plain digits, such as 100, not "0x10"
6 limits[1].rate: it needs a whole number in plain digits, such as 100, not "010"
7 limits[1].per: "1:30" is not a duration; write one such as 500ms, 1s, 1m30s or 24h
`},
		{"fields without a value",
			"name:\nlimits:\n- name:\n  rate:\n  per:\n  burst:\nmode:\n", "", `
1 name: it has no value; give it one or remove the field
3 limits[0].name: it has no value; give it one or remove the field
4 limits[0].rate: it has no value; give it a whole number or remove the field
5 limits[0].per: it has no value; give it a duration such as 1s
6 limits[0].burst: it has no value; give it a whole number or remove the field
7 mode: it has no value; give it one or remove the field
`},
		{"lists and mappings where values belong",
			"name: [a]\nlimits: {rate: 1}\nmode: {}\nrevision: [1]", "", `
1 name: it needs text, not a list
2 limits: it needs a list of limits, such as [{rate: 100, per: 1s}], not a mapping
3 mode: it needs text, not a mapping
4 revision: it needs a whole number; the server sets it, so it may also be left out
`},
		{"the highest rate is a token a nanosecond",
			"name: a\nlimits: [{rate: 1000001, per: 1ms}]", "", `
2 limits[0].rate: 1000001 per 1ms is more than 10^9 a second; lower the rate or lengthen per
`},
		{"each algorithm has its own numbers",
			`name: a
limits:
- {rate: 1, per: month, max: 3}
- {algorithm: leaky, rate: 1, per: 1s}
- {algorithm: fixed_window, rate: 1, per: month, burst: 5}
- {algorithm: fixed_window, rate: 1, per: year}
- {algorithm: sliding_window, rate: 1, per: month, burst: 1, max: 1}
- {algorithm: sliding_window}
- {algorithm: concurrency, rate: 1, per: 1s, burst: 5, max: 5}
- {algorithm: concurrency}
- {algorithm: concurrency, max: 0}
`, "", `
3 limits[0].max: max is for concurrency limits; a token_bucket limit has rate and per
3 limits[0].per: month is for fixed_window limits; use a duration such as 24h
4 limits[1].algorithm: "leaky" is not a value of this field; it takes token_bucket, fixed_window, sliding_window, concurrency
5 limits[2].burst: burst is for token_bucket limits; of a fixed_window limit at most rate passes at once; remove it
6 limits[3].per: "year" is not a duration; write one such as 500ms, 1s, 1m30s or 24h
7 limits[4].max: max is for concurrency limits; a sliding_window limit has rate and per
7 limits[4].per: month is for fixed_window limits; use a duration such as 24h
7 limits[4].burst: burst is for token_bucket limits; of a sliding_window limit at most rate passes at once; remove it
8 limits[5].rate: it is missing; add the tokens that come back each per, such as 100
8 limits[5].per: it is missing; add a duration such as 1s or 24h
9 limits[6].rate: a concurrency limit has no rate, only max; remove it
9 limits[6].per: a concurrency limit has no per, only max; remove it
9 limits[6].burst: a concurrency limit has no burst, only max; remove it
10 limits[7].max: it is missing; add the permits that may be held at a time, such as 10
11 limits[8].max: it needs to be 1 to 2147483647, not 0
`},
		{"a field of another mode",
			`name: a
mode: soft
lease_ttl: 1s
hot_keys: [x]
on_unavailable_for: 1m
limits: [{rate: 1, per: 1s}]
sync_interval: 5ms
---
`, "", `
3 lease_ttl: lease_ttl is for mode leased and auto only; remove it
4 hot_keys: hot_keys is for mode auto only; remove it
5 on_unavailable_for: on_unavailable_for is for on_unavailable open and local only; remove it
7 sync_interval: it needs to be 10ms to 1m, not 5ms
`},
		{"an interval of another mode, and times that do not fit milliseconds",
			"name: a\nmode: leased\nlease_ttl: 100ms1us\nsync_interval: 1s\non_unavailable: open\non_unavailable_for: 1ms\nlimits: [{rate: 1, per: 1s}]", "", `
3 lease_ttl: it needs whole milliseconds, not 100.001ms
4 sync_interval: sync_interval is for mode soft only; remove it
6 on_unavailable_for: it needs to be 1s to 8784h, not 1ms
`},
		{"permits come from the store alone",
			"name: a\nlimits:\n- {rate: 1, per: 1s}\n- {algorithm: concurrency, max: 1}\nmode: leased\non_unavailable: open\n", "", `
5 mode: "leased" is not for policies with a concurrency limit, as limits[1] is; leave the field out
6 on_unavailable: "open" is not for policies with a concurrency limit, as limits[1] is; leave the field out
`},
		{"hot keys are keys, each once",
			"name: a\nmode: auto\nhot_keys: [a, \"\", 7, a, {}]\nlimits: [{rate: 1, per: 1s}]", "", `
3 hot_keys[1]: ` + api.AsProblem(api.CheckKey("")).Detail + `
3 hot_keys[2]: it needs text, not a number; put it in quotes
3 hot_keys[3]: "a" is in the list already; remove it
3 hot_keys[4]: it needs text, not a mapping
`},
		{"too many hot keys",
			"name: a\nmode: auto\nhot_keys: [" + strings.Repeat("k,", 65) + "]\nlimits: [{rate: 1, per: 1s}]", "", `
3 hot_keys: it has 65 keys; the most is 64
`},
		{"a time zone is one that every node knows",
			"name: a\ntime_zone: Mars/Olympus\nlimits:\n- {algorithm: fixed_window, rate: 1, per: 24h}", "", `
2 time_zone: "Mars/Olympus" is not a time zone; write a name of the IANA database, such as UTC or Europe/Berlin
`},
		{"the machine's own time zone is none",
			"name: a\ntime_zone: Local\nlimits:\n- {algorithm: fixed_window, rate: 1, per: 24h}", "", `
2 time_zone: "Local" is not a time zone; write a name of the IANA database, such as UTC or Europe/Berlin
`},
		{"a time zone that nothing goes by",
			"name: a\ntime_zone: Europe/Berlin\nlimits:\n- {rate: 1, per: 24h}", "", `
2 time_zone: time_zone is for fixed_window limits, and this policy has none; remove it
`},
		{"a limit's name is its own",
			"name: a\nlimits:\n- {name: x, rate: 1, per: 1s}\n- {name: x, rate: 1, per: 1s}\n- {name: limit-4, rate: 1, per: 1s}\n- {rate: 1, per: 1s}", "", `
4 limits[1].name: "x" is the name of limits[0] already; give each limit its own
6 limits[3].name: "limit-4" is the name of limits[2] already; give each limit its own
`},
		{"names are quoted where YAML reads something else", "name: 42" + some, "", `
1 name: it needs text, not a number; put it in quotes
`},
		{"names are lower case", "name: Api\nlimits: [{name: a/b, rate: 1, per: 1s}]", "", `
1 name: the name "Api" is not valid: ` + nameRule + `; one namespace of the same form and a '/' may precede it
2 limits[0].name: "a/b" is not a valid name: ` + nameRule + `
`},
		{"the document's name is the address's", "name: b" + some, "a", `
1 name: the document is named "b", the address says "a"; make them equal
`},
		{"a bad address", "limits: [{rate: 5, per: 1m}]", "A", `
0 name: the name "A" in the address is not valid: ` + nameRule + `; one namespace of the same form and a '/' may precede it
`},
		{"a name whose address is another one's", "name: ns/overrides" + some, "", `
1 name: the name "ns/overrides" is reserved: its address would be that of a policy's overrides
`},
		{"no limits", "name: a\n", "", `
1 limits: it is missing; add 1 to 16 limits, such as [{rate: 100, per: 1s}]
`},
		{"empty limits", "name: a\nlimits: []\n", "", `
2 limits: it is empty; it needs 1 to 16 limits
`},
		{"too many limits", "name: a\nlimits: [" + strings.Repeat("1,", 17) + "]", "", `
2 limits: it has 17 limits; the most is 16
`},
		{"anchors, aliases, tags and merge keys are refused",
			"name: &n a\nlimits:\n- {rate: 1, per: 1s, <<: {burst: 1}}\n- !!map {rate: 1}\n- {rate: 2, per: 1s, name: *n}\n", "", `
1 name: YAML anchors are not supported; remove &n
3 limits[0].<<: YAML merge keys are not supported; write the fields out
4 limits[1]: YAML tags are not supported; remove !!map
5 limits[2].name: YAML aliases are not supported; write the value out
`},
		{"an alias without its anchor", "name: a\nlimits: *x\n", "", `
2 : this is neither YAML nor JSON: the alias *x has no anchor; write the value out
`},
		{"one document", "name: a" + some + "---\nname: b" + some, "", `
4 : another document begins here; this place takes one
`},
		{"an empty document", "# nothing\n", "", `
1 : the document is empty; it needs at least name and limits
`},
		{"null", "null", "", `
1 : a policy is a mapping of fields (name, limits, mode, lease_ttl, sync_interval, hot_keys, on_unavailable, on_unavailable_for, enforcement, time_zone, headers, revision, time_zone_rules), not nothing
`},
		{"a list", "- name: a\n", "", `
1 : a policy is a mapping of fields (name, limits, mode, lease_ttl, sync_interval, hot_keys, on_unavailable, on_unavailable_for, enforcement, time_zone, headers, revision, time_zone_rules), not a list
`},
		{"broken YAML, found by the scanner", "name: a\n\tlimits: 1\n", "", `
2 : this is neither YAML nor JSON: found a tab character that violates indentation
`},
		{"broken YAML, found by the parser", "name: a\nlimits: [{rate: 5, per: 1s}\n", "", `
2 : this is neither YAML nor JSON: did not find expected ',' or ']'
`},
		{"broken JSON", `{"name":"a" "limits":[]}`, "", `
1 : this is neither YAML nor JSON: did not find expected ',' or '}'
`},
		{"a document too large", strings.Repeat(" ", MaxDocument+1), "", `
1 : the document has 65537 bytes; the most is 65536
`},
	}
	for _, c := range cases {
		t.Run(c.promise, func(t *testing.T) {
			_, errs := Parse([]byte(c.doc), c.address)
			if got := lines(errs); got != c.want[1:] {
				t.Errorf("got\n%swant%s", got, c.want)
			}
		})
	}
}

// Documents made to hurt: they are refused, soon, with a list that is bounded.
func TestBombsAreHarmless(t *testing.T) {
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9))
	}
	cases := map[string]string{
		"a billion laughs":  laughs,
		"deep lists":        "limits: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"deeper lists":      strings.Repeat("[", MaxDocument),
		"deep mappings":     strings.Repeat("{a: ", 9000),
		"deep indentation":  strings.Repeat("- ", MaxDocument/2),
		"many fields":       strings.Repeat("a: 1\n", MaxDocument/5),
		"many other fields": manyFields(),
		"many documents":    strings.Repeat("---\na\n", MaxDocument/6),
		"a long name":       "name: " + strings.Repeat("x", MaxDocument-10),
	}
	for name, doc := range cases {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, errs := Parse([]byte(doc), "")
			if len(errs) == 0 {
				t.Error("accepted")
			}
			if len(errs) > maxErrors+1 {
				t.Errorf("%d errors listed", len(errs))
			}
			for _, e := range errs {
				if len(e.Path)+len(e.Message) > 1000 {
					t.Errorf("an error of %d bytes", len(e.Path)+len(e.Message))
				}
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func manyFields() string {
	var b strings.Builder
	for i := 0; b.Len() < MaxDocument-20; i++ {
		fmt.Fprintf(&b, "f%d: 1\n", i)
	}
	return b.String()
}

func TestParseAllCountsLinesOverTheFile(t *testing.T) {
	docs, errs := ParseAll([]byte("# two\nname: a\nlimits: [{rate: 5, per: 1m}]\n---\n---\n\nname: b\nlimits: [{rate: 6, per: 1m}]\n---\n"))
	if len(errs) > 0 {
		t.Fatal(lines(errs))
	}
	want := []Doc{
		{normalized("a", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 5, Per: minute, Burst: 5}), 2},
		{normalized("b", api.Limit{Name: "default", Algorithm: "token_bucket", Rate: 6, Per: minute, Burst: 6}), 7},
	}
	if !reflect.DeepEqual(docs, want) {
		t.Errorf("got  %+v\nwant %+v", docs, want)
	}

	docs, errs = ParseAll([]byte("name: a\nlimits: [{rate: 5, per: 1m}]\n---\nname: b\nlimits: [{rate: -6, per: 1m}]\n---\nname: a\nlimits: [{rate: 5, per: 1m}]\n---\nname: [\n"))
	if got, want := lines(errs), `5 limits[0].rate: it needs to be 1 to 2147483647, not -6
7 name: the policy a is here already, at line 1; keep one of them
10 : this is neither YAML nor JSON: did not find expected node content
`; got != want || docs != nil {
		t.Errorf("got %v and\n%swant\n%s", docs, got, want)
	}

	if _, errs := ParseAll([]byte("---\n---\n")); lines(errs) != "1 : the file holds no policy\n" {
		t.Errorf("an empty file: %s", lines(errs))
	}
}

func TestProblemTellsHowManyAndTheFirst(t *testing.T) {
	_, errs := Parse([]byte("name: a\nlimits: [{rate: 0, per: 1}]"), "")
	p := Problem(errs)
	if p.Code != api.InvalidPolicy || p.Status != 422 || !reflect.DeepEqual(p.Errors, errs) {
		t.Errorf("%+v", p)
	}
	if want := "2 errors; the first: line 2, limits[0].rate: it needs to be 1 to 2147483647, not 0"; p.Detail != want {
		t.Errorf("detail %q, want %q", p.Detail, want)
	}
	if p := Problem(errs[:1]); p.Detail != "line 2, limits[0].rate: it needs to be 1 to 2147483647, not 0" {
		t.Errorf("detail %q", p.Detail)
	}
	if p := Problem([]api.FieldError{{Message: "it is empty"}}); p.Detail != "it is empty" {
		t.Errorf("detail %q", p.Detail)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, name := range []string{"a", "0", "api", "a.b_c-d", long, "ns/a", long + "/" + long} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", "A", "-a", ".a", "_a", "a b", "é", long + "x", "/a", "a/", "a/b/c", "ns/overrides", "a//b", "inline:a", "a\n"} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

// TestLinesOfErrorsAreLinesOfTheDocument: an editor is to jump there.
func TestLinesOfErrorsAreLinesOfTheDocument(t *testing.T) {
	for doc, want := range map[string]int{
		"":                             1,
		"\n\n":                         1,
		"[[[[":                         1,
		"{\n":                          1,
		"name: y\nlimits: [":           2,
		"name: y\nlimits: [\n":         2,
		"name: y\r\nlimits: [\r\n":     2,
		"name: y\rlimits: [\r":         2,
		"a: \"x\n\n":                   2,
		"%YAML 1.1\n":                  1,
		"name: y\nlimits:\n":           2,
		strings.Repeat("#\n", 1<<16):   1,
		"name: y\nlimits: [{rate: 1}]": 2,
	} {
		_, errs := Parse([]byte(doc), "")
		if len(errs) == 0 {
			t.Errorf("%.40q is accepted", doc)
		}
		for _, e := range errs {
			if e.Path != "name" && e.Line != want {
				t.Errorf("%.40q: line %d, want %d: %s", doc, e.Line, want, e.Message)
			}
			if e.Line < 1 || e.Line > want {
				t.Errorf("%.40q: there is no line %d: %s", doc, e.Line, e.Message)
			}
		}
	}
	if _, errs := ParseAll(make([]byte, MaxFile+1)); len(errs) != 1 || errs[0].Line != 1 {
		t.Errorf("a file that is too large: %s", lines(errs))
	}
}
