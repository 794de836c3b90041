package httpapi

import (
	"encoding/json"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestAnAnswerTellsWhoDecidedAndInWhichMode(t *testing.T) {
	w := newWorld(t)
	w.more(`
name: soft
limits: [{rate: 2, per: 24h}]
mode: soft
sync_interval: 1m
---
name: leased
limits: [{rate: 10, per: 24h}]
mode: leased
---
name: open
limits: [{rate: 2, per: 24h}]
on_unavailable: open
---
name: local
limits: [{rate: 2, per: 24h}]
on_unavailable: local
`)
	nowhere := api.Commit{}
	take := func(policy, mode, source string, allowed bool, remaining int64) {
		t.Helper()
		r := w.post("/v1/take", `{"policy":"`+policy+`","key":"k"}`)
		var d api.Decision
		if err := json.Unmarshal([]byte(r.body), &d); err != nil || r.StatusCode != 200 {
			t.Fatalf("%s: %d %s", policy, r.StatusCode, r.body)
		}
		if d.Mode != mode || d.Source != source || d.Allowed != allowed || d.Remaining != remaining || d.Allowed == (d.RetryAfterMS > 0) ||
			(d.Commit == nowhere) != (source != "store") {
			t.Errorf("%s: %s\nwant mode %s, source %s, allowed %v, remaining %d", policy, r.body, mode, source, allowed, remaining)
		}
	}
	take("soft", "soft", "soft", true, 1)
	take("soft", "soft", "soft", true, 0)
	take("soft", "soft", "soft", false, 0)
	take("leased", "leased", "store", true, 9) // the first
	take("open", "strict", "store", true, 1)
	take("local", "strict", "store", true, 1)
	w.set(func() { w.fail = api.NewProblem(api.Overloaded, "a test") })
	for range 4 {
		take("open", "strict", "open", true, 2)
	}
	take("local", "strict", "local", true, 0)
	take("local", "strict", "local", false, 0)

	// In a batch each by its own, and a closed one with its error.
	r := w.post("/v1/take/batch", `{"requests":[{"policy":"open","key":"k"},{"policy":"api","key":"k"},{"policy":"soft","key":"other"}]}`)
	var out api.BatchResponse
	if err := json.Unmarshal([]byte(r.body), &out); err != nil || len(out.Results) != 3 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if got := out.Results; got[0].Decision == nil || got[0].Source != "open" || got[1].Error == nil || got[1].Error.Code != api.Overloaded ||
		got[2].Decision == nil || got[2].Source != "soft" {
		t.Errorf("%s", r.body)
	}
}
