package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
)

// same compares JSON with want, in which white space does not count.
func same(t *testing.T, got, want string) {
	t.Helper()
	var squeezed strings.Builder
	for line := range strings.Lines(want) {
		squeezed.WriteString(strings.TrimSpace(line))
	}
	if strings.TrimSpace(got) != squeezed.String() {
		t.Errorf("got\n%s\nwant\n%s", got, squeezed.String())
	}
}

func TestATakeAnswersAsTheContractShows(t *testing.T) {
	w := newWorld(t)
	r := w.post("/v1/take", `{"policy":"api","key":"user:42","cost":1,"request_id":"9f0c","max_wait_ms":0}`)
	same(t, r.body, `{"allowed":true,"policy":"api","key":"user:42","limit":200,"remaining":199,
		"retry_after_ms":0,"reset_after_ms":10,"mode":"strict","source":"store","policy_revision":1,
		"commit":{"shard":1,"index":2,"offset":0,"time_ns":93200000000},
		"wait_ms":0,"shadowed":false,"duplicate":false}`)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "RateLimit-Policy": `"burst";q=200;w=2`, "RateLimit": `"burst";r=199;t=1`,
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if r.StatusCode != 200 {
		t.Error(r.Status)
	}
	again := w.post("/v1/take", `{"policy":"api","key":"user:42","request_id":"9f0c"}`)
	same(t, again.body, strings.Replace(strings.TrimSpace(r.body), `"duplicate":false`, `"duplicate":true`, 1))
}

// more adds policies to a world.
func (w *world) more(documents string) {
	w.t.Helper()
	docs, errs := policy.ParseAll([]byte(documents))
	if errs != nil {
		w.t.Fatal(errs)
	}
	for _, d := range docs {
		if _, err := w.change(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: d.Policy}}, false); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestATakeMayBorrowFromTheFuture(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"slow","key":"k","cost":2}`)
	var d api.Decision
	for i, tc := range []struct {
		cost, wait int64
		allowed    bool
		waits      int64
	}{
		{1, 1_799_999, false, 0}, {1, 1_800_000, true, 1_800_000}, {1, 1_800_000, false, 0}, {1, 86_400_000, true, 3_600_000}, {2, 86_400_000, true, 7_200_000},
	} {
		r := w.post("/v1/take", fmt.Sprintf(`{"policy":"slow","key":"k","cost":%d,"max_wait_ms":%d}`, tc.cost, tc.wait))
		if err := json.Unmarshal([]byte(r.body), &d); err != nil || r.StatusCode != 200 {
			t.Fatal(r.Status, r.body)
		}
		if d.Allowed != tc.allowed || d.WaitMS != tc.waits || d.Remaining != 0 || tc.allowed != (d.RetryAfterMS == 0) {
			t.Errorf("take %d: %+v", i, d)
		}
	}
	// In a batch too, and not in the other verbs.
	r := w.post("/v1/take/batch", `{"requests":[{"policy":"slow","key":"k","max_wait_ms":86400000},{"policy":"slow","key":"k"}]}`)
	var res api.BatchResponse
	if err := json.Unmarshal([]byte(r.body), &res); err != nil || res.Results[0].WaitMS != 9_000_000 || res.Results[1].Allowed {
		t.Error(r.body)
	}
}

func TestShadowLetsPassAndTellsTheTruth(t *testing.T) {
	w := newWorld(t)
	w.more("name: dark\nenforcement: shadow\nlimits: [{name: hourly, rate: 2, per: 1h}]")
	if r := w.post("/v1/take", `{"policy":"dark","key":"k","cost":2}`); !strings.Contains(r.body, `"shadowed":false`) {
		t.Error(r.body)
	}
	r := w.post("/v1/take?deny_status=429", `{"policy":"dark","key":"k"}`)
	if r.StatusCode != 200 || !strings.Contains(r.body, `{"allowed":true,"policy":"dark","key":"k","limit":2,"remaining":0,"retry_after_ms":1800000,`) ||
		!strings.Contains(r.body, `"source":"store"`) || !strings.Contains(r.body, `"shadowed":true`) {
		t.Error(r.Status, r.body)
	}
}

func TestOffAnswersWithoutTheStore(t *testing.T) {
	w := newWorld(t)
	w.more("name: loose\nenforcement: off\nlimits: [{name: hourly, rate: 2, per: 1h}]")
	w.fail = api.NewProblem(api.NoLeader, "nobody leads")
	r := w.post("/v1/take", `{"policy":"loose","key":"k","cost":5}`)
	same(t, r.body, `{"allowed":true,"policy":"loose","key":"k","limit":2,"remaining":2,
		"retry_after_ms":0,"reset_after_ms":0,"mode":"strict","source":"off","policy_revision":4,
		"commit":{"shard":0,"index":0,"offset":0,"time_ns":0},
		"wait_ms":0,"shadowed":false,"duplicate":false}`)
}

func TestHeadersOfEveryAlgorithm(t *testing.T) {
	w := newWorld(t)
	w.more(`
name: mixed
limits:
- {name: sliding, algorithm: sliding_window, rate: 10, per: 1m}
- {name: month, algorithm: fixed_window, rate: 1000, per: month}
- {name: hour, algorithm: fixed_window, rate: 100, per: 1h}`)
	r := w.post("/v1/take", `{"policy":"mixed","key":"k","cost":10}`)
	if got, want := r.Header.Get("RateLimit-Policy"), `"sliding";q=10;w=60, "month";q=1000;w=2678400, "hour";q=100;w=3600`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The world's cluster time is 93.2 s, and its clock was never set.
	if got, want := r.Header.Get("RateLimit"), `"sliding";r=0;t=87, "month";r=990;t=2678307, "hour";r=90;t=3507`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestADenialIsA200UnlessAskedOtherwise(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"slow","key":"k","cost":2}`)
	const denial = `{"allowed":false,"policy":"slow","key":"k","limit":2,"remaining":0,
		"retry_after_ms":1800000,"reset_after_ms":3600000,"mode":"strict","source":"store","policy_revision":3,
		"commit":{"shard":%d,"index":%d,"offset":0,"time_ns":93200000000},
		"wait_ms":0,"shadowed":false,"duplicate":false}`
	shard := w.Route(api.Slot("k"))
	for i, tc := range []struct {
		query  string
		status int
		media  string
		retry  string
	}{
		{"", 200, "application/json", ""},
		{"?deny_status=403", 403, "application/json", "1800"},
		{"?deny_status=429", 429, "application/problem+json", "1800"},
	} {
		r := w.post("/v1/take"+tc.query, `{"policy":"slow","key":"k"}`, "X-Request-Id: abc")
		if r.StatusCode != tc.status || r.Header.Get("Content-Type") != tc.media || r.Header.Get("Retry-After") != tc.retry {
			t.Errorf("%q: %s, %v", tc.query, r.Status, r.Header)
		}
		if got := r.Header.Get("RateLimit"); got != `"hourly";r=0;t=1800` {
			t.Errorf("%q: RateLimit: %s", tc.query, got)
		}
		want := fmt.Sprintf(denial, shard, i+3)
		if tc.status == 429 {
			want = strings.TrimSuffix(want, "}") + `,"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"The quota is exceeded",
				"status":429,"detail":"the limit \"hourly\" of policy \"slow\" has 0 of 2 tokens left; the same take passes in 1800000 ms",
				"instance":"/v1/take","code":"quota-exceeded","retryable":true,"outcome":"not_applied","request_id":"abc","violated-policies":["hourly"]}`
		}
		same(t, r.body, want)
	}
	if r := w.post("/v1/take?deny_status=429", `{"policy":"slow","key":"other"}`); r.StatusCode != 200 {
		t.Errorf("an allowed take: %s", r.Status)
	}
}

func TestSeveralLimitsAreListed(t *testing.T) {
	w := newWorld(t)
	r := w.post("/v1/take", `{"policy":"two","key":"k","cost":4}`)
	var d api.Decision
	if err := json.Unmarshal([]byte(r.body), &d); err != nil {
		t.Fatal(err)
	}
	want := []api.LimitState{
		{Name: "second", Limit: 10, Remaining: 6, ResetAfterMS: 400},
		{Name: "day", Limit: 50, Remaining: 46, ResetAfterMS: 4 * 86_400},
	}
	if len(d.Limits) != 2 || d.Limits[0] != want[0] || d.Limits[1] != want[1] || d.Limit != 10 || d.Remaining != 6 {
		t.Errorf("%+v", d.State)
	}
	if got := r.Header.Get("RateLimit-Policy"); got != `"second";q=10;w=1, "day";q=50;w=4320` {
		t.Errorf("RateLimit-Policy: %s", got)
	}
	if got := r.Header.Get("RateLimit"); got != `"second";r=6;t=1, "day";r=46;t=346` {
		t.Errorf("RateLimit: %s", got)
	}
}

func TestPeekRefundAndResetAnswerAsTheContractShows(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"api","key":"user:42","cost":10}`)
	r := w.post("/v1/peek", `{"policy":"api","key":"user:42"}`)
	same(t, r.body, `{"policy":"api","key":"user:42","limit":200,"remaining":190,"retry_after_ms":0,"reset_after_ms":100,
		"mode":"strict","source":"store","policy_revision":1,
		"limits":[{"name":"burst","limit":200,"remaining":190,"retry_after_ms":0,"reset_after_ms":100}],
		"commit":{"shard":1,"index":3,"offset":0,"time_ns":93200000000}}`)
	r = w.post("/v1/peek?consistency=stale", `{"policy":"api","key":"user:42"}`)
	same(t, r.body, `{"policy":"api","key":"user:42","limit":200,"remaining":190,"retry_after_ms":0,"reset_after_ms":100,
		"mode":"strict","source":"store","policy_revision":1,
		"limits":[{"name":"burst","limit":200,"remaining":190,"retry_after_ms":0,"reset_after_ms":100}],
		"commit":{"shard":1,"index":3,"offset":0,"time_ns":93200000000},"age_ms":2}`)
	r = w.post("/v1/refund", `{"policy":"api","key":"user:42","cost":5,"request_id":"r"}`)
	same(t, r.body, `{"policy":"api","key":"user:42","limit":200,"remaining":195,"retry_after_ms":0,"reset_after_ms":50,
		"mode":"strict","source":"store","policy_revision":1,
		"commit":{"shard":1,"index":4,"offset":0,"time_ns":93200000000},"refunded":5,"duplicate":false}`)
	r = w.post("/v1/refund", `{"policy":"api","key":"user:42","cost":50}`)
	if !strings.Contains(r.body, `"remaining":200`) || !strings.Contains(r.body, `"refunded":5,`) {
		t.Errorf("a refund went over the burst: %s", r.body)
	}
	w.post("/v1/take", `{"policy":"api","key":"user:42","cost":100}`)
	same(t, w.post("/v1/reset", `{"policy":"api","key":"user:42"}`).body, `{"reset":true}`)
	if r = w.post("/v1/peek", `{"policy":"api","key":"user:42"}`); !strings.Contains(r.body, `"remaining":200`) {
		t.Errorf("after a reset: %s", r.body)
	}
}

func TestABatchAnswersInOrderWithItsErrorsInPlace(t *testing.T) {
	w := newWorld(t)
	r := w.post("/v1/take/batch", `{"requests":[
		{"policy":"slow","key":"a","cost":2},
		{"policy":"slow","key":""},
		{"policy":"nope","key":"a"},
		{"policy":"slow","key":"a"},
		{"policy":"slow","key":"a","cost":0},
		{"policy":"slow","key":"a","cost":-5},
		{"policy":"slow","key":"a","cost":2147483648},
		{"policy":"slow","key":"a","cost":3},
		{"policy":"slow","limits":[],"key":"a"},
		{"key":"a"},
		{"policy":"slow","key":"a","max_wait_ms":-5},
		{"policy":"slow","key":"user:42"},
		{"policy":"slow"}]}`)
	if r.StatusCode != 200 {
		t.Fatal(r.Status, r.body)
	}
	var res api.BatchResponse
	if err := json.Unmarshal([]byte(r.body), &res); err != nil {
		t.Fatal(err)
	}
	want := []string{"allowed", "invalid-request", "unknown-policy", "denied", "invalid-request", "invalid-request", "invalid-request",
		"cost-exceeds-burst", "invalid-request", "invalid-request", "invalid-request", "allowed", "invalid-request"}
	for i, got := range res.Results {
		is := "denied"
		switch {
		case got.Error != nil && got.Decision != nil:
			t.Fatalf("result %d is both: %s", i, r.body)
		case got.Error != nil:
			is = string(got.Error.Code)
			if got.Error.Status == 0 || got.Error.Outcome != api.NotApplied || got.Error.Detail == "" {
				t.Errorf("result %d: %+v", i, got.Error)
			}
		case got.Allowed:
			is = "allowed"
		}
		if is != want[i] {
			t.Errorf("result %d: %s, want %s", i, is, want[i])
		}
	}
	if len(res.Results) != len(want) {
		t.Errorf("%d results", len(res.Results))
	}
	if r.Header.Get("RateLimit") != "" {
		t.Error("a batch has no RateLimit of its own")
	}
	same(t, w.post("/v1/take/batch", `{"atomic":false,"requests":[{"policy":"api","key":"user:42"}]}`).body,
		`{"results":[{"allowed":true,"policy":"api","key":"user:42","limit":200,"remaining":199,
		"retry_after_ms":0,"reset_after_ms":10,"mode":"strict","source":"store","policy_revision":1,
		"commit":{"shard":1,"index":3,"offset":0,"time_ns":93200000000},
		"wait_ms":0,"shadowed":false,"duplicate":false}]}`)
}

func TestAnAtomicBatchChargesAllOrNone(t *testing.T) {
	w := newWorld(t)
	r := w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"slow","key":"a{t}","cost":2},{"policy":"slow","key":"b{t}"}]}`)
	if strings.Count(r.body, `"allowed":true`) != 2 {
		t.Fatal(r.body)
	}
	r = w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"slow","key":"b{t}"},{"policy":"slow","key":"a{t}"}]}`)
	if strings.Count(r.body, `"allowed":false`) != 2 {
		t.Error(r.body)
	}
	if r = w.post("/v1/peek", `{"policy":"slow","key":"b{t}"}`); !strings.Contains(r.body, `"remaining":1,`) {
		t.Error("a denied atomic batch charged a part of it: ", r.body)
	}
	wantProblem(t, w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"api","key":"user:42"},{"policy":"api","key":"`+keyOf(2)+`"}]}`),
		api.CrossShard, "user:42")
	wantProblem(t, w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"api","key":"k"},{"policy":"api","key":""}]}`),
		api.InvalidRequest, "request 1: ")
	wantProblem(t, w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"api","key":"k"},{"policy":"nope","key":"k"}]}`),
		api.UnknownPolicy, "request 1: ")
}

// keyOf returns a key of a shard of the world's.
func keyOf(shard uint32) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint(i); uint32(api.Slot(key))/(api.Slots/2)+1 == shard {
			return key
		}
	}
}

func wantProblem(t *testing.T, r response, code api.Code, says string) *api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%s: %q: %v", r.Status, r.body, err)
	}
	info := code.Info()
	switch {
	case p.Code != code || r.StatusCode != info.Status || p.Status != info.Status:
		t.Errorf("%s: %s; want %s", r.Status, r.body, code)
	case r.Header.Get("Content-Type") != api.MediaProblem:
		t.Errorf("content type %s", r.Header.Get("Content-Type"))
	case p.Type != "urn:rlstore:problem:"+string(code) || p.Title != info.Title || p.Outcome != info.Outcome:
		t.Errorf("incomplete: %s", r.body)
	case p.RequestID == "" || p.RequestID != r.Header.Get("X-Request-Id"):
		t.Errorf("the request id is %q in the body and %q in the header", p.RequestID, r.Header.Get("X-Request-Id"))
	case r.Request != nil && p.Instance != r.Request.URL.EscapedPath():
		t.Errorf("the instance is %q", p.Instance)
	case !strings.Contains(p.Detail, says):
		t.Errorf("the detail %q does not say %q", p.Detail, says)
	case (r.StatusCode == 503) != (r.Header.Get("Retry-After") != ""):
		t.Errorf("%s with Retry-After %q", r.Status, r.Header.Get("Retry-After"))
	}
	return &p
}

func TestLimitsMayComeWithTheRequest(t *testing.T) {
	w := newWorld(t)
	r := w.post("/v1/take", `{"limits":[{"name":"b","rate":3,"per":"1s"}],"key":"k"}`)
	if r.StatusCode != 200 || !strings.Contains(r.body, `"limit":3,"remaining":2,`) {
		t.Error(r.Status, r.body)
	}
	p := wantProblem(t, w.post("/v1/take", `{"limits":[{"name":"b","rate":0,"per":"1s"}],"key":"k"}`), api.InvalidPolicy, "rate")
	if len(p.Errors) == 0 {
		t.Error("the errors are not listed")
	}
	r = w.post("/v1/take/batch", `{"requests":[{"limits":[{"name":"b","rate":0,"per":"1s"}],"key":"k"}]}`)
	if !strings.Contains(r.body, `"errors":[{"line":0,"path":"limits[0].rate"`) {
		t.Errorf("the errors are not listed in a batch: %s", r.body)
	}
	w = newWorld(t, func(c *Config) { c.AllowInline = false })
	wantProblem(t, w.post("/v1/take", `{"limits":[{"name":"b","rate":3,"per":"1s"}],"key":"k"}`), api.InvalidRequest, "--allow-inline-limits")
}

func TestTroubleBelowIsToldAsTheContractSays(t *testing.T) {
	w := newWorld(t)
	const body = `{"policy":"api","key":"user:42"}`
	w.set(func() { w.leader = limiter.Leader{ID: "n2", HTTP: "http://n2", Known: true} })
	r := w.post("/v1/take", body, "X-Rlstore-Forward: never")
	if p := wantProblem(t, r, api.NotLeader, ""); p.Leader != "http://n2" || p.Shard == nil || *p.Shard != 1 || p.SlotMapVersion != 1 {
		t.Errorf("%s", r.body)
	}
	wantProblem(t, w.post("/v1/take", body, "X-Rlstore-Forward: always"), api.InvalidRequest, "never")
	w.set(func() { w.leader.Known = false })
	wantProblem(t, w.post("/v1/take", body, "X-Rlstore-Forward: never"), api.NoLeader, "")
	w.set(func() { w.leader = limiter.Leader{ID: "n1", Local: true, Known: true} })
	for _, code := range []api.Code{api.Overloaded, api.OutcomeUnknown, api.Internal} {
		w.set(func() { w.fail = api.NewProblem(code, "fake") })
		wantProblem(t, w.post("/v1/take", body), code, "fake")
		wantProblem(t, w.post("/v1/take/batch", `{"atomic":true,"requests":[`+body+`]}`), code, "fake")
		for name, requests := range map[string]string{"one": body, "two": body + "," + body, "one that is wrong": body + `,{"policy":"nope","key":"k"}`} {
			r := w.post("/v1/take/batch", `{"requests":[`+requests+`]}`)
			var res api.BatchResponse
			if err := json.Unmarshal([]byte(r.body), &res); err != nil || r.StatusCode != 200 || len(res.Results) != 1+strings.Count(requests, "},{") {
				t.Fatalf("%s: %s %s", name, r.Status, r.body)
			}
			for i, result := range res.Results {
				want := code
				if i == 1 && name == "one that is wrong" {
					want = api.UnknownPolicy
				}
				if p := result.Error; p == nil || p.Code != want || p.RequestID == "" || want == code && p.Detail != "fake" {
					t.Errorf("%s: result %d: %s", name, i, r.body)
				}
			}
		}
	}
}

func TestAProblemInABatchTellsAsMuchAsOneAlone(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.leader = limiter.Leader{ID: "n2", HTTP: "http://n2", Known: true} })
	r := w.post("/v1/take/batch", `{"requests":[
		{"policy":"api","key":"user:42"},{"policy":"api","key":"user:3"},{"policy":"none","key":"user:3"},{"policy":"api","key":""}]}`,
		"X-Rlstore-Forward: never", "X-Request-Id: one")
	var res api.BatchResponse
	if err := json.Unmarshal([]byte(r.body), &res); err != nil || len(res.Results) != 4 {
		t.Fatalf("%s: %s: %v", r.Status, r.body, err)
	}
	for i, want := range []api.Code{api.NotLeader, "", api.UnknownPolicy, api.InvalidRequest} {
		p := res.Results[i].Error
		switch {
		case want == "" && p == nil:
		case p == nil || p.Code != want:
			t.Errorf("result %d is %+v, want %s", i, p, want)
		case p.Instance != "/v1/take/batch" || p.RequestID != "one":
			t.Errorf("result %d is of instance %q, request %q", i, p.Instance, p.RequestID)
		case want == api.NotLeader && (p.Leader != "http://n2" || p.Shard == nil || *p.Shard != 1 || p.SlotMapVersion != 1):
			t.Errorf("result %d does not tell where to go: %s", i, r.body)
		case want != api.NotLeader && p.Shard != nil:
			t.Errorf("result %d names a shard: %s", i, r.body)
		}
	}
}

func TestBinaryBatchesAnswerInKind(t *testing.T) {
	w := newWorld(t)
	op := func(kind api.Kind, cost int64) *api.Batch {
		b := &api.Batch{}
		b.Add(api.Op{Kind: kind, Policy: b.Ref("api"), Cost: cost, Key: "user:42"})
		return b
	}
	send := func(path string, b *api.Batch) response {
		return w.do("POST", path, string(api.AppendBatch(nil, b)), "Content-Type: "+api.MediaBatch)
	}
	all := op(api.Take, 10)
	all.Ops = append(all.Ops, append(append(op(api.Peek, 0).Ops, op(api.Refund, 3).Ops...), op(api.Reset, 0).Ops...)...)
	all.N = 4
	for _, tc := range []struct {
		path   string
		batch  *api.Batch
		status []api.Status
	}{
		{"/v1/take", op(api.Take, 1), []api.Status{api.StatusAllowed}},
		{"/v1/peek", op(api.Peek, 0), []api.Status{api.StatusState}},
		{"/v1/refund", op(api.Refund, 1), []api.Status{api.StatusRefunded}},
		{"/v1/reset", op(api.Reset, 0), []api.Status{api.StatusReset}},
		{"/v1/take/batch", all, []api.Status{api.StatusAllowed, api.StatusState, api.StatusRefunded, api.StatusReset}},
		{"/v1/take", op(api.Take, 201), []api.Status{api.StatusError}},
	} {
		r := send(tc.path, tc.batch)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != api.MediaBatch || r.Header.Get(api.HeaderSlotMap) != "1" {
			t.Errorf("%s: %s %v", tc.path, r.Status, r.Header)
			continue
		}
		rep, err := api.DecodeReply([]byte(r.body))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range tc.status {
			var res api.Result
			if ok, err := rep.Next(&res); !ok || err != nil || res.Status != want {
				t.Errorf("%s: result %d: %+v, %v", tc.path, i, res, err)
			}
		}
	}
	wantProblem(t, send("/v1/take", op(api.Peek, 0)), api.InvalidRequest, "operation 0 is a peek")
	wantProblem(t, send("/v1/reset", all), api.InvalidRequest, "operation 0 is a take")
	wantProblem(t, send("/v1/peek?consistency=stale", op(api.Peek, 0)), api.InvalidRequest, "stale")
	wantProblem(t, send("/v1/take?deny_status=429", op(api.Take, 1)), api.InvalidRequest, "deny_status")
	wantProblem(t, w.do("POST", "/v1/take", "junk", "Content-Type: "+api.MediaBatch), api.InvalidRequest, "binary batch")
	wantProblem(t, w.do("POST", "/v1/take", "", "Content-Type: "+api.MediaBatch), api.InvalidRequest, "binary batch")
}

func TestARequestEndsInItsTime(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RequestTimeout = 50 * time.Millisecond })
	w.set(func() { w.hold = true })
	wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"k"}`), api.Overloaded, "deadline")
}

func TestACallerWhoWaitsForLessHearsInTime(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RequestTimeout = time.Hour })
	w.set(func() { w.hold = true })
	const body = `{"policy":"api","key":"k"}`
	wantProblem(t, w.post("/v1/take", body, "X-Rlstore-Timeout: 50ms"), api.Overloaded, "deadline")
	for _, wrong := range []string{"", "50", "-1s", "0s", "soon"} {
		wantProblem(t, w.post("/v1/take", body, "X-Rlstore-Timeout: "+wrong), api.InvalidRequest, "X-Rlstore-Timeout")
	}
	wantProblem(t, w.post("/v1/take", body, "X-Rlstore-Timeout: 50ms", "X-Rlstore-Timeout: 1h"), api.InvalidRequest, "X-Rlstore-Timeout")

	// It never has more than anybody else, and less than it waits.
	for waits, want := range map[string]time.Duration{"": time.Second, "500ms": 450 * time.Millisecond, "10s": time.Second, "1050ms": 950 * time.Millisecond} {
		r := httptest.NewRequest("POST", "/v1/take", nil)
		if waits != "" {
			r.Header.Set(api.HeaderTimeout, waits)
		}
		if got, err := timeoutOf(r, time.Second); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", waits, got, err, want)
		}
	}
}

func TestMoreRequestsThanTheNodeTakesAreRefusedAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxInFlight, c.RequestTimeout = 1, time.Minute })
	w.set(func() { w.hold = true })
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() {
		defer close(first)
		r := httptest.NewRequest("POST", "/v1/take", strings.NewReader(`{"policy":"api","key":"k"}`)).WithContext(ctx)
		r.Header.Set("Content-Type", api.MediaJSON)
		w.edge.ServeHTTP(httptest.NewRecorder(), r)
	}()
	for len(w.edge.inFlight) == 0 {
		time.Sleep(time.Millisecond)
	}
	wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"k"}`), api.Overloaded, "in flight")
	for _, probe := range []string{"/livez", "/readyz", "/metrics", "/v1/version"} {
		if r := w.do("GET", probe, ""); r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", probe, r.Status)
		}
	}
	leave()
	<-first
}
