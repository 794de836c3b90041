package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/httpapi"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/raftnode"
	"github.com/rlstore/rlstore/server/catalog"
)

const (
	// drainTimeout bounds the hand-over of leaderships at a stop. Each takes
	// milliseconds; a cluster that has lost its majority can't take them.
	drainTimeout = 10 * time.Second
	// giveBackTimeout bounds the giving back of leases at a stop, which takes a
	// commit or two. Without a store they expire.
	giveBackTimeout = 5 * time.Second
	// finishTimeout bounds the wait for requests under way at a stop; it is
	// above the deadline that each request has.
	finishTimeout = 6 * time.Second
	// closeTimeout bounds the end of consensus, which takes milliseconds. Raft
	// waits for its writes, and one that is stuck would keep the process alive.
	closeTimeout = 10 * time.Second
	// readyEvery is how often a starting node looks whether it can serve.
	readyEvery = 20 * time.Millisecond
)

// Server is one node.
type Server struct {
	cfg      Config
	log      *slog.Logger
	node     *raftnode.Node
	limiter  *limiter.Limiter
	http     *http.Server
	feed     *httpapi.Feed
	listener net.Listener
	ready    chan struct{}
	before   struct { // as it was when ready was closed, which comes after; events tell what changes
		cluster api.Cluster
		view    *fsm.CatalogView
	}
	fatal chan error // capacity 1
}

// Option changes what is not configuration: seams for tests.
type Option func(*seams)

type seams struct {
	api, nodes net.Listener
	node       []func(*raftnode.Config)
}

// WithListeners gives the sockets of the API and of the traffic between nodes,
// which the server then owns, instead of those that the configuration names.
func WithListeners(api, nodes net.Listener) Option {
	return func(s *seams) { s.api, s.nodes = api, nodes }
}

// WithNode changes how the node's part in the cluster is opened, such as its
// clock, its disk, and its network.
func WithNode(change func(*raftnode.Config)) Option {
	return func(s *seams) { s.node = append(s.node, change) }
}

// New opens the node: its sockets, then its data folder. It does not wait for a
// cluster; Run does. Its errors are one sentence that says what to do.
func New(cfg Config, opts ...Option) (_ *Server, err error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keepHeadroom()
	addProcessors()
	var with seams
	for _, o := range opts {
		o(&with)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, feed: httpapi.NewFeed(), ready: make(chan struct{}), fatal: make(chan error, 1)}
	if s.listener = with.api; s.listener == nil {
		if s.listener, err = listen("http", cfg.HTTPAddr); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			s.listener.Close()
		}
	}()
	raftListener := with.nodes
	if raftListener == nil {
		if raftListener, err = listen("raft", cfg.RaftAddr); err != nil {
			return nil, err
		}
	}
	if s.cfg.HTTPAdvertise == "" {
		s.cfg.HTTPAdvertise = "http://" + s.listener.Addr().String()
	}
	if s.cfg.RaftAdvertise == "" {
		s.cfg.RaftAdvertise = raftListener.Addr().String()
	}

	front := &frontDoor{open: make(chan struct{})}
	nc := raftnode.Config{
		NodeID: cfg.NodeID, DataDir: cfg.DataDir,
		RaftAdvertise: s.cfg.RaftAdvertise, HTTPAdvertise: s.cfg.HTTPAdvertise,
		BootstrapExpect: cfg.BootstrapExpect, Join: cfg.Join, Shards: cfg.Shards, LogStore: cfg.LogStore,
		Version: Version().Version, Listener: raftListener, Logger: s.log,
		OnForward: front.forwarded,
		OnTop:     front.top,
		OnFatal:   s.Abort,
	}
	for _, change := range with.node {
		change(&nc)
	}
	if s.node, err = raftnode.Open(nc); err != nil {
		return nil, err
	}

	s.log = s.log.With("node", s.node.NodeID())

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.node.Metrics())
	known := catalog.Of(s.node, time.Now)
	l := limiter.New(limiter.Config{
		Catalog: known, Log: shardLogs{s.node}, Replicas: shardLogs{s.node},
		AllowInline: cfg.AllowInlineLimits, Logger: s.log, Metrics: limiter.NewMetrics(registry),
		Waiting: s.node.Waiting,
	})
	registry.MustRegister(l)
	s.limiter, front.limiter = l, l
	close(front.open)
	handler := httpapi.New(httpapi.Config{
		Limiter: l, Policies: known, Overrides: known, Switch: known, Members: members{s.node, l}, Cluster: s.node.Cluster,
		Ready: s.checks, StalePeek: l.StalePeek, Events: s.feed,
		Metrics:     promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Registerer:  registry,
		Version:     Version(),
		AllowInline: cfg.AllowInlineLimits, Logger: s.log,
		Top: tops{s.node, l}.top, SlotMapVersion: known.SlotMapVersion, XRateLimit: known.XRateLimit,
	})
	s.http = httpapi.Server(handler, cfg.HTTPAddr, s.log)
	return s, nil
}

// listen opens a TCP listener, and names the usual cause when it can't.
func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("the %s address %s is in use by another process; stop that one or set --%s-addr", what, addr, what)
	case err != nil:
		return nil, fmt.Errorf("can't listen on the %s address: %w", what, err)
	}
	return l, nil
}

// frontDoor lets peers' batches in once the limiter stands; consensus starts
// before it.
type frontDoor struct {
	open    chan struct{}
	limiter *limiter.Limiter // set before open is closed
}

func (f *frontDoor) forwarded(ctx context.Context, shard uint32, batch []byte) ([]byte, error) {
	select {
	case <-f.open:
		return f.limiter.Forwarded(ctx, shard, batch)
	case <-ctx.Done():
		return nil, api.NewProblem(api.NoLeader, "the node is still starting")
	}
}

func (f *frontDoor) top(by string) (any, error) {
	select {
	case <-f.open:
		return f.limiter.Top(by), nil
	default:
		return nil, api.NewProblem(api.NoLeader, "the node is still starting")
	}
}

// Ready is closed once the node can serve: every shard has a leader.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// HTTPURL is the base URL of the node's API.
func (s *Server) HTTPURL() string { return s.cfg.HTTPAdvertise }

// RaftAddr is the address of the node's traffic with its peers.
func (s *Server) RaftAddr() string { return s.cfg.RaftAdvertise }

// Cluster is what the node knows of the cluster.
func (s *Server) Cluster() api.Cluster { return s.node.Cluster() }

// NodeID is the node's id.
func (s *Server) NodeID() string { return s.node.NodeID() }

// Run serves until ctx is cancelled, then drains, finishes the requests under
// way and stops. A fatal error of the node stops it at once and is returned.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	s.log.Info("serving", "http", s.cfg.HTTPAdvertise, "raft", s.cfg.RaftAdvertise)

	wctx, stopWatch := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); s.watchReady(wctx) }()
	ectx, stopEvents := context.WithCancel(context.Background())
	told := make(chan struct{})
	go func() { defer close(told); s.watchEvents(ectx) }()
	defer func() { stopWatch(); <-watched; stopEvents(); <-told }()

	select {
	case err := <-s.fatal:
		s.http.Close()
		s.limiter.Abandon()
		return errors.Join(err, closeWithin(closeTimeout, s.node.Close))
	case err := <-served:
		s.http.Close() // ends the connections that it had accepted
		s.limiter.Abandon()
		return errors.Join(fmt.Errorf("the API's listener failed: %w", err), closeWithin(closeTimeout, s.node.Close))
	case <-ctx.Done():
	}
	return s.shutdown()
}

// Abort ends Run at once and without a drain, as if err had befallen the node.
// Only the first error counts.
func (s *Server) Abort(err error) {
	select {
	case s.fatal <- err:
	default:
	}
}

// shutdown is the clean way out: hand every leadership over while the API still
// answers, let requests finish, then stop.
func (s *Server) shutdown() error {
	gctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	s.limiter.GiveBack(gctx)
	cancel()
	s.log.Info("stopping: handing leaderships over")
	dctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	if err := s.node.Drain(dctx); err != nil {
		s.log.Info("not every leadership could be handed over; the others will elect", "error", err)
	}
	cancel()
	s.feed.Close() // Shutdown waits for every stream
	fctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	if err := s.http.Shutdown(fctx); err != nil {
		s.log.Warn("some requests did not finish in time", "error", err)
		s.http.Close()
	}
	err := closeWithin(closeTimeout, s.node.Close)
	s.log.Info("stopped")
	select {
	case fatal := <-s.fatal:
		return errors.Join(fatal, err)
	default:
		return err
	}
}

// closeWithin calls closeNode and waits for its end, but not for ever: what it
// leaves behind ends with the process, which must not outlive a stuck disk.
func closeWithin(d time.Duration, closeNode func() error) error {
	closed := make(chan error, 1)
	go func() { closed <- closeNode() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(d):
		return fmt.Errorf("consensus did not stop within %v; perhaps a write to the disk is stuck", d)
	}
}

// watchReady closes ready at the first moment that every check passes.
func (s *Server) watchReady(ctx context.Context) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		ok := true
		for _, c := range s.node.Ready() {
			ok = ok && c.OK
		}
		if ok {
			s.before.cluster, s.before.view = s.node.Outline(), s.node.Catalog()
			close(s.ready)
			s.log.Info("ready")
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// checks is the node's readiness for the API.
func (s *Server) checks() []httpapi.Check {
	var out []httpapi.Check
	for _, c := range s.node.Ready() {
		out = append(out, httpapi.Check(c))
	}
	return out
}
