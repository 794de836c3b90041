package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
)

// Doer decides batches, and knows where a key is decided: a [limiter.Limiter].
type Doer interface {
	Do(ctx context.Context, b *api.Batch, o limiter.Options) (reply []byte, err error)
	NotLeader(key string) *api.Problem
}

// Condition guards an edit of a policy. Its zero value guards nothing.
type Condition struct {
	IfMatch   *uint64 // the policy exists and has this revision
	AnyMatch  bool    // If-Match: * - the policy exists
	NoneMatch bool    // If-None-Match: * - the policy does not exist
}

// PutResult tells what became of a policy that was put.
type PutResult struct {
	Policy    api.Policy // as stored, with its revision
	Created   bool
	Unchanged bool // the stored document was the same; its revision stays
}

// Policies is the catalog. Its errors are problems: [api.UnknownPolicy] of what
// does not exist, [api.RevisionConflict] of a condition that failed,
// [api.NoLeader] while this node can't know. With noForward an edit is
// [api.NotLeader], and says who is, unless this node leads the catalog.
type Policies interface {
	Get(name string) (api.Policy, error)
	List() (api.PolicyList, error) // sorted by name
	Put(ctx context.Context, p api.Policy, cond Condition, note Note, noForward bool) (PutResult, error)
	Delete(ctx context.Context, name string, cond Condition, noForward bool) error
	// Revisions returns the changes that are remembered, the newest first.
	Revisions(name string) (api.RevisionList, error)
	// Revert puts the document that was in force at a revision, or is
	// [api.NotFound] if that is not remembered.
	Revert(ctx context.Context, name string, revision uint64, cond Condition, note Note, noForward bool) (PutResult, error)
}

// Note is who edits, and why.
type Note struct{ Author, Reason string }

// Overrides are the keys that have other limits than their policy's. Conditions are
// on the policy. Its errors are those of [Policies], and [api.NotFound] of an
// override that is not there.
type Overrides interface {
	// Overrides returns up to limit of them, from the first key after the key after.
	Overrides(name, after string, limit int) (api.OverrideList, error)
	PutOverride(ctx context.Context, name string, o api.Override, cond Condition, author string, noForward bool) (OverrideResult, error)
	// DeleteOverride returns the policy's revision after it.
	DeleteOverride(ctx context.Context, name, key string, cond Condition, note Note, noForward bool) (revision uint64, err error)
	// Matching returns the override that applies to a key; it is false if none does.
	Matching(name, key string) (api.Override, bool, error)
}

// OverrideResult tells what became of an override that was put.
type OverrideResult struct {
	Override       api.Override // as stored
	Created        bool
	PolicyRevision uint64 // after it
}

// Switch makes the policies of the whole cluster milder. Its errors are those of
// [Policies].
type Switch interface {
	Enforcement() (api.Enforcement, error)
	SetEnforcement(ctx context.Context, value string, note Note, noForward bool) (api.Enforcement, error)
}

// Members changes who belongs to the cluster and who leads what. Its errors are problems. With noForward a
// transfer is [api.NotLeader], and says who is, unless this node leads the shard.
type Members interface {
	// Transfer moves a shard's leadership to the node to, "" is the least loaded
	// one, and returns the new leader once it serves.
	Transfer(ctx context.Context, shard uint32, to string, noForward bool) (leader string, err error)
	// AddMember makes a running node a member of every shard. Repeated, it changes
	// nothing.
	AddMember(ctx context.Context, id, raft, http string) error
	// RemoveMember takes a node out of every shard, and bars its id for good.
	// Repeated, it goes on where it was cut off.
	RemoveMember(ctx context.Context, id string) error
	// StandDown has this node lead nothing until it is restarted.
	StandDown(ctx context.Context) error
}

// Check is one condition of readiness.
type Check struct {
	Name   string
	OK     bool
	Detail string // why not, if not OK
}

// Config is what the edge serves. Limiter, Policies, Overrides, Switch, Members,
// Cluster, Ready and Top are required.
type Config struct {
	Limiter   Doer
	Policies  Policies
	Overrides Overrides
	Switch    Switch
	Members   Members
	Cluster   func() api.Cluster
	Ready     func() []Check
	// Top returns the n heaviest keys, of this node only or merged over all.
	Top func(ctx context.Context, by string, n int, local bool) (api.Top, error)

	// StalePeek answers a batch of one peek from this node's own replica, and
	// tells how old the answer may be. Nil refuses stale peeks.
	StalePeek func(ctx context.Context, b *api.Batch) (reply []byte, age time.Duration, err error)
	// XRateLimit tells whether a policy asks for the X-RateLimit triple in answers
	// to takes. It is asked for each, so it is to cost no more than a look-up. Nil is
	// no policy.
	XRateLimit func(policy string) bool
	// SlotMapVersion is the version that binary answers tell; nil tells none.
	SlotMapVersion func() uint64

	Events *Feed // what /v1/events tells; nil tells nothing

	Version     api.Version
	AllowInline bool // take limits in JSON requests; the limiter, too, must allow them

	Metrics    http.Handler          // serves /metrics; nil is an empty page
	Registerer prometheus.Registerer // of the edge's own metrics; nil keeps them to itself
	Logger     *slog.Logger          // nil is slog.Default()

	// RequestTimeout bounds the work for one request; 0 is 5 s, in which an
	// election of a second or two fits and a caller has not yet given up.
	RequestTimeout time.Duration
	// MaxInFlight bounds the requests being worked on; one more is answered
	// with overloaded at once. Probes, metrics and the version do not count.
	// 0 is 4096: more could not be answered in time.
	MaxInFlight int
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5 * time.Second
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 4096
	}
	if c.Events == nil {
		c.Events = NewFeed()
	}
	if c.Metrics == nil {
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	}
	return c
}

// Server returns an HTTP server for handler with every timeout set, so that no
// connection, half-open or slow, holds memory for longer than a minute or two.
// The caller sets what else it needs, listens and shuts down.
func Server(handler http.Handler, addr string, logger *slog.Logger) *http.Server {
	return &http.Server{
		Addr:    addr,
		Handler: handler,
		// Headers fit into one packet or two; who needs longer is stalled.
		ReadHeaderTimeout: 5 * time.Second,
		// The largest body, 4 MiB, over a line of 2 Mbit/s.
		ReadTimeout: 20 * time.Second,
		// From the end of the headers: the body, the work and the answer.
		WriteTimeout: 40 * time.Second,
		// Above the 90 s for which Go's own client keeps an idle connection,
		// so that it is the client that closes and no request meets a closing
		// connection.
		IdleTimeout: 2 * time.Minute,
		// All that the API needs is far below; the default is 1 MiB.
		MaxHeaderBytes: 32 << 10,
		// "OPTIONS *" is a route that is not there, like any other.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
