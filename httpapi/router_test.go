package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
)

func TestTheRouterServesTheTableOfRoutes(t *testing.T) {
	w := newWorld(t)
	table := map[string]bool{}
	for _, r := range api.Routes {
		table[r.Name+" "+r.Method+" "+r.Path] = true
	}
	err := w.edge.router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := r.GetMethods()
		if err != nil {
			return err
		}
		for _, m := range methods {
			if m == http.MethodHead {
				continue // comes with GET
			}
			id := r.GetName() + " " + m + " " + path
			if !table[id] {
				t.Errorf("%s is served, and not in the table", id)
			}
			delete(table, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range table {
		t.Errorf("%s is in the table, and not served", id)
	}
	if n := len(w.edge.handlers()); n != len(api.Routes) {
		t.Errorf("%d handlers for %d routes", n, len(api.Routes))
	}
}

func TestWhatIsNotThereIsAProblemToo(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/", "/v1", "/v1/takes", "/v1//take", "//v1/take", "/v1/take/", "/v1/reservation", "/v1/policies/", "/v1/policies/a/b/c"} {
		wantProblem(t, w.post(path, `{}`), api.NotFound, "")
	}
	for _, tc := range []struct{ method, path, allow string }{
		{"GET", "/v1/take", "POST"},
		{"PUT", "/v1/take/batch", "POST"},
		{"POST", "/livez", "GET, HEAD"},
		{"PUT", "/v1/policies", "GET, HEAD, POST"},
		{"POST", "/v1/policies/api", "GET, HEAD, PUT, DELETE"},
		{"POST", "/v1/policies/ns/api", "GET, HEAD, PUT, DELETE"},
		{"OPTIONS", "/v1/cluster", "GET, HEAD"},
	} {
		r := w.do(tc.method, tc.path, "")
		wantProblem(t, r, api.MethodNotAllowed, tc.allow)
		if got := r.Header.Get("Allow"); got != tc.allow {
			t.Errorf("%s %s: Allow: %q, want %q", tc.method, tc.path, got, tc.allow)
		}
	}
}

// The router would send a request of an exact route where the table of exact
// routes sends it.
func TestExactRoutesAreTheRouters(t *testing.T) {
	e := newWorld(t).edge
	for _, r := range api.Routes {
		var match mux.RouteMatch
		req := httptest.NewRequest(r.Method, r.Path, nil)
		_, exact := e.exact[exactRoute{r.Method, r.Path}]
		if exact == strings.Contains(r.Path, "{") {
			t.Errorf("%s %s: exact is %v", r.Method, r.Path, exact)
		}
		if exact && (!e.router.Match(req, &match) || match.Route.GetName() != r.Name) {
			t.Errorf("%s %s: the router does not send it to %s", r.Method, r.Path, r.Name)
		}
	}
}

func TestEveryResponseCarriesARequestID(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	for _, given := range []string{"", "has space", strings.Repeat("x", 65), "schön"} {
		var headers []string
		if given != "" {
			headers = append(headers, "X-Request-Id: "+given)
		}
		for _, path := range []string{"/livez", "/nowhere", "/v1/policies/api"} {
			id := w.do("GET", path, "", headers...).Header.Get("X-Request-Id")
			if len(id) != 32 || seen[id] || id == given {
				t.Errorf("%s: the request id is %q", path, id)
			}
			seen[id] = true
		}
	}
	if id := w.do("GET", "/livez", "", "X-Request-Id: abc/1.2_3").Header.Get("X-Request-Id"); id != "abc/1.2_3" {
		t.Errorf("a caller's id comes back as %q", id)
	}
}

// panics is a limiter with a bug.
type panics struct{ Doer }

func (panics) Do(context.Context, *api.Batch, limiter.Options) ([]byte, error) { panic("a bug") }

// garbage is a limiter whose replies make no sense.
type garbage struct {
	Doer
	reply []byte
}

func (g garbage) Do(context.Context, *api.Batch, limiter.Options) ([]byte, error) {
	return g.reply, nil
}

func TestABugInsideIsA500AndTheNextRequestIsServed(t *testing.T) {
	empty := api.FinishReply(api.BeginReply(nil, 0, api.Commit{}), 0, nil)
	reset := api.FinishReply(api.AppendResult(api.BeginReply(nil, 1, api.Commit{}), &api.Result{Status: api.StatusReset}), 0, nil)
	for name, l := range map[string]Doer{"panic": panics{}, "no reply": garbage{}, "no result": garbage{reply: empty}, "another kind of result": garbage{reply: reset}} {
		w := newWorld(t, func(c *Config) { c.Limiter, c.MaxInFlight = l, 1 })
		for range 2 {
			wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"k"}`), api.Internal, "")
			wantProblem(t, w.post("/v1/take/batch", `{"requests":[{"policy":"api","key":"k"}]}`), api.Internal, "")
		}
		if r := w.do("GET", "/livez", ""); r.StatusCode != 200 {
			t.Errorf("%s: %s", name, r.Status)
		}
	}
}

func TestRequestsAreCountedByRouteAndStatus(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"api","key":"secret-key"}`)
	w.post("/v1/take", `{"policy":"api","key":"secret-key"}`)
	w.post("/v1/take", `{}`)
	w.do("GET", "/secret-path", "")
	for _, tc := range []struct {
		route, status string
		want          float64
	}{{"take", "200", 2}, {"take", "400", 1}, {"none", "404", 1}} {
		if got := testutil.ToFloat64(w.edge.metrics.requests.WithLabelValues(tc.route, tc.status)); got != tc.want {
			t.Errorf("%s %s: %v, want %v", tc.route, tc.status, got, tc.want)
		}
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 4 {
		t.Errorf("%d families of metrics are registered", len(families))
	}
	for _, f := range families {
		if strings.Contains(f.String(), "secret") {
			t.Errorf("a label holds what a caller sent: %s", f)
		}
	}
}
