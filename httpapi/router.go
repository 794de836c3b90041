package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/rlstore/rlstore/api"
)

// edge serves the routes. It is immutable but for the metrics and the
// semaphore.
type edge struct {
	Config
	metrics  *metrics
	router   *mux.Router
	exact    map[exactRoute]http.Handler // routes without variables, which need no matching
	inFlight chan struct{}               // holds one element for each request being worked on
}

// New returns the handler of every route of the API.
func New(c Config) http.Handler { return newEdge(c) }

func newEdge(c Config) *edge {
	c = c.withDefaults()
	e := &edge{
		Config: c, metrics: newMetrics(c.Registerer),
		// A path is taken as it is: cleaning would answer a POST with a redirect.
		router:   mux.NewRouter().SkipClean(true),
		exact:    make(map[exactRoute]http.Handler),
		inFlight: make(chan struct{}, c.MaxInFlight),
	}
	handlers := e.handlers()
	for _, r := range api.Routes {
		methods := []string{r.Method}
		if r.Method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		h := handlers[r.Name]
		if h.serve == nil {
			panic("httpapi: no handler for the route " + r.Name)
		}
		wrapped := e.wrap(r.Name, h)
		e.router.Handle(r.Path, wrapped).Methods(methods...).Name(r.Name)
		if !strings.Contains(r.Path, "{") {
			e.exact[exactRoute{r.Method, r.Path}] = wrapped
		}
	}
	e.router.NotFoundHandler = e.wrap(noRoute, handler{e.notFound, unbounded})
	e.router.MethodNotAllowedHandler = e.wrap(noRoute, handler{e.methodNotAllowed, unbounded})
	return e
}

// noRoute is the name under which requests for no route are counted.
const noRoute = "none"

// exactRoute is a request that the router would send to the one route of this
// very path.
type exactRoute struct{ method, path string }

// handler is the work of one route. The error it returns becomes the response.
type handler struct {
	serve func(w http.ResponseWriter, r *http.Request) error
	kind  handlerKind
}

type handlerKind uint8

const (
	bounded   handlerKind = iota // counts as in flight, and has a deadline
	unbounded                    // is answered from memory, also under overload
)

// handlers maps the names of routes to their work.
func (e *edge) handlers() map[string]handler {
	return map[string]handler{
		"take":               {e.take, bounded},
		"take-batch":         {e.takeBatch, bounded},
		"peek":               {e.peek, bounded},
		"refund":             {e.refund, bounded},
		"reset":              {e.reset, bounded},
		"explain":            {e.explain, bounded},
		"reserve":            {e.reserve, bounded},
		"reservation-commit": {e.reservationCommit, bounded},
		"reservation-cancel": {e.reservationCancel, bounded},
		"acquire":            {e.acquire, bounded},
		"permit-renew":       {e.permitRenew, bounded},
		"permit-release":     {e.permitRelease, bounded},
		"policy-list":        {e.policyList, bounded},
		"policy-post":        {e.policyPost, bounded},
		"policy-get":         {e.policyGet, bounded},
		"policy-put":         {e.policyPut, bounded},
		"policy-delete":      {e.policyDelete, bounded},
		"override-list":      {e.overrideList, bounded},
		"override-put":       {e.overridePut, bounded},
		"override-delete":    {e.overrideDelete, bounded},
		"policy-revisions":   {e.policyRevisions, bounded},
		"policy-revert":      {e.policyRevert, bounded},
		"enforcement-get":    {e.enforcementGet, bounded},
		"enforcement-put":    {e.enforcementPut, bounded},
		"cluster":            {e.cluster, bounded},
		"member-add":         {e.memberAdd, bounded},
		"member-remove":      {e.memberRemove, bounded},
		"leader-transfer":    {e.leaderTransfer, bounded},
		"node-drain":         {e.nodeDrain, bounded},
		"top":                {e.top, bounded},
		"events":             {e.events, unbounded},
		"livez":              {e.livez, unbounded},
		"readyz":             {e.readyz, unbounded},
		"metrics":            {e.serveMetrics, unbounded},
		"version":            {e.version, unbounded},
		"openapi":            {e.openAPI, unbounded},
	}
}

// ServeHTTP implements [http.Handler].
func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(api.HeaderRequestID)
	if !saneID(id) {
		id = newID()
	}
	w.Header()[api.HeaderRequestID] = []string{id}
	if h, ok := e.exact[exactRoute{r.Method, r.URL.Path}]; ok {
		h.ServeHTTP(w, r)
		return
	}
	e.router.ServeHTTP(w, r)
}

// bound runs serve as one of the requests in flight, within the time of one.
func (e *edge) bound(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) error) error {
	select {
	case e.inFlight <- struct{}{}:
		defer func() { <-e.inFlight }()
	default:
		return api.NewProblem(api.Overloaded, "%d requests are in flight on this node, which is as many as it takes", cap(e.inFlight))
	}
	timeout, err := timeoutOf(r, e.RequestTimeout)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	return serve(w, r.WithContext(ctx))
}

// timeoutOf is how long a request may take: at most the node's own bound, and somewhat
// less than its caller waits, who is to hear how it ended.
func timeoutOf(r *http.Request, most time.Duration) (time.Duration, error) {
	h := r.Header[api.HeaderTimeout]
	if h == nil {
		return most, nil
	}
	d, err := time.ParseDuration(h[0])
	if err != nil || d <= 0 || len(h) > 1 {
		return 0, api.NewProblem(api.InvalidRequest, `%s takes one duration above 0, such as "1500ms", not %.80q`, api.HeaderTimeout, h)
	}
	return min(d-min(d/10, 100*time.Millisecond), most), nil
}

func (e *edge) notFound(_ http.ResponseWriter, r *http.Request) error {
	return api.NewProblem(api.NotFound, "there is no route %.200q in this version", r.URL.Path)
}

func (e *edge) methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = m
		var match mux.RouteMatch
		if e.router.Match(probe, &match) && match.MatchErr == nil {
			allowed = append(allowed, m)
		}
	}
	allow := strings.Join(allowed, ", ")
	w.Header().Set("Allow", allow)
	return api.NewProblem(api.MethodNotAllowed, "%.40q is not allowed here; use %s", r.Method, allow)
}
