package httpapi

import (
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
)

const newPolicy = `{"name":"new","limits":[{"name":"burst","rate":5,"per":"1s"}]}`

func TestPoliciesAreStoredAndGuardedByTheirRevision(t *testing.T) {
	w := newWorld(t)
	const media = "Content-Type: application/json"
	put := func(rate string, headers ...string) response {
		return w.do("PUT", "/v1/policies/new", strings.Replace(newPolicy, "5", rate, 1), append(headers, media)...)
	}
	wantProblem(t, w.do("GET", "/v1/policies/new", ""), api.UnknownPolicy, "new")
	wantProblem(t, put("5", "If-Match: *"), api.RevisionConflict, "")
	wantProblem(t, put("5", `If-Match: "1"`), api.RevisionConflict, "")
	r := put("5", "If-None-Match: *")
	if r.StatusCode != 201 || r.Header.Get("ETag") != `"4"` {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	same(t, r.body, `{"name":"new","limits":[{"name":"burst","algorithm":"token_bucket","rate":5,"per":"1s","burst":5}],
		"mode":"strict","on_unavailable":"closed","enforcement":"enforce","revision":4}`)
	wantProblem(t, put("5", "If-None-Match: *"), api.RevisionConflict, "")
	if r := put("5"); r.StatusCode != 200 || r.Header.Get("ETag") != `"4"` {
		t.Errorf("unchanged: %s %v", r.Status, r.Header)
	}
	wantProblem(t, put("6", `If-Match: "3"`), api.RevisionConflict, "")
	if r := put("6", `If-Match: "4"`); r.StatusCode != 200 || r.Header.Get("ETag") != `"5"` {
		t.Errorf("changed: %s %v", r.Status, r.Header)
	}
	if r := w.do("GET", "/v1/policies/new", ""); r.StatusCode != 200 || r.Header.Get("ETag") != `"5"` || !strings.Contains(r.body, `"revision":5`) {
		t.Errorf("read: %s %v %s", r.Status, r.Header, r.body)
	}
	if r := w.do("GET", "/v1/policies/new", "", `If-None-Match: "5"`); r.StatusCode != 304 || r.body != "" {
		t.Errorf("unchanged read: %s %q", r.Status, r.body)
	}
	if r := w.do("HEAD", "/v1/policies/new", ""); r.StatusCode != 200 || r.Header.Get("ETag") != `"5"` || r.body != "" {
		t.Errorf("head: %s %v", r.Status, r.Header)
	}
	if r := w.do("GET", "/v1/policies", ""); !strings.HasPrefix(r.body, `{"policies":[{"name":"api",`) || !strings.HasSuffix(r.body, "\"revision\":5}\n") {
		t.Errorf("list: %s", r.body)
	}
	if r := w.do("GET", "/v1/policies", ""); r.Header.Get("ETag") != `"5"` {
		t.Errorf("list: %v", r.Header)
	}
	if r := w.do("GET", "/v1/policies", "", `If-None-Match: "5"`); r.StatusCode != 304 || r.body != "" {
		t.Errorf("unchanged list: %s %q", r.Status, r.body)
	}
	wantProblem(t, w.do("DELETE", "/v1/policies/new", "", `If-Match: "4"`), api.RevisionConflict, "")
	if r := w.do("DELETE", "/v1/policies/new", "", `If-Match: "5"`); r.StatusCode != 204 || r.body != "" {
		t.Errorf("delete: %s %q", r.Status, r.body)
	}
	wantProblem(t, w.do("DELETE", "/v1/policies/new", ""), api.UnknownPolicy, "new")
}

func TestConditionsMayNameSeveralRevisions(t *testing.T) {
	w := newWorld(t)
	// The policy api has revision 1.
	for header, status := range map[string]int{
		`"1"`: 304, `"1", "6"`: 304, `"6","1"`: 304, `W/"1"`: 304, `"6", W/"1"`: 304, `"a,b" , "1"`: 304, `, "1",`: 304, `*`: 304,
		`"6"`: 200, `"6", "7"`: 200, `"11"`: 200, `"a, \"1\""`: 200, `1`: 200, ``: 200,
	} {
		if r := w.do("GET", "/v1/policies/api", "", "If-None-Match: "+header); r.StatusCode != status {
			t.Errorf("GET, If-None-Match: %s: %s", header, r.Status)
		}
	}
	if r := w.do("GET", "/v1/policies/api", "", `If-None-Match: "6"`, `If-None-Match: "1"`); r.StatusCode != 304 {
		t.Errorf("GET, two lines of If-None-Match: %s", r.Status)
	}
	body := func(rate string) string {
		return strings.NewReplacer("new", "api", "5", rate).Replace(newPolicy)
	}
	wantProblem(t, w.do("PUT", "/v1/policies/api", body("5"), `If-Match: W/"1"`, "Content-Type: application/json"), api.RevisionConflict, "")
	for i, headers := range [][]string{{`If-Match: "1", "2"`}, {`If-Match: "9","4"`}, {`If-Match: W/"9", "5"`}, {`If-Match: "7"`, `If-Match: "6"`}} {
		r := w.do("PUT", "/v1/policies/api", body("5"+strings.Repeat("0", i)), append(headers, "Content-Type: application/json")...)
		if r.StatusCode != 200 || r.Header.Get("ETag") != etag(uint64(4+i)) {
			t.Errorf("PUT, %s: %s %s", headers, r.Status, r.body)
		}
	}
	wantProblem(t, w.do("DELETE", "/v1/policies/api", "", `If-Match: "1", "6"`), api.RevisionConflict, "")
	if r := w.do("DELETE", "/v1/policies/api", "", `If-Match: "1", "7"`); r.StatusCode != 204 {
		t.Errorf("DELETE: %s", r.Status)
	}
}

func TestADocumentMayBePostedUnderItsOwnName(t *testing.T) {
	w := newWorld(t)
	const yaml = "name: ns/y\nlimits:\n  - {name: burst, rate: 5, per: 1s}\n"
	const media = "Content-Type: application/yaml"
	r := w.do("POST", "/v1/policies", yaml, media, "If-None-Match: *")
	if r.StatusCode != 201 || r.Header.Get("Location") != "/v1/policies/ns/y" || r.Header.Get("ETag") != `"4"` {
		t.Errorf("new: %s %v", r.Status, r.Header)
	}
	if got := w.do("GET", r.Header.Get("Location"), ""); got.StatusCode != 200 || got.body != r.body {
		t.Errorf("at its location: %s %s", got.Status, got.body)
	}
	if r := w.post("/v1/policies", `{"name":"ns/y","limits":[{"name":"burst","rate":6,"per":"1s"}]}`, `If-Match: "4"`); r.StatusCode != 200 || r.Header.Get("ETag") != `"5"` || r.Header.Get("Location") != "" {
		t.Errorf("replaced: %s %v", r.Status, r.Header)
	}
	wantProblem(t, w.do("POST", "/v1/policies", yaml, media, `If-Match: "4"`), api.RevisionConflict, "")
	wantProblem(t, w.post("/v1/policies", `{"limits":[{"rate":6,"per":"1s"}]}`), api.InvalidPolicy, "name")
	wantProblem(t, w.post("/v1/policies", `{"name":"a/overrides","limits":[{"rate":6,"per":"1s"}]}`), api.InvalidPolicy, "name")
	wantProblem(t, w.do("POST", "/v1/policies", yaml), api.UnsupportedMediaType, "")
	w.set(func() { w.leader.Local = false })
	wantProblem(t, w.do("POST", "/v1/policies", yaml, media, "X-Rlstore-Forward: never"), api.NotLeader, "")
}

func TestAnEditIsNotForwardedForWhoForbidsIt(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.leader = limiter.Leader{ID: "n2", HTTP: "http://n2", Known: true} })
	const media, never = "Content-Type: application/json", "X-Rlstore-Forward: never"
	for _, method := range []string{"PUT", "DELETE"} {
		p := wantProblem(t, w.do(method, "/v1/policies/new", newPolicy, media, never), api.NotLeader, "")
		if p.Leader != "http://n2" || p.Shard == nil || *p.Shard != 0 || p.SlotMapVersion != 1 {
			t.Errorf("%s: the problem says leader %q, shard %v, slot map %d", method, p.Leader, p.Shard, p.SlotMapVersion)
		}
		wantProblem(t, w.do(method, "/v1/policies/new", newPolicy, media, "X-Rlstore-Forward: always"), api.InvalidRequest, `"always"`)
	}
	wantProblem(t, w.do("GET", "/v1/policies/new", ""), api.UnknownPolicy, "")
	if r := w.do("PUT", "/v1/policies/new", newPolicy, media); r.StatusCode != 201 {
		t.Errorf("forwarded: %s", r.Status)
	}
	w.set(func() { w.leader.Local = true })
	if r := w.do("DELETE", "/v1/policies/new", "", never); r.StatusCode != 204 {
		t.Errorf("at the leader: %s", r.Status)
	}
}

func TestConditionsAreReadStrictly(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		header string
		code   api.Code
	}{
		{`If-Match: 7`, api.InvalidRequest},
		{`If-Match: "7`, api.InvalidRequest},
		{`If-Match: "`, api.InvalidRequest},
		{`If-Match: "7" "8"`, api.InvalidRequest},
		{`If-Match: "7", 8`, api.InvalidRequest},
		{`If-Match: "7", *`, api.InvalidRequest},
		{`If-Match: "7 8"`, api.InvalidRequest},
		{`If-Match: ,`, api.InvalidRequest},
		{`If-Match: W/7`, api.InvalidRequest},
		{`If-Match: "1", "2", "3", "4", "5", "6", "7", "8", "9"`, api.InvalidRequest},
		{`If-Match: W/"7"`, api.RevisionConflict},
		{`If-Match: "7", "8"`, api.RevisionConflict},
		{`If-Match: "a,b"`, api.RevisionConflict},
		{`If-Match: "x"`, api.RevisionConflict},
		{`If-Match: "07"`, api.RevisionConflict},
		{`If-Match: "-1"`, api.RevisionConflict},
		{`If-Match: ""`, api.RevisionConflict},
		{`If-Match: "99999999999999999999"`, api.RevisionConflict},
		{`If-None-Match: "7"`, api.InvalidRequest},
		{`If-None-Match: *, "7"`, api.InvalidRequest},
	} {
		wantProblem(t, w.do("PUT", "/v1/policies/new", newPolicy, tc.header, "Content-Type: application/json"), tc.code, "")
	}
	wantProblem(t, w.do("DELETE", "/v1/policies/new", "", "If-None-Match: *"), api.InvalidRequest, "If-Match")
	wantProblem(t, w.do("PUT", "/v1/policies/new", newPolicy, "If-Match: *", "If-None-Match: *", "Content-Type: application/json"), api.InvalidRequest, "one of")
}

func TestPoliciesComeAsYAMLOrJSON(t *testing.T) {
	w := newWorld(t)
	const yaml = "name: ns/y\nlimits:\n  - {name: burst, rate: 5, per: 1s}\n"
	for i, media := range []string{"application/yaml", "text/yaml", "application/x-yaml", "text/yaml; charset=utf-8"} {
		r := w.do("PUT", "/v1/policies/ns/y", yaml, "Content-Type: "+media)
		if want := map[bool]int{true: 201, false: 200}[i == 0]; r.StatusCode != want {
			t.Errorf("%s: %s %s", media, r.Status, r.body)
		}
	}
	if r := w.do("GET", "/v1/policies/ns/y", ""); r.StatusCode != 200 {
		t.Errorf("a name with a namespace: %s", r.Status)
	}
	p := wantProblem(t, w.do("PUT", "/v1/policies/bad", "name: bad\nlimits:\n  - {name: a, rate: 0, per: 1s}\nmood: x\n", "Content-Type: application/yaml"), api.InvalidPolicy, "")
	if len(p.Errors) != 2 || p.Errors[0].Line == 0 {
		t.Errorf("the errors are not all listed: %+v", p.Errors)
	}
	wantProblem(t, w.do("PUT", "/v1/policies/other", yaml, "Content-Type: application/yaml"), api.InvalidPolicy, "name")
	wantProblem(t, w.do("PUT", "/v1/policies/UPPER", yaml, "Content-Type: application/yaml"), api.InvalidRequest, "UPPER")
	wantProblem(t, w.do("PUT", "/v1/policies/api/revisions", yaml, "Content-Type: application/yaml"), api.InvalidRequest, "reserved")
	wantProblem(t, w.do("PUT", "/v1/policies/big", strings.Repeat("# x\n", 2<<20), "Content-Type: application/yaml"), api.PayloadTooLarge, "")
}
