package limiter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	// DefaultPatience bounds a [Limiter.Do] whose context has no deadline: some
	// elections fit into it.
	DefaultPatience = 5 * time.Second

	// Waits between attempts. The first is shorter than a take lasts, for a
	// leader that has just changed; the last keeps thousands of waiting
	// callers from being a load of their own.
	firstWait = 5 * time.Millisecond
	lastWait  = 100 * time.Millisecond

	// answerMargin is kept of the caller's deadline to get the answer out.
	answerMargin = 20 * time.Millisecond

	// retryAdvice goes with what an election usually cures.
	retryAdvice = time.Second
)

// awaitCatalog waits until this node knows all policies: one that has just
// started must not say of any that it does not exist. A caller that wants no
// forwarding finds a better node faster than this one catches up.
func (l *Limiter) awaitCatalog(ctx context.Context, o Options) error {
	if l.catalog.Removed() {
		return api.NewProblem(api.Draining, "this node was removed from the cluster; ask another one")
	}
	if l.catalog.Current() {
		return nil
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultPatience)
		defer cancel()
	}
	for !o.NoForward && pause(ctx, firstWait) {
		if l.catalog.Current() {
			return nil
		}
	}
	p := api.NewProblem(api.NoLeader, "this node is starting, and has not caught up with the policies yet")
	p.RetryAfter = retryAdvice
	return p
}

// send has w decided by its shard's leader, and looks for that leader again for
// as long as ctx allows and a repetition is safe.
func (l *Limiter) send(ctx context.Context, w *work, o Options) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultPatience)
		defer cancel()
	}
	var unknown *api.Problem // what an earlier attempt may have left behind
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		reply, p, moved := l.attempt(ctx, w, o)
		switch {
		case p == nil && unknown != nil && hidden(w.batch, reply):
			return nil, unknown
		case p == nil:
			return reply, nil
		}
		if moved && unknown != nil {
			// The new shard cannot recognise what the old one may have applied.
			return nil, unknown
		}
		again := false
		switch p.Code {
		case api.NotLeader, api.NoLeader:
			// A caller that wants no forwarding looks for the leader itself.
			again = p.Outcome == api.NotApplied && (!o.NoForward || l.log.Leader(w.shard).Local)
		case api.Draining:
			again = p.Outcome == api.NotApplied
		case api.OutcomeUnknown:
			unknown = p
			again = w.idempotent && p.Retryable
		}
		if !again || !pause(ctx, wait) {
			return nil, l.final(w, p, unknown, o)
		}
		l.metrics.Retried(p.Code)
		if moved {
			if one := l.reroute(w); !one {
				return l.again(ctx, w, o)
			}
		}
	}
}

// final is the problem that the caller gets to see.
func (l *Limiter) final(w *work, p, unknown *api.Problem, o Options) *api.Problem {
	switch {
	case unknown != nil:
		return unknown
	case p.Code == api.NotLeader && o.NoForward:
		return l.notLeader(w.shard, l.log.Leader(w.shard))
	case p.Code == api.NotLeader:
		p = api.NewProblem(api.NoLeader, "shard %d changed its leader, and none took over in time", w.shard)
	}
	if p.Code == api.NoLeader && p.RetryAfter == 0 {
		p.RetryAfter = retryAdvice
	}
	return p
}

// attempt sends w once, where its leader is believed to be. moved tells that
// the shard no longer owns the slots.
func (l *Limiter) attempt(ctx context.Context, w *work, o Options) (reply []byte, p *api.Problem, moved bool) {
	leader := l.log.Leader(w.shard)
	switch {
	case leader.Known && leader.Local:
		reply, p = l.submit(ctx, w)
	case !leader.Known:
		return nil, api.NewProblem(api.NoLeader, "shard %d has no leader now", w.shard), false
	case o.NoForward:
		return nil, l.notLeader(w.shard, leader), false
	default:
		reply, p = l.forward(ctx, leader.ID, w)
	}
	if p != nil {
		return nil, p, false
	}
	n, first, ok := api.ReplyLen(reply)
	switch {
	case !ok || n != w.batch.N:
		// The stored answer to a session's number that stood for another batch
		// then, or a peer that is out of its mind.
		p = api.NewProblem(api.OutcomeUnknown, "shard %d answered another number of operations than it was sent", w.shard)
		l.logger.Error("a shard's answer does not fit its question", "shard", w.shard, "leader", leader.ID, "operations", w.batch.N)
		p.Retryable = false // it would answer the same again
		return nil, p, false
	case first == api.StatusError && disowned(reply): // rarely more than the first is looked at
		p = l.notLeader(w.shard, leader)
		p.Detail = "the slots have moved to another shard"
		return nil, p, true
	}
	return reply, nil, false
}

// submit puts w through this node's own log.
func (l *Limiter) submit(ctx context.Context, w *work) ([]byte, *api.Problem) {
	part := newPart(w.batch, w.sets)
	l.log.Submit(w.shard, part)
	if l.waiting != nil && slices.ContainsFunc(w.sets, isAuto) && l.waiting(w.shard) >= crowd {
		l.hot.crowded(l.now(), w)
	}
	select {
	case <-part.signal:
	case <-ctx.Done():
		if part.withdraw() {
			p := api.NewProblem(api.Overloaded, "the deadline passed before shard %d got to it", w.shard)
			p.RetryAfter = retryAdvice
			return nil, p
		}
		select {
		case <-part.signal: // it was just in time
		default:
			return nil, api.NewProblem(api.OutcomeUnknown, "the deadline passed while shard %d was committing it", w.shard)
		}
	}
	if part.err != nil {
		return nil, asProblem(part.err)
	}
	l.top.observe(w.batch, part.reply)
	if slices.ContainsFunc(w.sets, isSoft) {
		l.syncs.observe(time.Duration(l.now()), w.batch, w.sets, part.reply)
	}
	return part.reply, nil
}

// forward sends w over one hop to the peer that leads its shard.
func (l *Limiter) forward(ctx context.Context, node string, w *work) ([]byte, *api.Problem) {
	l.metrics.Forwarded(w.batch.N)
	body := api.AppendBatch(make([]byte, 0, len(w.batch.Ops)+128), w.batch)
	reply, err := l.log.Forward(ctx, node, w.shard, body)
	if err != nil {
		return nil, asProblem(err)
	}
	if slices.ContainsFunc(w.sets, isAuto) {
		l.heed(w, reply)
	}
	return reply, nil
}

// asProblem is err as a problem. The end of a context says nothing about what
// the log did in the meantime.
func asProblem(err error) *api.Problem {
	var p *api.Problem
	if !errors.As(err, &p) && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return api.NewProblem(api.OutcomeUnknown, "the deadline passed before the answer came")
	}
	return api.AsProblem(err)
}

// scatter has every work decided, all at once. The outcomes stand in the works.
func (l *Limiter) scatter(ctx context.Context, works []*work, o Options) {
	run := func(w *work) {
		var err error
		if w.reply, err = l.dispatch(ctx, w, o); err != nil {
			w.err = api.AsProblem(err)
		}
	}
	var wg sync.WaitGroup
	for i, w := range works {
		if i == len(works)-1 {
			run(w) // the last one on the caller's own goroutine
			break
		}
		wg.Go(func() { run(w) })
	}
	wg.Wait()
}

// reroute looks the shard of w up again, and tells whether there is still one.
func (l *Limiter) reroute(w *work) bool {
	rest := w.batch.Ops
	for i := range w.batch.N {
		var op api.Op
		var err error
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return false
		}
		if shard := l.catalog.Route(op.Slot()); i == 0 {
			w.shard = shard
		} else if shard != w.shard {
			return false
		}
	}
	return true
}

// again decides anew what was one shard's part and is several shards' now.
func (l *Limiter) again(ctx context.Context, w *work, o Options) ([]byte, error) {
	pl, err := l.plan(ctx, w.batch, false)
	if err != nil {
		return nil, err
	}
	return l.decide(ctx, pl, o)
}

// hidden tells that a reply refuses an operation that an earlier sending may have gone
// through with. One with a request id, or in a session, is recognised before anything
// else is looked at, but one that is known by its hold may be refused since its policy
// was deleted, or its hold has ended, in between.
func hidden(b *api.Batch, reply []byte) bool {
	r, err := api.DecodeReply(reply)
	if err != nil || b.Session.Seq != 0 {
		return false
	}
	rest := b.Ops
	for {
		var op api.Op
		var res api.Result
		if ok, err := r.Next(&res); !ok || err != nil {
			return false
		}
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return false
		}
		if res.Status == api.StatusError && op.RequestID == "" && op.Hold != nil {
			return true
		}
	}
}

// disowned tells that the state machine refused every operation of a part since
// the shard does not own their slots.
func disowned(reply []byte) bool {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return false
	}
	var res api.Result
	for {
		ok, err := r.Next(&res)
		if !ok || err != nil {
			return err == nil
		}
		if res.Status != api.StatusError || res.Code != api.NotLeader {
			return false
		}
	}
}

// notLeader tells a caller where to go instead.
func (l *Limiter) notLeader(shard uint32, leader Leader) *api.Problem {
	if !leader.Known {
		p := api.NewProblem(api.NotLeader, "this node does not lead shard %d, and knows of no leader", shard)
		p.Shard, p.SlotMapVersion = &shard, l.catalog.SlotMapVersion()
		return p
	}
	p := api.NewProblem(api.NotLeader, "shard %d is led by another node", shard)
	if leader.Local {
		p.Detail = "this node leads the shard, but the slot map gives the keys to another one"
	}
	p.Leader, p.Shard, p.SlotMapVersion = leader.HTTP, &shard, l.catalog.SlotMapVersion()
	return p
}

// pause waits before another attempt. It returns false if there is no time for
// one before ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d+answerMargin {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
