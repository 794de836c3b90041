package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Client is a connection to a cluster. It is safe for concurrent use; one is
// enough for a process.
type Client struct {
	timeout       time.Duration
	http          *http.Client
	ownHTTP       bool // http was made here
	authorization []string
	logger        *slog.Logger
	maxInFlight   int
	start         time.Time
	dir           *directory
	calls         sync.Pool // of *call
	memory        *memory
	unseen        Rule // of policies that were not seen yet

	ctx     context.Context // until Close
	cancel  context.CancelFunc
	closed  atomic.Bool
	running sync.WaitGroup // flights and questions

	// The watch over calls without a deadline of their own; see watch.
	reapAt   atomic.Int64 // when reap runs next, of now; 0 is never
	reaperMu sync.Mutex
	reaper   *time.Timer // nil until the first such call
}

// New returns a client of the cluster that the endpoints belong to: base URLs of
// some of its nodes, such as http://127.0.0.1:8101. It learns the others by
// itself. New does not use the network; the first call does.
func New(endpoints []string, opts ...Option) (*Client, error) {
	cfg := config{timeout: defaultTimeout, maxInFlight: defaultInFlight, logger: slog.New(slog.DiscardHandler)}
	for _, o := range opts {
		o(&cfg)
	}
	switch {
	case cfg.timeout <= 0:
		return nil, fail(ErrInvalidRequest, errors.New("the timeout must be positive"), nil)
	case cfg.maxInFlight < 1:
		return nil, fail(ErrInvalidRequest, errors.New("at least one batch must be in flight"), nil)
	case cfg.http != nil && cfg.tls != nil:
		return nil, fail(ErrInvalidRequest, errors.New("WithTLS and WithHTTPClient exclude each other"), nil)
	}
	c := &Client{
		timeout: cfg.timeout, http: cfg.http, logger: cfg.logger,
		maxInFlight: cfg.maxInFlight, start: time.Now(), unseen: cfg.unseen,
	}
	c.memory = newMemory(c, cfg.clock)
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.http == nil {
		c.http, c.ownHTTP = &http.Client{Transport: newTransport(cfg.tls)}, true
	}
	if cfg.token != "" {
		c.authorization = []string{"Bearer " + cfg.token}
	}
	var err error
	if c.dir, err = newDirectory(c, endpoints); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the client. First it gives leases back and charges what soft buckets
// have spent, for which it waits a second at most. Calls that still wait return
// [ErrClosed]; it is for each to say whether it may have been applied. When Close
// returns, no goroutine of the client is left.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.memory.close()
	var waiting []*call
	for _, l := range c.dir.close() {
		waiting = append(waiting, l.close()...)
	}
	for _, w := range waiting {
		w.fail(ErrClosed, 0)
	}
	c.cancel()
	c.reaperMu.Lock()
	if c.reaper != nil {
		c.reaper.Stop()
	}
	c.reaperMu.Unlock()
	c.running.Wait()
	if c.ownHTTP {
		c.http.CloseIdleConnections()
	}
	return nil
}

// bounded adds the client's timeout to a context that has no deadline, and the
// end of the client to any.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	cancel := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
	}
	ctx, cancelBoth := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancelBoth)
	return ctx, func() {
		stop()
		cancelBoth()
		cancel()
	}
}

// ended says why a context that bounded returned has ended.
func (c *Client) ended(ctx context.Context) error {
	if c.closed.Load() {
		return ErrClosed
	}
	return ctx.Err()
}

// Cluster tells what a node knows of the cluster: nodes, shards, leaders and
// the slot map.
func (c *Client) Cluster(ctx context.Context) (api.Cluster, error) {
	var cluster api.Cluster
	_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: "/v1/cluster", answer: &cluster})
	return cluster, err
}

// Version tells the build of a node.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var v api.Version
	_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: "/v1/version", answer: &v})
	return v, err
}
