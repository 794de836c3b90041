package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

const (
	// askTimeout bounds the question to one node: the next may know as well.
	askTimeout = time.Second
	// suspicion is how long a node that could not be reached is passed over
	// while there are others.
	suspicion = time.Second
)

// endpoint is one node's HTTP address.
type endpoint struct {
	base  *url.URL // without a trailing slash
	batch *url.URL // of binary batches; shared by requests, never changed
	// shunned is the time until which it is under suspicion, of Client.now.
	shunned atomic.Int64
}

// parseEndpoint checks a base URL.
func parseEndpoint(s string) (*endpoint, error) {
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	switch {
	case err != nil:
		return nil, fail(ErrInvalidRequest, fmt.Errorf("endpoint %q is not a base URL such as http://127.0.0.1:8101: %w", s, errors.Unwrap(err)), nil)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fail(ErrInvalidRequest, fmt.Errorf("endpoint %q is not a base URL such as http://127.0.0.1:8101", s), nil)
	}
	batch := u.JoinPath("/v1/take/batch")
	if !strings.HasPrefix(batch.Path, "/") { // of a base without a path JoinPath makes a relative one
		batch.Path = "/" + batch.Path
	}
	return &endpoint{base: u, batch: batch}, nil
}

// target is where an attempt goes.
//
// Usually a node is not to forward: either it is the leader, or none is known,
// and then the node says at once who is, or that there is none. A node that
// waits for a leader on our behalf would leave the outcome in doubt where there
// is nothing to doubt. Only when the leader is there and cannot be reached from
// here, another node is to forward.
type target struct {
	node    *endpoint
	forward bool
}

// routes is a snapshot of what the client knows; it is never changed.
type routes struct {
	version uint64 // of the slot map
	bySlot  *[api.Slots]*lane
	leaders map[uint32]leader
}

type leader struct {
	node *endpoint // nil while unknown
	term uint64    // the last one that a node told
}

// lane returns the lane of key's shard.
func (r *routes) lane(it *item) *lane { return r.bySlot[it.slot()] }

// directory knows the nodes, the slot map and the leaders.
type directory struct {
	c   *Client
	now atomic.Pointer[routes] // nil until a node has answered
	// turn rotates through the nodes where any will do.
	turn atomic.Uint32
	// breaker is for calls while now is nil.
	breaker lease.Breaker

	mu     sync.Mutex
	closed bool
	seeds  []string             // as given to New
	nodes  map[string]*endpoint // by base URL: the seeds, and who the cluster names
	order  []*endpoint          // the same, in a stable order; replaced, never changed
	lanes  map[uint32]*lane
	asking *question // nil while nobody asks
}

// question is one refresh, shared by all who need it.
type question struct {
	done chan struct{}
	err  error // after done
}

func newDirectory(c *Client, seeds []string) (*directory, error) {
	d := &directory{c: c, nodes: map[string]*endpoint{}, lanes: map[uint32]*lane{}}
	if len(seeds) == 0 {
		return nil, fail(ErrInvalidRequest, errors.New("no endpoints"), nil)
	}
	for _, s := range seeds {
		e, err := d.node(s)
		if err != nil {
			return nil, err
		}
		d.seeds = append(d.seeds, e.base.String())
	}
	d.turn.Store(rand.Uint32()) // so that all processes of a fleet do not ask the same node first
	return d, nil
}

// node returns the endpoint of an address, which may be new. d.mu is held, or d
// is not shared yet.
func (d *directory) node(address string) (*endpoint, error) {
	e, err := parseEndpoint(address)
	if err != nil {
		return nil, err
	}
	if had := d.nodes[e.base.String()]; had != nil {
		return had, nil
	}
	d.nodes[e.base.String()] = e
	d.order = append(slices.Clip(d.order), e)
	return e, nil
}

// all returns the nodes, beginning with another one each time, and those under
// suspicion last.
func (d *directory) all() []*endpoint {
	d.mu.Lock()
	order := d.order
	d.mu.Unlock()
	turn, now := int(d.turn.Add(1)), d.c.now()
	good, bad := make([]*endpoint, 0, len(order)), []*endpoint(nil)
	for i := range order {
		e := order[(turn+i)%len(order)]
		if e.shunned.Load() > now {
			bad = append(bad, e)
		} else {
			good = append(good, e)
		}
	}
	return append(good, bad...)
}

// target returns where a batch of shard goes now.
func (d *directory) target(shard uint32) target {
	if r := d.now.Load(); r != nil {
		if l := r.leaders[shard]; l.node != nil {
			if l.node.shunned.Load() <= d.c.now() {
				return target{node: l.node}
			}
			return target{node: d.all()[0], forward: true}
		}
	}
	return target{node: d.all()[0]}
}

// suspect passes a node over for a while.
func (d *directory) suspect(e *endpoint, why error) {
	d.c.logger.Warn("rlstore: a node does not answer", "node", e.base.String(), "error", why)
	e.shunned.Store(d.c.now() + int64(suspicion))
}

// change publishes routes that f has altered a copy of.
func (d *directory) change(f func(*routes)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.now.Load()
	if old == nil {
		return
	}
	r := &routes{version: old.version, bySlot: old.bySlot, leaders: maps.Clone(old.leaders)}
	f(r)
	d.now.Store(r)
}

// learn notes the leader that a not-leader answer names.
func (d *directory) learn(shard uint32, address string) (ok bool) {
	d.change(func(r *routes) {
		e, err := d.node(address)
		if err != nil {
			return
		}
		ok = true
		e.shunned.Store(0) // a leader is worth a try
		r.leaders[shard] = leader{node: e, term: r.leaders[shard].term}
	})
	return ok
}

// forget notes that shard has no leader any more.
func (d *directory) forget(shard uint32) {
	d.change(func(r *routes) { r.leaders[shard] = leader{term: r.leaders[shard].term} })
}

// outdated looks for a newer slot map in the background if version is newer than
// what is known.
func (d *directory) outdated(version uint64) {
	if r := d.now.Load(); r != nil && r.version < version {
		d.ask()
	}
}

// refresh asks the cluster anew, or waits for an answer that is already on its
// way.
func (d *directory) refresh(ctx context.Context) error {
	q := d.ask()
	if q == nil {
		return fail(ErrClosed, nil, ErrUnavailable)
	}
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask returns the question on its way, or starts one; nil once closed.
func (d *directory) ask() *question {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asking != nil || d.closed {
		return d.asking
	}
	q := &question{done: make(chan struct{})}
	d.asking = q
	d.c.running.Add(1)
	go func() {
		defer d.c.running.Done()
		q.err = d.askAll(d.c.ctx)
		if q.err == nil {
			d.breaker.Success()
		} else if d.breaker.Open() { // it was a probe
			d.breaker.Failure(d.c.now())
		}
		d.mu.Lock()
		d.asking = nil
		d.mu.Unlock()
		close(q.done)
	}()
	return q
}

// askAll asks one node after the other until one has an answer.
func (d *directory) askAll(ctx context.Context) error {
	var last error
	for _, e := range d.all() {
		var cluster api.Cluster
		one, cancel := context.WithTimeout(ctx, askTimeout)
		err := d.c.exchange(one, e, &exchange{method: "GET", path: "/v1/cluster", answer: &cluster})
		cancel()
		if err == nil {
			err = d.adopt(&cluster, e.base.Redacted())
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if last == nil || weight(err) >= weight(last) {
			last = err
		}
	}
	return last
}

// weight orders the errors of several nodes by what they say about all of them.
func weight(err error) int {
	switch {
	case errors.Is(err, ErrUnauthorized):
		return 3
	case hopeless(err): // this one node's mistake, or that of its address
		return 0
	case errors.Is(err, ErrOutcomeUnknown):
		return 1
	}
	return 2
}

// adopt takes over what the node at an address told of the cluster. What it
// tells of older slot maps or terms is left aside, for the node may lag behind or
// be cut off.
func (d *directory) adopt(cluster *api.Cluster, at string) error {
	if cluster.NodeID == "" {
		return fail(ErrInvalidRequest, &foreignError{at, errors.New("the answer names no node")}, nil)
	}
	table, err := cluster.SlotMap.Table()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	byID := map[string]*endpoint{} // those that the answering node can reach
	keep := map[string]bool{}
	for _, s := range d.seeds {
		keep[s] = true
	}
	for _, n := range cluster.Nodes {
		if e, err := d.node(n.HTTP); err == nil {
			if n.Reachable || n.ID == cluster.NodeID {
				byID[n.ID] = e
			}
			keep[e.base.String()] = true
		}
	}
	maps.DeleteFunc(d.nodes, func(s string, _ *endpoint) bool { return !keep[s] })
	d.order = slices.DeleteFunc(slices.Clone(d.order), func(e *endpoint) bool { return !keep[e.base.String()] })

	old := d.now.Load()
	r := &routes{leaders: map[uint32]leader{}}
	if old != nil {
		r.version, r.bySlot, r.leaders = old.version, old.bySlot, maps.Clone(old.leaders)
	}
	if r.bySlot == nil || cluster.SlotMap.Version > r.version {
		r.version, r.bySlot = cluster.SlotMap.Version, new([api.Slots]*lane)
		for slot, shard := range table {
			if d.lanes[shard] == nil {
				d.lanes[shard] = newLane(d.c, shard)
			}
			r.bySlot[slot] = d.lanes[shard]
		}
	}
	for _, s := range cluster.Shards {
		if s.Term < r.leaders[s.ID].term {
			continue
		}
		l := leader{term: s.Term}
		if s.Leader != nil {
			l.node = byID[*s.Leader]
		}
		if l.node != r.leaders[s.ID].node {
			d.c.logger.LogAttrs(context.Background(), slog.LevelDebug, "rlstore: leader",
				slog.Uint64("shard", uint64(s.ID)), slog.Uint64("term", s.Term), slog.Bool("known", l.node != nil))
		}
		r.leaders[s.ID] = l
	}
	d.now.Store(r)
	return nil
}

// ready returns what is known, once it is enough to route by.
func (d *directory) ready(ctx context.Context) (*routes, error) {
	if r := d.now.Load(); r != nil {
		return r, nil
	}
	if err := d.admit(); err != nil {
		return nil, err
	}
	began := d.c.now()
	ctx, cancel := d.c.bounded(ctx)
	defer cancel()
	var wait backoff
	var last error
	for {
		err := d.refresh(ctx)
		if r := d.now.Load(); r != nil {
			return r, nil
		}
		if errors.Is(err, ErrClosed) || d.c.closed.Load() {
			return nil, fail(ErrClosed, nil, ErrUnavailable)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if hopeless(err) { // of every node
			return nil, err
		}
		if ctx.Err() != nil || sleep(ctx, wait.next(0)) != nil {
			if errors.Is(last, ctx.Err()) {
				last = nil
			}
			if now := d.c.now(); !d.c.closed.Load() && now-began >= int64(min(breakerAfter, d.c.timeout/2)) {
				d.breaker.Failure(now)
			}
			return nil, fail(ErrUnavailable, cut(last), d.c.ended(ctx))
		}
	}
}

// cut leaves the kind out of an error: a question that went unanswered changed
// nothing, whatever its outcome.
func cut(err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	if f.problem != nil {
		return f.problem
	}
	return f.cause
}

// allLanes returns every lane there is.
func (d *directory) allLanes() []*lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.lanes))
}

// close ends the directory and returns every lane there will ever be.
func (d *directory) close() []*lane {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	return d.allLanes()
}
