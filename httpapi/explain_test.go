package httpapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestExplainTellsWhyAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"two","key":"k","cost":8}`)
	ask := func(cost string) string {
		return w.post("/v1/explain", `{"policy":"two","key":"k"`+cost+`}`).body
	}
	// Of second 2 of 10 are left, of day 42 of 50.
	at := func(passes bool, cost, retry int) string {
		return fmt.Sprintf(`{"passes":%t,"cost":%d,"policy":"two","key":"k","limit":10,"remaining":2,"retry_after_ms":%d,"reset_after_ms":800,
			"mode":"strict","source":"store","policy_revision":2,"limits":[{"name":"second","limit":10,"remaining":2,"retry_after_ms":%d,"reset_after_ms":800},
			{"name":"day","limit":50,"remaining":42,"retry_after_ms":0,"reset_after_ms":691200}],`, passes, cost, retry, retry)
	}
	same(t, ask(""), at(true, 1, 0)+`"commit":{"shard":2,"index":3,"offset":0,"time_ns":93200000000},
		"binding":"second","override":null,"enforcement":"enforce","policy_enforcement":"enforce","cluster_enforcement":"enforce",
		"slot":`+fmt.Sprint(api.Slot("k"))+`,"shard":2,"leader":null}`)
	for cost, retry := range map[int]int{2: 0, 3: 100, 10: 800} {
		got := strings.Join(strings.Fields(ask(fmt.Sprintf(`,"cost":%d`, cost))), "")
		if !strings.HasPrefix(got, strings.Join(strings.Fields(at(retry == 0, cost, retry)), "")) {
			t.Errorf("cost %d: %s", cost, got)
		}
	}
	w.do("PUT", "/v1/policies/two/overrides", `{"key":"k*","limits":[{"rate":5,"per":"1s"}]}`, "Content-Type: application/json")
	w.do("PUT", "/v1/cluster/enforcement", `{"enforcement":"shadow"}`, "Content-Type: application/json")
	if got := ask(""); !strings.Contains(got, `"override":{"key":"k*",`) || !strings.Contains(got, `"limit":5,"remaining":5,`) ||
		!strings.Contains(got, `"enforcement":"shadow","policy_enforcement":"enforce","cluster_enforcement":"shadow"`) {
		t.Errorf("%s", got)
	}
}

// Where a take is let pass whatever it costs, an explanation is no refusal.
func TestACostAboveTheBurstIsExplainedWhereItIsLetPass(t *testing.T) {
	for _, enforcement := range []string{"shadow", "off"} {
		w := newWorld(t)
		w.do("PUT", "/v1/cluster/enforcement", `{"enforcement":"`+enforcement+`"}`, "Content-Type: application/json")
		if got := w.post("/v1/take", `{"policy":"two","key":"k","cost":11}`); !strings.Contains(got.body, `"allowed":true`) {
			t.Errorf("%s: a take is answered %s", enforcement, got.body)
		}
		got := w.post("/v1/explain", `{"policy":"two","key":"k","cost":11}`).body
		for _, part := range []string{`"passes":false,"cost":11,`, `"limit":10,"remaining":10,"retry_after_ms":0,`, `"binding":"second"`, `"enforcement":"` + enforcement + `"`} {
			if !strings.Contains(got, part) {
				t.Errorf("%s: no %s in %s", enforcement, part, got)
			}
		}
	}
}

// A permit takes one slot whatever its cost, which may exceed their number.
func TestACostAboveTheSlotsIsExplained(t *testing.T) {
	w := newWorld(t)
	w.do("PUT", "/v1/policies/jobs", `{"limits":[{"name":"jobs","algorithm":"concurrency","max":2},{"name":"starts","rate":10,"per":"1h"}]}`, "Content-Type: application/json")
	if got := w.post("/v1/explain", `{"policy":"jobs","key":"k","cost":5}`).body; !strings.Contains(got, `"passes":true`) {
		t.Errorf("got %s", got)
	}
}

func TestBadExplanationsAreRefused(t *testing.T) {
	w := newWorld(t)
	for body, code := range map[string]api.Code{
		``:                                    api.InvalidRequest,
		`{}`:                                  api.InvalidRequest,
		`{"policy":"api"}`:                    api.InvalidRequest,
		`{"policy":"api","key":""}`:           api.InvalidRequest,
		`{"policy":"api","key":7}`:            api.InvalidRequest,
		`{"policy":"api","key":"k","x":1}`:    api.InvalidRequest,
		`{"policy":"none","key":"k"}`:         api.UnknownPolicy,
		`{"policy":"api","key":"k","cost":0}`: api.InvalidRequest,
		`{"policy":"api","key":"k","cost":2147483648}`: api.InvalidRequest,
		`{"policy":"api","key":"k","cost":201}`:        api.CostExceedsBurst,
		`{"policy":"api","key":"k","cost":"1"}`:        api.InvalidRequest,
	} {
		wantProblem(t, w.post("/v1/explain", body), code, "")
	}
	w.set(func() { w.leader.Local = false })
	key := "a"
	for i := 0; api.EvenSlotMap(2).Ranges[0].To < api.Slot(key); i++ {
		key = fmt.Sprint("a", i)
	}
	wantProblem(t, w.post("/v1/explain", fmt.Sprintf(`{"policy":"api","key":%q}`, key), "X-Rlstore-Forward: never"), api.NotLeader, "")
}
