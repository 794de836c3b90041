// Package rltest is an rlstore in memory, for tests of applications that use the
// client package.
//
//	store := rltest.New(t, `
//	name: api
//	limits: [{rate: 10, per: 1s}]
//	`)
//	c := store.Client() // a *client.Client like any other
//	…
//	store.Advance(time.Second) // ten tokens come back
//
// It is no imitation: requests go through the client's own code, the HTTP API and
// the state machines of a real node, in six shards. Only what lies between is left
// out: there is one node, no network, no log and no disk. So a test finds the
// same answers, the same errors and the same headers as in production. There are no
// events: [client.Client.Events] fails.
//
// Time stands still unless the test moves it with [Store.Advance], or the store
// was opened with [Running]. There is no port, and no goroutine of the store; those
// of its clients end when the test does.
package rltest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/httpapi"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/server/catalog"
)

// Store is an rlstore in memory. It is safe for concurrent use.
type Store struct {
	node    *node
	clock   *clock
	limiter *limiter.Limiter
	handler http.Handler

	mu      sync.Mutex
	outage  Outage
	clients []*client.Client
}

// Option configures a store.
type Option func(*node)

// At sets what the store's wall clock shows at first, by which calendar windows go;
// the default is the midnight with which 2026 begins, UTC.
func At(t time.Time) Option { return func(n *node) { n.start = t } }

// Running makes time pass by itself, by [time.Now], beside what [Store.Advance]
// adds. Inside a bubble of [testing/synctest] that is the bubble's time, so that
// [client.Limiter.Wait] and the like take none in truth.
func Running() Option { return func(n *node) { n.since = time.Now() } }

// New returns a store with policies: documents in YAML, as for rlstore policy apply.
// It ends with the test.
func New(t testing.TB, policies string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(policies, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open is [New] outside of tests, such as in examples. The caller closes the store.
func Open(policies string, opts ...Option) (*Store, error) {
	n, err := newNode(opts)
	if err != nil {
		return nil, err
	}
	known, clock := catalog.Of(n, n.Now), &clock{node: n}
	l := limiter.New(limiter.Config{Catalog: known, Log: n, Replicas: n, AllowInline: true, Clock: clock})
	s := &Store{node: n, clock: clock, limiter: l, handler: httpapi.New(httpapi.Config{
		Limiter: l, Policies: known, Overrides: known, Switch: known, Members: alone{}, Cluster: n.cluster,
		Ready: func() []httpapi.Check { return nil },
		Top: func(_ context.Context, by string, count int, _ bool) (api.Top, error) {
			return limiter.MergeTop(by, count, map[string]limiter.TopPart{n.cluster().NodeID: l.Top(by)}), nil
		},
		StalePeek: l.StalePeek, SlotMapVersion: known.SlotMapVersion, XRateLimit: known.XRateLimit, AllowInline: true,
	})}
	if policies == "" {
		return s, nil
	}
	docs, errs := policy.ParseAll([]byte(policies))
	if errs != nil {
		return nil, policy.Problem(errs)
	}
	for _, d := range docs {
		if _, err := known.Put(context.Background(), d.Policy, httpapi.Condition{}, httpapi.Note{}, false); err != nil {
			return nil, fmt.Errorf("policy %s: %w", d.Policy.Name, err)
		}
	}
	return s, nil
}

// Now returns what the store's wall clock shows.
func (s *Store) Now() time.Time { return s.node.Now() }

// Advance lets time pass: tokens come back, windows begin, and what is held, or
// remembered for a time, expires. Leases and soft buckets, of the store's clients and
// of the store for callers of HTTP, go by the same time; what they then have to tell the store, such as a lease that is
// given back, it may hear a moment after Advance has returned. It panics if d is
// negative.
func (s *Store) Advance(d time.Duration) {
	s.node.advance(d)
	s.clock.due()
}

// Client returns a client of the store, which Close closes. It panics if an option
// is refused, which [client.WithTLS] is: the store is an HTTP client's transport.
func (s *Store) Client(opts ...client.Option) *client.Client {
	c, err := client.New([]string{address}, append(opts, client.WithHTTPClient(&http.Client{Transport: s}), client.WithClock(s.clock))...)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
	return c
}

// Close ends the clients that the store has made, and what it spends from memory for
// callers of HTTP.
func (s *Store) Close() {
	s.mu.Lock()
	clients := s.clients
	s.clients = nil
	s.mu.Unlock()
	for _, c := range clients {
		c.Close() // it has no error to tell
	}
	s.limiter.GiveBack(context.Background())
}

// Outage is what is wrong with the store.
type Outage int

const (
	// Healthy is nothing.
	Healthy Outage = iota
	// NoLeader refuses every request, and tells no policies as nodes do: calls fail
	// with [client.ErrUnavailable] once their time is over.
	NoLeader
	// NoAnswer carries out every request, and loses the answer: calls fail with
	// [client.ErrOutcomeUnknown] once their time is over. If the outage ends before,
	// they get the first answer, and nothing is charged twice.
	NoAnswer
)

// SetOutage begins an outage, or ends it. Calls go on until the timeout of their
// context, or of the client, so give tests a short one.
func (s *Store) SetOutage(o Outage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage = o
}

// errLost is what a caller sees of an answer that was lost.
var errLost = errors.New("rltest: the connection broke before the answer came")

// RoundTrip implements [http.RoundTripper], so that a store may be the transport of
// any HTTP client.
func (s *Store) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	outage := s.outage
	s.mu.Unlock()
	resp, err := s.exchange(r, outage == NoLeader)
	if err == nil && outage == NoAnswer {
		return nil, errLost
	}
	return resp, err
}

// ServeHTTP serves the HTTP API, such as to an [httptest.Server]. Outages are
// not for it.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.node.tick()
	s.handler.ServeHTTP(w, r)
}
