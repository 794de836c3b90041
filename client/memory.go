package client

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

// memory is what the client decides by itself: takes of policies whose mode is
// leased or soft, and of all when the store is unavailable and their policy has a
// rule for that. Package lease does the counting. memory is its driver: it tells
// it the time, and carries its asks in the lanes.
//
// What it knows of a policy it learns from the store's replies.
type memory struct {
	c     *Client
	table *lease.Table
	clock Clock

	// By name: the policies that are not strict and closed, as they were first
	// seen at their revision. The map is never changed, and nil while empty.
	policies atomic.Pointer[map[string]*api.SetInfo]
	learnMu  sync.Mutex        // for those who replace it
	strict   map[string]uint64 // revisions of those that are, by name; guarded by learnMu

	mu     sync.Mutex
	closed bool
	asks   int           // on their way
	idle   chan struct{} // closed when there are none any more; nil unless somebody waits
	stop   func()        // the timer; nil if there is none
	wakeAt int64         // when it rings
}

const (
	// maxPolicies bounds what is remembered of policies.
	maxPolicies = 4096
	// rounds is how often a take waits for a lease that others then spend, before
	// it goes to the store itself.
	rounds = 3
	// farewell bounds how long Close waits for leases to be given back.
	farewell = time.Second
)

func newMemory(c *Client, clock Clock) *memory {
	if clock == nil {
		clock = lease.Monotonic()
	}
	m := &memory{c: c, clock: clock}
	m.table = lease.NewTable(lease.Config{
		Send: m.send, Wake: m.wake, Random: rand.Uint64, Instance: rand.Uint64(), Note: limitsOf,
	})
	return m
}

// now is the time of the leases; never 0.
func (m *memory) now() int64 { return int64(m.clock.Now()) + 1 }

// limitsOf is what decisions list of a policy with several limits: as the store
// told it last, and shared by them.
func limitsOf(t *lease.Told) any {
	if len(t.Set.Limits) < 2 {
		return nil
	}
	limits := make([]LimitState, len(t.Set.Limits))
	for i, l := range t.Set.Limits {
		v := t.Values[i]
		limits[i] = LimitState{
			Name: l.Name, Limit: l.Burst, Remaining: v.Remaining,
			RetryAfter: micros(v.RetryAfter), ResetAfter: micros(v.ResetAfter),
		}
	}
	return limits
}

// take decides a take from memory if it can; else ok is false, and the take is the
// store's. It may wait for a lease.
func (m *memory) take(ctx context.Context, policy, key string, cost int64, d *Decision) (err error, ok bool) {
	for range rounds {
		e := m.table.Get(policy, key)
		if e == nil {
			return nil, false
		}
		out := e.Take(m.now(), cost)
		switch out.Verdict {
		case lease.Allowed, lease.Denied:
			d.decided(e, &out, cost, sourceOf(e))
			return nil, true
		case lease.Store:
			return nil, false
		}
		select {
		case <-out.Wait.Done():
		case <-ctx.Done():
			return fail(ErrUnavailable, nil, ctx.Err()), true
		}
		if err := out.Wait.Err(); err != nil {
			return notTaken(err), true
		}
	}
	return nil, false
}

// notTaken is the error of a lease as that of a take that waited for it: whatever
// became of the lease, the take was not applied.
func notTaken(err error) error {
	if !unavailable(err) {
		return err
	}
	return fail(ErrUnavailable, cut(err), nil)
}

// takeNow is take without the wait, for those who have something else to do.
func (m *memory) takeNow(policy, key string, cost int64, d *Decision) (ok bool) {
	e := m.table.Get(policy, key)
	if e == nil {
		return false
	}
	out := e.Take(m.now(), cost)
	if ok = out.Verdict == lease.Allowed || out.Verdict == lease.Denied; ok {
		d.decided(e, &out, cost, sourceOf(e))
	}
	return ok
}

// takeAll decides from memory what it can of a batch. It tells whether that is all
// of it.
func (m *memory) takeAll(requests []Request, w *call) bool {
	if m.table.Len() == 0 {
		return false
	}
	for i := range requests {
		r := &requests[i]
		if r.RequestID != "" || r.MaxWait != 0 || r.Limits != nil || r.Cost < 0 {
			continue
		}
		if m.takeNow(r.Policy, r.Key, max(1, r.Cost), &w.out[i].Decision) {
			w.where[i] = answered
			w.left--
		}
	}
	return w.left == 0
}

// sourceOf is who decides the takes of an entry.
func sourceOf(e *lease.Entry) string {
	if e.Mode() == api.Soft {
		return sourceSoft
	}
	return sourceLease
}

// The sources of decisions that are not the store's.
const (
	sourceLease = "lease"
	sourceSoft  = "soft"
	sourceOpen  = "open"
	sourceLocal = "local"
)

// decided makes d the decision of an outcome.
func (d *Decision) decided(e *lease.Entry, out *lease.Outcome, cost int64, source string) {
	set := out.Told.Set
	d.Allowed, d.Cost = out.Verdict == lease.Allowed, cost
	d.Policy, d.Key = e.Policy(), e.Key()
	d.Limit, d.Remaining = set.Limits[out.Binding].Burst, out.Left
	d.RetryAfter, d.ResetAfter = time.Duration(out.RetryAfter), time.Duration(out.ResetAfter)
	d.Mode, d.Source, d.PolicyRevision = set.ModeName(), source, set.Revision
	if source != sourceLocal {
		d.Commit = out.Told.Commit
	}
	if out.Told.Note != nil {
		d.Limits = out.Told.Note.([]LimitState)
	}
}

// refund gives back what a decision of this client has spent from memory. It is
// false if that is the store's to do.
func (m *memory) refund(d *Decision) bool {
	e := m.table.Get(d.Policy, d.Key)
	switch d.Source {
	case sourceLease, sourceSoft:
		return e != nil && e.Refund(m.now(), d.Cost)
	case sourceLocal:
		if e != nil {
			e.RefundLocal(m.now(), d.Cost)
		}
		return true // nothing was charged in the store
	}
	return d.Source == sourceOpen
}

// plain tells the policies of which there is nothing to remember.
func plain(set *api.SetInfo) bool {
	return set.Mode == api.Strict && set.Unavailable == api.FailClosed
}

// learnPolicies takes in the sets of an answer, and tells whether one was new.
func (m *memory) learnPolicies(sets []api.SetInfo) (news bool) {
	for i := range sets {
		set := &sets[i]
		if set.Policy == "" || len(set.Limits) == 0 {
			continue
		}
		if known := m.policy(set.Policy); known != nil && known.Revision >= set.Revision {
			continue
		}
		m.learnMu.Lock()
		news = m.learnPolicy(set) || news
		m.learnMu.Unlock()
	}
	return news
}

// learnPolicy takes in one set, unless one as new is known: a node that lags may be
// the last to answer. m.learnMu is held.
func (m *memory) learnPolicy(set *api.SetInfo) bool {
	old := m.policy(set.Policy)
	revision, seen := m.strict[set.Policy]
	if old != nil && old.Revision >= set.Revision || seen && revision >= set.Revision {
		return false
	}
	name := strings.Clone(set.Policy)
	isPlain := plain(set)
	switch {
	case !isPlain:
		delete(m.strict, name)
	case seen || len(m.strict) < maxPolicies:
		if m.strict == nil {
			m.strict = map[string]uint64{}
		}
		m.strict[name] = set.Revision
	}
	if isPlain && old == nil {
		return true
	}
	all := map[string]*api.SetInfo{}
	if known := m.policies.Load(); known != nil {
		all = maps.Clone(*known)
	}
	if isPlain {
		delete(all, name)
	} else if old != nil || len(all) < maxPolicies {
		kept := *set
		kept.Policy, kept.Limits = name, slices.Clone(set.Limits)
		for i := range kept.Limits {
			kept.Limits[i].Name = strings.Clone(kept.Limits[i].Name)
		}
		all[name] = &kept
	}
	m.policies.Store(&all)
	return true
}

// seenStrict tells whether a policy is known to be strict and closed.
func (m *memory) seenStrict(name string) bool {
	m.learnMu.Lock()
	defer m.learnMu.Unlock()
	_, seen := m.strict[name]
	return seen
}

// policy is what is known of a policy that is not strict and closed, or nil.
func (m *memory) policy(name string) *api.SetInfo {
	all := m.policies.Load()
	if all == nil {
		return nil
	}
	return (*all)[name]
}

// learn takes in the store's answer to a take, or another operation on a key.
func (m *memory) learn(it *item, set *api.SetInfo, res *api.Result) {
	if it.inline || it.kind.OnHold() || res.Status.Bare() {
		return
	}
	if e := m.table.Get(it.policy, it.key); e != nil {
		e.Learn(m.now(), set, res)
	} else if it.kind == api.Take && !plain(set) {
		m.table.Put(m.now(), it.policy, it.key, set, res)
	}
}

// forgive notes that tokens came back in the store.
func (m *memory) forgive(it *item) {
	if m.table.Len() == 0 || it.inline {
		return
	}
	if e := m.table.Get(it.policy, it.key); e != nil {
		e.Forgive()
	}
}

// wake has the table looked at, as [lease.Config] says.
func (m *memory) wake(at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	if m.stop != nil {
		if m.wakeAt <= at {
			return
		}
		m.stop()
	}
	m.wakeAt = at
	m.stop = m.clock.AfterFunc(time.Duration(max(0, at-m.now())), m.tick)
}

func (m *memory) tick() {
	m.mu.Lock()
	m.stop = nil
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.c.running.Add(1)
	m.mu.Unlock()
	defer m.c.running.Done()
	m.table.Tick(m.now())
}

// send carries an ask in the lane of its key. If the client is closed, or its
// breaker open, it ends at once.
func (m *memory) send(a *lease.Ask) {
	m.mu.Lock()
	m.asks++
	m.mu.Unlock()
	if err := m.carry(a); err != nil {
		m.endAsk(a, err)
	}
}

// carry puts an ask on its way.
func (m *memory) carry(a *lease.Ask) error {
	e := a.Entry()
	l := m.c.dir.now.Load().bySlot[api.Slot(e.Key())] // the key was learned from a node, so there is one
	w := m.c.newCall(context.Background(), len(a.Ops))
	w.ask, w.m = a, m
	items := make([]item, len(a.Ops))
	for i, op := range a.Ops {
		items[i] = item{
			call: w, at: i, kind: op.Kind, policy: e.Policy(), key: op.Key, cost: op.Cost, hold: op.Hold, instance: op.Instance,
		}
	}
	if err := l.admit(&item{policy: e.Policy(), key: e.Key()}); err != nil {
		return err
	}
	if a.Ops[len(a.Ops)-1].Kind == api.Sync {
		// If it is given up, what was spent is charged once more. So it is not,
		// for as long as the lane knows how to avoid that.
		w.deadline.Store(m.c.now() + int64(patience))
	}
	deadline, err := l.push(items, false, false)
	if err == nil {
		m.c.watch(deadline)
	}
	return err
}

// ended is end for a call that has all its answers.
func (m *memory) ended(w *call) {
	defer m.c.running.Done()
	m.end(w)
}

// end ends the ask of a call.
func (m *memory) end(w *call) {
	var why error
	for i := range w.out {
		if w.out[i].Err != nil {
			why = w.out[i].Err
		}
	}
	a := w.ask
	m.c.recycle(w)
	m.endAsk(a, why)
}

// endAsk ends an ask. No lock may be held: it may send others.
func (m *memory) endAsk(a *lease.Ask, why error) {
	a.End(m.now(), why)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asks--; m.asks == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}

// close gives everything back, and waits a while for the store to know.
func (m *memory) close() {
	m.mu.Lock()
	m.closed = true
	if m.stop != nil {
		m.stop()
	}
	m.mu.Unlock()
	m.table.Close(m.now())
	m.mu.Lock()
	idle := make(chan struct{})
	if m.asks == 0 {
		close(idle)
	} else {
		m.idle = idle
	}
	m.mu.Unlock()
	t := time.NewTimer(min(farewell, m.c.timeout))
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}
