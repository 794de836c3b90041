package httpapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestOverridesDecideAboutTheirKeys(t *testing.T) {
	w := newWorld(t)
	put := func(body string, headers ...string) response {
		return w.do("PUT", "/v1/policies/api/overrides", body, append(headers, "Content-Type: application/json")...)
	}
	if r := put(`{"key":"vip:*","limits":[{"rate":1000,"per":"1s"}],"reason":"they pay","ttl":"720h"}`, "X-Rlstore-Author: ann", `If-Match: "1"`); r.StatusCode != 201 || r.Header.Get("ETag") != `"4"` {
		t.Errorf("%s %v %s", r.Status, r.Header, r.body)
	} else {
		same(t, r.body, `{"key":"vip:*","limits":[{"name":"default","algorithm":"token_bucket","rate":1000,"per":"1s","burst":1000}],
			"reason":"they pay","expires_in_ms":2592000000,"author":"ann","revision":4}`)
	}
	if r := put(`{"key":"vip:1","limits":[{"rate":5,"per":"1s"}]}`); r.StatusCode != 201 || r.Header.Get("ETag") != `"5"` {
		t.Errorf("%s %s", r.Status, r.body)
	}
	if r := put(`{"key":"vip:1","limits":[{"rate":5,"per":"1s"}]}`); r.StatusCode != 200 || r.Header.Get("ETag") != `"5"` {
		t.Errorf("the same again: %s %v", r.Status, r.Header)
	}
	wantProblem(t, put(`{"key":"vip:1","limits":[{"rate":6,"per":"1s"}]}`, `If-Match: "4"`), api.RevisionConflict, "revision 5")
	for key, limit := range map[string]int{"vip:1": 5, "vip:2": 1000, "other": 200} {
		r := w.post("/v1/take", fmt.Sprintf(`{"policy":"api","key":%q}`, key))
		if !strings.Contains(r.body, fmt.Sprintf(`"limit":%d,"remaining":%d,`, limit, limit-1)) || !strings.Contains(r.body, `"policy_revision":5`) {
			t.Errorf("%s: %s", key, r.body)
		}
	}
	wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"vip:1","cost":6}`), api.CostExceedsBurst, "")
	if r := w.post("/v1/peek?consistency=stale", `{"policy":"api","key":"vip:1"}`); !strings.Contains(r.body, `"limit":5,"remaining":4,`) {
		t.Errorf("a stale peek: %s", r.body)
	}

	if r := w.do("GET", "/v1/policies/api/overrides", ""); r.Header.Get("ETag") != `"5"` ||
		!strings.HasPrefix(r.body, `{"policy":"api","revision":5,"overrides":[{"key":"vip:*",`) || !strings.HasSuffix(r.body, "\"total\":2}\n") {
		t.Errorf("%v %s", r.Header, r.body)
	}
	if r := w.do("GET", "/v1/policies/api/overrides?limit=1&after=vip:*", ""); !strings.Contains(r.body, `"overrides":[{"key":"vip:1",`) {
		t.Errorf("the second page: %s", r.body)
	}
	if r := w.do("DELETE", "/v1/policies/api/overrides?key=vip:1&reason=why", ""); r.StatusCode != 204 || r.Header.Get("ETag") != `"6"` {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	wantProblem(t, w.do("DELETE", "/v1/policies/api/overrides?key=vip:1", ""), api.NotFound, "vip:1")
	// What vip:1 consumed stays so.
	if r := w.post("/v1/peek", `{"policy":"api","key":"vip:1"}`); !strings.Contains(r.body, `"limit":1000,"remaining":999,`) {
		t.Errorf("after its override: %s", r.body)
	}
}

func TestBadOverridesAreRefused(t *testing.T) {
	w := newWorld(t)
	const limits = `"limits":[{"rate":1,"per":"1s"}]`
	for _, tc := range []struct {
		method, target, body string
		code                 api.Code
		says                 string
	}{
		{"PUT", "none/overrides", `{"key":"k",` + limits + `}`, api.UnknownPolicy, "none"},
		{"PUT", "A/overrides", `{"key":"k",` + limits + `}`, api.InvalidRequest, "A"},
		{"PUT", "api/overrides", ``, api.InvalidPolicy, "empty"},
		{"PUT", "api/overrides", `[]`, api.InvalidPolicy, "mapping"},
		{"PUT", "api/overrides", `{` + limits + `}`, api.InvalidPolicy, "key"},
		{"PUT", "api/overrides", `{"key":"",` + limits + `}`, api.InvalidPolicy, "0 bytes"},
		{"PUT", "api/overrides", `{"key":7,` + limits + `}`, api.InvalidPolicy, "text"},
		{"PUT", "api/overrides", `{"key":"a\u0001",` + limits + `}`, api.InvalidPolicy, ""},
		{"PUT", "api/overrides", `{"key":"` + strings.Repeat("k", 513) + `",` + limits + `}`, api.InvalidPolicy, "513"},
		{"PUT", "api/overrides", `{"key":"k","key":"l",` + limits + `}`, api.InvalidPolicy, "already"},
		{"PUT", "api/overrides", `{"key":"k"}`, api.InvalidPolicy, "limits"},
		{"PUT", "api/overrides", `{"key":"k","limits":[]}`, api.InvalidPolicy, "empty"},
		{"PUT", "api/overrides", `{"key":"k","limits":[{"rate":0,"per":"1s"}]}`, api.InvalidPolicy, "limits[0].rate"},
		{"PUT", "api/overrides", `{"key":"k","ttl":"10ms",` + limits + `}`, api.InvalidPolicy, "ttl"},
		{"PUT", "api/overrides", `{"key":"k","ttl":10,` + limits + `}`, api.InvalidPolicy, "unit"},
		{"PUT", "api/overrides", `{"key":"k","reason":"` + strings.Repeat("r", 257) + `",` + limits + `}`, api.InvalidPolicy, "257"},
		{"PUT", "api/overrides", `{"key":"k","expires_in_ms":7,` + limits + `}`, api.InvalidPolicy, "ttl"},
		{"PUT", "api/overrides", `{"key":"k","mode":"strict",` + limits + `}`, api.InvalidPolicy, "mode"},
		{"DELETE", "api/overrides", ``, api.InvalidRequest, "key"},
		{"DELETE", "api/overrides?key=a&key=b", ``, api.InvalidRequest, "2 times"},
		{"DELETE", "api/overrides?key=%01", ``, api.InvalidRequest, "control"},
		{"DELETE", "none/overrides?key=a", ``, api.UnknownPolicy, ""},
		{"GET", "api/overrides?limit=0", ``, api.InvalidRequest, "limit"},
		{"GET", "api/overrides?limit=1001", ``, api.InvalidRequest, "limit"},
		{"GET", "none/overrides", ``, api.UnknownPolicy, ""},
		{"POST", "api/overrides", `{}`, api.MethodNotAllowed, "PUT"},
		{"GET", "none/revisions", ``, api.UnknownPolicy, ""},
		{"POST", "none/revert", `{"revision":1}`, api.UnknownPolicy, ""},
		{"POST", "api/revert", `{"revision":7}`, api.NotFound, "7"},
		{"POST", "api/revert", `{"revision":0}`, api.InvalidRequest, "revision"},
		{"POST", "api/revert", `{"revision":-1}`, api.InvalidRequest, "revision"},
		{"POST", "api/revert", `{"revision":"1"}`, api.InvalidRequest, "whole number"},
		{"POST", "api/revert", `{}`, api.InvalidRequest, "missing"},
		{"POST", "api/revert", `{"revision":1,"x":1}`, api.InvalidRequest, "x"},
		{"POST", "api/revert?reason=" + strings.Repeat("r", 257), `{"revision":1}`, api.InvalidRequest, "reason"},
	} {
		r := w.do(tc.method, "/v1/policies/"+tc.target, tc.body, "Content-Type: application/json")
		if p := wantProblem(t, r, tc.code, ""); tc.says != "" && !strings.Contains(p.Detail+fmt.Sprint(p.Errors), tc.says) {
			t.Errorf("%s %.80s %.80s: %s does not say %q", tc.method, tc.target, tc.body, r.body, tc.says)
		}
	}
	wantProblem(t, w.do("PUT", "/v1/policies/api/overrides", `{"key":"k",`+limits+`}`, "Content-Type: application/json", "If-None-Match: *"), api.InvalidRequest, "If-Match")
	wantProblem(t, w.do("PUT", "/v1/policies/api/overrides", `{"key":"k",`+limits+`}`), api.UnsupportedMediaType, "")
	wantProblem(t, w.do("PUT", "/v1/policies/api/overrides", `{"key":"k",`+limits+`}`, "Content-Type: application/json", "X-Rlstore-Author: "+strings.Repeat("a", 257)), api.InvalidRequest, "Author")
	if r := w.do("GET", "/v1/policies/api/overrides", ""); !strings.Contains(r.body, `"revision":1,"overrides":[],"total":0`) {
		t.Errorf("something was set: %s", r.body)
	}
}

func TestAPolicyHasAPast(t *testing.T) {
	w := newWorld(t)
	put := func(rate int, query string) response {
		return w.do("PUT", "/v1/policies/api"+query, fmt.Sprintf("limits: [{rate: %d, per: 1s}]", rate), "Content-Type: application/yaml", "X-Rlstore-Author: ann")
	}
	put(7, "?reason=because")
	w.do("PUT", "/v1/policies/api/overrides", `{"key":"k","limits":[{"rate":1,"per":"1s"}]}`, "Content-Type: application/json")
	wantProblem(t, w.post("/v1/policies/api/revert", `{"revision":1}`, `If-Match: "4"`), api.RevisionConflict, "")
	// Revision 5 is that of the override; the document is of 4.
	put(8, "")
	if r := w.post("/v1/policies/api/revert?reason=back", `{"revision":5}`, `If-Match: "6"`, "X-Rlstore-Author: bob"); r.StatusCode != 200 || r.Header.Get("ETag") != `"7"` || !strings.Contains(r.body, `"rate":7`) {
		t.Errorf("%s %v %s", r.Status, r.Header, r.body)
	}
	r := w.do("GET", "/v1/policies/api/revisions", "")
	if r.Header.Get("ETag") != `"7"` {
		t.Errorf("%v", r.Header)
	}
	doc := func(rate, revision int) string {
		return fmt.Sprintf(`"document":{"name":"api","limits":[{"name":"default","algorithm":"token_bucket","rate":%d,"per":"1s","burst":%d}],
			"mode":"strict","on_unavailable":"closed","enforcement":"enforce","revision":%d}`, rate, rate, revision)
	}
	want := `{"policy":"api","revision":7,"revisions":[
		{"revision":7,"change":"reverted","time_ns":93200000000,"author":"bob","reason":"back",` + doc(7, 7) + `,"reverted_to":4},
		{"revision":6,"change":"edited","time_ns":93200000000,"author":"ann",` + doc(8, 6) + `},
		{"revision":5,"change":"override-set","time_ns":93200000000,"override":"k"},
		{"revision":4,"change":"edited","time_ns":93200000000,"author":"ann","reason":"because",` + doc(7, 4) + `},
		{"revision":1,"change":"created","time_ns":93200000000,`
	got := strings.Join(strings.Fields(r.body), "")
	if !strings.HasPrefix(got, strings.Join(strings.Fields(want), "")) {
		t.Errorf("%s", r.body)
	}
}

func TestTheSwitchOfTheCluster(t *testing.T) {
	w := newWorld(t)
	same(t, w.do("GET", "/v1/cluster/enforcement", "").body, `{"enforcement":"enforce"}`)
	put := func(body, query string, headers ...string) response {
		return w.do("PUT", "/v1/cluster/enforcement"+query, body, append(headers, "Content-Type: application/json")...)
	}
	same(t, put(`{"enforcement":"shadow"}`, "?reason=a+trial", "X-Rlstore-Author: ann").body, `{"enforcement":"shadow","author":"ann","reason":"a trial","revision":4}`)
	same(t, w.do("GET", "/v1/cluster/enforcement", "").body, `{"enforcement":"shadow","author":"ann","reason":"a trial","revision":4}`)
	// Policies and overrides follow, and their revisions stay.
	w.do("PUT", "/v1/policies/slow/overrides", `{"key":"k*","limits":[{"rate":1,"per":"1h"}]}`, "Content-Type: application/json")
	take := func(key, want string) {
		t.Helper()
		if r := w.post("/v1/take", `{"policy":"slow","key":"`+key+`"}`); !strings.HasPrefix(r.body, `{"allowed":`) || !strings.Contains(r.body, want) {
			t.Errorf("%s: %s; want %s", key, r.body, want)
		}
	}
	for _, key := range []string{"other", "k1"} {
		take(key, `"shadowed":false`)
		take(key, map[string]string{"other": `"shadowed":false`, "k1": `"shadowed":true`}[key])
		take(key, `"shadowed":true`)
		take(key, `{"allowed":true`)
	}
	put(`{"enforcement":"off"}`, "")
	take("other", `"source":"off"`)
	take("k1", `"source":"off"`)
	put(`{"enforcement":"enforce"}`, "")
	take("other", `{"allowed":false`)
	take("k1", `{"allowed":false`)
	take("k1", `"policy_revision":5`)

	wantProblem(t, put(`{}`, ""), api.InvalidRequest, "missing")
	wantProblem(t, put(`{"enforcement":"on"}`, ""), api.InvalidRequest, "enforce, shadow, off")
	wantProblem(t, put(`{"enforcement":1}`, ""), api.InvalidRequest, "string")
	wantProblem(t, put(`{"enforcement":"off","reason":"x"}`, ""), api.InvalidRequest, "reason")
	w.set(func() { w.leader.Local = false })
	wantProblem(t, put(`{"enforcement":"off"}`, "", "X-Rlstore-Forward: never"), api.NotLeader, "")
}
