// Package rlhttp limits the requests of an HTTP server by an rlstore.
//
//	limit := rlhttp.New(c, "api", rlhttp.WithKey(rlhttp.ByHeader("X-Api-Key")))
//	http.ListenAndServe(addr, limit(mux))
//
// Each request is a take of one token. A denied one is answered with 429, a
// Retry-After and a problem document, and does not reach the handler. Every
// answer tells the limits in the fields of draft-ietf-httpapi-ratelimit-headers.
//
// The package imports the standard library and this module only.
package rlhttp

import (
	"context"
	"net/http"

	"github.com/rlstore/rlstore/client"
)

// Taker decides: a [client.Client].
type Taker interface {
	Take(ctx context.Context, policy, key string, cost int64, opts ...client.TakeOption) (client.Decision, error)
}

// KeyFunc tells whom a request is charged to. With "" it is charged to nobody, and
// refused with 400: a request without an API key is no request of everybody's.
type KeyFunc func(r *http.Request) string

// config is what options fill in.
type config struct {
	policy func(*http.Request) string
	key    KeyFunc
	cost   func(*http.Request) int64
	skip   func(*http.Request) bool
	open   bool
	failed func(*http.Request, error)
	denied func(http.ResponseWriter, *http.Request, client.Decision)
}

// Option configures the middleware.
type Option func(*config)

// WithKey sets whom requests are charged to; the default is [ByIP] without trusted
// proxies.
func WithKey(f KeyFunc) Option { return func(c *config) { c.key = f } }

// WithCost sets how many tokens a request costs; the default is 1. A request that
// costs nothing, or less, passes without a take.
func WithCost(f func(*http.Request) int64) Option { return func(c *config) { c.cost = f } }

// WithPolicy chooses the policy by the request, in place of New's.
func WithPolicy(f func(*http.Request) string) Option { return func(c *config) { c.policy = f } }

// WithSkip lets requests pass without a take, such as probes.
func WithSkip(f func(*http.Request) bool) Option { return func(c *config) { c.skip = f } }

// FailOpen lets requests pass that the store could not decide. The default is
// closed, as that of policies: they are answered with 503. A request whose outcome
// is unknown may have been charged either way.
//
// What cannot be right later, such as a policy that does not exist or a cost above
// the burst, is 500 in either case: it is for the operator to mend, and would
// otherwise be no limit that nobody notices.
func FailOpen() Option { return func(c *config) { c.open = true } }

// OnError is told of every request that the store did not decide, such as to count
// them.
func OnError(f func(*http.Request, error)) Option { return func(c *config) { c.failed = f } }

// OnDenied answers the denied requests in place of the 429 with its problem
// document. The fields RateLimit, RateLimit-Policy and Retry-After are set already.
func OnDenied(f func(http.ResponseWriter, *http.Request, client.Decision)) Option {
	return func(c *config) { c.denied = f }
}

// New returns middleware that takes from policy for each request.
//
// The wait for the store is bounded by the request's context and by
// [client.WithTimeout], whichever is shorter if the context has a deadline; give
// the client one that a waiting caller can bear.
func New(t Taker, policy string, opts ...Option) func(http.Handler) http.Handler {
	c := config{
		policy: func(*http.Request) string { return policy },
		key:    ByIP(),
		cost:   func(*http.Request) int64 { return 1 },
		skip:   func(*http.Request) bool { return false },
		failed: func(*http.Request, error) {},
		denied: respondDenied,
	}
	for _, o := range opts {
		o(&c)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.pass(t, w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// pass decides a request, and answers it if it is not to pass.
func (c *config) pass(t Taker, w http.ResponseWriter, r *http.Request) bool {
	if c.skip(r) {
		return true
	}
	cost := c.cost(r)
	if cost <= 0 {
		return true
	}
	key := c.key(r)
	if key == "" {
		respondProblem(w, r, http.StatusBadRequest, "", "The request does not say who sends it", nil)
		return false
	}
	d, err := t.Take(r.Context(), c.policy(r), key, cost)
	if err != nil {
		c.failed(r, err)
		return c.undecided(w, r, err)
	}
	setHeaders(w.Header(), &d)
	if d.Allowed {
		return true
	}
	w.Header().Set("Retry-After", seconds(d.RetryAfter))
	c.denied(w, r, d)
	return false
}
