package client

import (
	"context"
	"errors"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

// Rule says what decides a take when the store does not: on_unavailable of
// policies.
type Rule int

const (
	// Closed: nobody does. The take fails.
	Closed Rule = iota
	// Open: the take is allowed, and charged to nobody.
	Open
	// Local: a bucket of this process alone decides, by the limits of the policy.
	// It begins as the store told last, else full.
	Local
)

// WithUnavailable sets the rule for policies that the client has not seen yet: the
// default is Closed. Of those that it has seen, their own on_unavailable holds. A node
// shows it a policy with the answer to a take, also with the one that no leader answers.
// Without limits there is no local bucket, so Local is as Closed here.
func WithUnavailable(r Rule) Option { return func(c *config) { c.unseen = r } }

// unavailable tells the errors of a store that did not answer, or could not
// decide; the end of the caller's own interest is none.
func unavailable(err error) bool {
	return (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown)) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed)
}

// decide applies the failure rule of a policy to a take that failed with err. It is
// false if the error stands.
func (m *memory) decide(policy, key string, cost int64, err error, d *Decision) bool {
	if !unavailable(err) || policy == "" {
		return false
	}
	set := m.policy(policy)
	switch {
	case set == nil && (m.c.unseen != Open || m.seenStrict(policy)):
		return false
	case set == nil:
		*d = Decision{Allowed: true, Cost: cost, State: State{Policy: policy, Key: key, Source: sourceOpen}}
		return true
	case set.Mode == api.Soft && set.Enforcement == api.Enforce:
		// Its bucket is here, and needs no store to decide.
		if m.table.Put(m.now(), policy, key, set, nil); m.takeNow(policy, key, cost, d) {
			return true
		}
	}
	if limit := set.UnavailableFor; limit > 0 && m.silence(key) > time.Duration(limit)*time.Millisecond {
		return false
	}
	switch set.Unavailable {
	case api.FailOpen:
		*d = Decision{Allowed: true, Cost: cost, State: State{
			Policy: policy, Key: key, Mode: set.ModeName(), Source: sourceOpen, PolicyRevision: set.Revision,
		}}
		return true
	case api.FailLocal:
		e := m.table.Put(m.now(), policy, key, set, nil)
		if e == nil {
			return false
		}
		out := e.TakeLocal(m.now(), cost)
		if out.Verdict == lease.Store {
			return false
		}
		*d = Decision{}
		d.decided(e, &out, cost, sourceLocal)
		return true
	}
	return false
}

// decideAll applies failure rules to what has failed of a batch: some of its
// results, or with err all that were not decided before.
func (m *memory) decideAll(requests []Request, w *call, results []BatchResult, err error) ([]BatchResult, error) {
	decided := err == nil
	if err != nil {
		results = w.out
		for i := range results {
			if w.where[i] == answered {
				decided = true
			} else {
				results[i].Err = err
			}
		}
	}
	for i := range results {
		r, res := &requests[i], &results[i]
		if res.Err != nil && r.Limits == nil && m.decide(r.Policy, r.Key, max(1, r.Cost), res.Err, &res.Decision) {
			res.Err, decided = nil, true
		}
	}
	if !decided {
		return nil, err
	}
	return results, nil
}

// rules tells whether a failure rule may decide takes of a policy. Such takes, and
// batches with one, do not wait longer than the client's timeout, whatever the
// deadline of their context.
func (m *memory) rules(policy string) bool {
	set := m.policy(policy)
	return set != nil && set.Unavailable != api.FailClosed || set == nil && m.c.unseen != Closed
}

// silence is how long the shard of key was not heard of.
func (m *memory) silence(key string) time.Duration {
	r := m.c.dir.now.Load()
	if r == nil {
		return 0
	}
	return time.Duration(m.now() - r.bySlot[api.Slot(key)].heard.Load())
}

// The breaker of a lane opens when a call fails that has waited long enough, and
// nothing was heard meanwhile. Then calls fail at once. One at a time sends a peek
// of its key along, as a probe, so that no caller waits for it.

// breakerAfter is the silence after which a call that fails opens the breaker; it is
// half the client's timeout if that is shorter.
const breakerAfter = time.Second

var errBreaker = errors.New("the shard does not answer, which is tried again now and then; calls fail at once until it does")

// admit returns the error of an item that is not to wait for the lane.
func (l *lane) admit(it *item) error {
	if !l.breaker.Open() {
		return nil
	}
	if l.breaker.Go(l.c.now()) {
		if it.inline || it.kind.OnHold() {
			return nil // it is the probe itself
		}
		l.probe(it.policy, it.key)
	}
	return fail(ErrUnavailable, l.lastWhy(), errBreaker)
}

// heardOf notes an answer of the store.
func (l *lane) heardOf() {
	l.heard.Store(l.c.memory.now())
	l.mu.Lock()
	l.waiting = l.c.now()
	l.mu.Unlock()
	if l.breaker.Success() {
		l.c.logger.Info("rlstore: a shard answers again", "shard", l.shard)
	}
}

// notHeardOf notes that a call has ended for want of an answer. That its caller has
// lost patience says as little for the store as a timeout does.
func (l *lane) notHeardOf(why error) {
	now := l.c.now()
	l.mu.Lock()
	since := l.waiting
	if why != nil {
		l.failed = why
	}
	l.mu.Unlock()
	if now-since < int64(min(breakerAfter, l.c.timeout/2)) {
		return
	}
	if l.breaker.Failure(now) {
		l.c.logger.Warn("rlstore: a shard does not answer; its calls fail at once until it does", "shard", l.shard, "error", why)
	}
}

// lastWhy is why the lane's last call failed.
func (l *lane) lastWhy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// probe asks the store anything.
func (l *lane) probe(policy, key string) {
	w := l.c.newCall(context.Background(), 1)
	w.deadline.Store(l.c.now() + int64(min(attemptTimeout, l.c.timeout)))
	deadline, err := l.push([]item{{call: w, kind: api.Peek, policy: policy, key: key}}, false, false)
	if err != nil {
		return
	}
	l.c.watch(deadline)
}

// admit is that of lanes, for the time before any node has answered.
func (d *directory) admit() error {
	if !d.breaker.Open() {
		return nil
	}
	if d.breaker.Go(d.c.now()) {
		d.ask()
	}
	return fail(ErrUnavailable, nil, errNoNode)
}

var errNoNode = errors.New("no node has answered yet, which is tried again now and then; calls fail at once until one does")
