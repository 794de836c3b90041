package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptrace"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Waits between attempts.
const (
	firstWait = 5 * time.Millisecond // for a leader that has just changed
	lastWait  = 250 * time.Millisecond

	// attemptTimeout bounds one request: past it, another node may lead. The
	// store recognises the repetition if the first is only slow.
	attemptTimeout = 2 * time.Second

	// leastAttempt is the time that another attempt at a change needs: one that is cut
	// off is of unknown outcome, where the last one may have told that nothing was
	// applied.
	leastAttempt = 100 * time.Millisecond

	// maxHops is how often a batch goes elsewhere at once before it waits.
	maxHops = 3
)

// backoff doubles waits, with jitter so that clients do not knock in step.
type backoff struct{ last time.Duration }

// next is the wait before another attempt, at least atLeast.
func (b *backoff) next(atLeast time.Duration) time.Duration {
	b.last = min(max(2*b.last, firstWait), lastWait)
	d := b.last/2 + rand.N(b.last/2+1)
	if atLeast > 0 {
		d = max(d, atLeast+rand.N(atLeast/4+1))
	}
	return d
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt is one sending of a batch. It knows whether anything can have left: from
// the first read of its body on, or once it has a connection, the batch may have been
// applied.
type attempt struct {
	b      *batch
	body   []byte
	before bool // b.applied before this attempt

	stopped bool // when it had a connection: nothing has left. For the one who sends

	// Guarded by lane.mu.
	over bool // nothing may leave any more
	read bool // the body was read, in part at least, or could be
}

var errWithdrawn = errors.New("the callers have left")

// reader returns the body for a user's HTTP client, which may ask for it again when
// it finds that an idle connection was closed.
func (a *attempt) reader() io.ReadCloser { return &attemptBody{a: a, rest: a.body} }

type attemptBody struct {
	a    *attempt
	open bool
	rest []byte
}

// Read implements [io.Reader].
func (r *attemptBody) Read(p []byte) (int, error) {
	if !r.open {
		if !r.a.start() {
			return 0, errWithdrawn
		}
		r.open = true
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close implements [io.Closer].
func (r *attemptBody) Close() error { return nil }

// plain returns the body as net/http knows it, which then goes out in one write with
// its head, as far as that has room: of a body that it does not know it sends the head
// first. It is for a context that is watched.
func (a *attempt) plain() io.ReadCloser { return io.NopCloser(bytes.NewReader(a.body)) }

// watched returns a context that tells of the connection that the attempt gets:
// from then on, the batch may have been applied. If it must not leave any more, the
// connection is closed, so that nothing does, and cancel called, so that it gets no
// other one. Only of a transport of our own is it known that it tells, and that no other
// request has a part in the connection: it speaks HTTP/1.
//
// When an idle connection turns out to be closed before anything was written, and no
// other one is to be had, the batch counts as one that may have been applied: it errs on
// the safe side.
func (a *attempt) watched(ctx context.Context, cancel context.CancelFunc) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if !a.start() {
			a.stopped = true
			cancel()
			got.Conn.Close()
		}
	}})
}

// start tells that the attempt may leave now, and notes that it has.
func (a *attempt) start() bool {
	l := a.b.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.over {
		return false
	}
	a.read, a.b.applied = true, true
	return true
}

// begin makes the next attempt of b, or returns nil if nobody waits for it.
func (l *lane) begin(b *batch) *attempt {
	l.mu.Lock()
	fresh := b.session.Seq == 0 || b.stale && !b.applied
	if b.live > 0 && fresh {
		l.number(b)
	}
	if b.live == 0 || l.closed {
		l.mu.Unlock()
		return nil
	}
	a := &attempt{b: b, before: b.applied}
	b.attempt = a
	l.mu.Unlock()
	if fresh {
		b.body = b.encode()
	}
	a.body = b.body
	return a
}

// end closes an attempt. From here on nothing of it leaves, and b.applied is
// what it was before, unless harm may have been done.
func (l *lane) end(a *attempt, harm bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.over = true
	a.b.attempt = nil
	a.b.applied = a.before || harm && a.read
	if why != nil {
		a.b.why = why
		l.launch() // those behind b need not wait for it any more
	}
}

// step is what a flight does next with its batch.
type step int

const (
	finished  step = iota
	elsewhere      // at once, to the leader that was just learned
	search         // look who leads now, then again
	later          // wait, then again
)

// carry sends b until every caller has an answer or has left.
func (l *lane) carry(ctx context.Context, b *batch) {
	var wait backoff
	hops := 0
	for {
		if ctx.Err() != nil {
			l.expire(b)
			return
		}
		a := l.begin(b)
		if a == nil {
			return
		}
		to := l.c.dir.target(l.shard)
		r := l.c.send(ctx, to, a)
		next, atLeast := l.settle(ctx, to, a, r)
		r.free()
		switch {
		case next == finished:
			return
		case ctx.Err() != nil:
			continue
		case next == elsewhere && hops < maxHops:
			hops++
			continue
		case next != later:
			l.c.dir.refresh(ctx)
			if l.moved(b) {
				if l.doubtful(b) {
					b.answerAll(fail(ErrOutcomeUnknown, b.why, errMoved))
				} else {
					l.requeue(ctx, b.everything(), 0)
				}
				return
			}
			if l.c.dir.target(l.shard) != to && hops < maxHops {
				hops++
				continue
			}
		}
		hops = 0
		if sleep(ctx, wait.next(atLeast)) == nil {
			l.c.logger.Debug("rlstore: trying a batch again", "shard", l.shard, "node", to.node.base.String(), "error", b.why)
		}
	}
}

var (
	errMoved   = errors.New("its slots have moved to another shard, which cannot recognise a repetition")
	errTooLong = errors.New("the store might soon not recognise a repetition any more")
)

// doubtful tells whether b may have been applied.
func (l *lane) doubtful(b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.applied
}

// expire ends a batch whose context has ended: all callers have left, the client
// is closed, or the patience is over.
func (l *lane) expire(b *batch) {
	l.mu.Lock()
	alive := b.live > 0 && !l.closed
	l.mu.Unlock()
	switch {
	case !alive:
	case l.doubtful(b):
		b.answerAll(fail(ErrOutcomeUnknown, b.why, errTooLong))
	default:
		l.requeue(l.c.ctx, b.everything(), 0)
	}
}

// moved tells whether an item of b now belongs to another shard.
func (l *lane) moved(b *batch) bool {
	t := l.c.dir.now.Load()
	for i := range b.items {
		if t.lane(&b.items[i]) != l {
			return true
		}
	}
	return false
}

// settle reads what came of an attempt, gives callers the answers they can
// have, and tells what to do for the others.
func (l *lane) settle(ctx context.Context, to target, a *attempt, r *response) (next step, atLeast time.Duration) {
	switch {
	case r.err != nil:
		why := r.err
		if errors.Is(why, context.DeadlineExceeded) || errors.Is(why, context.Canceled) {
			// Ours, and not to be taken for the caller's.
			why = fmt.Errorf("no answer from %s within %v", to.node.base, attemptTimeout)
		}
		if ctx.Err() != nil || errors.Is(why, errWithdrawn) {
			why = nil
		}
		l.end(a, true, why)
		if ctx.Err() == nil && !errors.Is(r.err, errWithdrawn) {
			l.c.dir.suspect(to.node, r.err)
		}
		return search, 0
	case r.problem != nil:
		return l.settleProblem(ctx, to, a, r.problem)
	}
	l.end(a, true, nil)
	l.heardOf()
	return l.settleReply(ctx, a, r.reply)
}

func (l *lane) settleProblem(ctx context.Context, to target, a *attempt, p *api.Problem) (next step, atLeast time.Duration) {
	b := a.b
	if l.c.memory.learnPolicies(p.PolicySets()) {
		l.bound(b)
	}
	l.end(a, p.Outcome != api.NotApplied, p)
	if !p.Retryable && p.Outcome == api.NotApplied && p.Code != api.NotLeader {
		l.heardOf()
	}
	switch {
	case p.Outcome != api.NotApplied:
		return search, 0
	case p.Code == api.NotLeader:
		mine := p.Shard == nil || *p.Shard == l.shard
		if mine && p.SlotMapVersion <= l.c.dir.now.Load().version && l.c.dir.learn(l.shard, p.Leader) && l.c.dir.target(l.shard) != to {
			return elsewhere, 0
		}
		return search, 0
	case p.Code == api.NoLeader, p.Code == api.Draining:
		// Another node may lead already, or soon: waiting as long as the
		// answer's whole seconds would only prolong a failover.
		l.c.dir.forget(l.shard)
		return search, 0
	case p.Retryable:
		return later, p.RetryAfter
	case a.before:
		// An earlier attempt is in doubt, and this does not clear it.
		if p.Code == api.SessionStale {
			l.restart(b)
		}
		b.answerAll(fail(ErrOutcomeUnknown, p, nil))
	case p.Code == api.SessionStale:
		l.restart(b)
		l.requeue(ctx, b.everything(), 0)
	case p.Code == api.CrossShard && !b.atomic:
		l.requeue(ctx, b.everything(), 1) // our slot map is old
	case !b.own && b.shared():
		// One caller's mistake is not the others': each on its own now.
		l.requeueApart(b)
	default:
		b.answerAll(refuse(p))
	}
	return finished, 0
}

// bound sees to it that takes of b wait no longer than the client's timeout, if their
// policy has turned out to have a failure rule only now.
func (l *lane) bound(b *batch) {
	if b.atomic {
		return
	}
	deadline := l.c.now() + int64(l.c.timeout)
	l.mu.Lock()
	for i := range b.items {
		if it := &b.items[i]; it.kind == api.Take && !it.inline && l.c.memory.rules(it.policy) {
			it.call.deadline.CompareAndSwap(0, deadline)
		}
	}
	l.mu.Unlock()
	l.c.watch(deadline)
}

// restart begins a new session, unless another flight has done so already.
func (l *lane) restart(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == b.session.ID {
		l.newSession()
	}
}

// shared tells whether several callers have items in b.
func (b *batch) shared() bool {
	return len(b.items) > 0 && slices.ContainsFunc(b.items, func(it item) bool { return it.call != b.items[0].call })
}

// everything is all items of b that have no answer.
func (b *batch) everything() []item {
	all := make([]item, 0, len(b.items))
	for _, it := range b.items {
		if it.call != nil {
			all = append(all, it)
		}
	}
	return all
}

// settleReply gives each caller its answers.
func (l *lane) settleReply(ctx context.Context, a *attempt, r *api.Reply) (next step, atLeast time.Duration) {
	b := a.b
	var (
		d       = newDecoder(l.c.memory, r.Sets)
		res     api.Result
		open    []int // items without an answer yet
		unknown = r.N != len(b.items)
		refused bool // the session
		w       *call
	)
	if unknown {
		l.note(b, errors.New("the reply does not fit the batch"))
		return search, 0
	}
	for i := range b.items {
		if ok, err := r.Next(&res); err != nil || !ok {
			if w != nil {
				w.mu.Unlock()
				w = nil
			}
			l.note(b, fmt.Errorf("result %d: %v", i, err))
			unknown = true
			for ; i < len(b.items); i++ {
				open = append(open, i)
			}
			break
		}
		it := &b.items[i]
		if it.call == nil {
			continue
		}
		var failed error
		if res.Status == api.StatusError {
			p := api.NewProblem(res.Code, "%s", res.Detail)
			again := p.Retryable
			if p.Code == api.SessionStale {
				refused, again = true, !a.before
				failed = fail(ErrOutcomeUnknown, p, nil)
			} else {
				unknown = unknown || p.Outcome != api.NotApplied
				again = again || p.Outcome != api.NotApplied
				failed = refuse(p)
			}
			if again {
				if w != nil {
					w.mu.Unlock() // the lane's lock comes before a call's
					w = nil
				}
				l.note(b, p)
				open = append(open, i)
				continue
			}
		}
		if it.call != w {
			if w != nil {
				w.mu.Unlock()
			}
			w = it.call
			w.mu.Lock()
		}
		if !w.failed {
			w.out[it.at].Err = failed
			switch {
			case failed == nil:
				d.fill(w, it, &res)
			case w.ask != nil && res.Code != api.SessionStale:
				w.ask.Result(it.at, nil, &res)
			}
			w.answer(it.at)
		}
	}
	if w != nil {
		w.mu.Unlock()
	}
	if refused {
		l.restart(b)
	}
	switch {
	case len(open) == 0:
		return finished, 0
	case unknown || a.before:
		// Under its number, until it is known.
		l.keep(b, open)
		return search, 0
	}
	again := make([]item, len(open))
	for i, at := range open {
		again[i] = b.items[at]
	}
	l.requeue(ctx, again, 1)
	return finished, 0
}

// note remembers the last thing that went wrong.
func (l *lane) note(b *batch, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.why = why
	l.launch()
}

// keep marks all items but those of open as answered.
func (l *lane) keep(b *batch, open []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.live = 0
	for i := range b.items {
		if len(open) > 0 && open[0] == i {
			open = open[1:]
			if !b.gone[b.items[i].call] {
				b.live++
			}
			continue
		}
		b.items[i].call = nil
	}
}

// fill is the answer to one item that was not refused. w.mu is held.
func (d *decoder) fill(w *call, it *item, r *api.Result) {
	if w.ask != nil {
		var set *api.SetInfo
		if !r.Status.Bare() {
			set = &d.sets[r.Set]
		}
		w.ask.Result(it.at, set, r)
		return
	}
	out := &w.out[it.at].Decision
	out.Key, out.Commit, out.Cost, out.Duplicate = it.key, r.Commit, it.cost, r.Duplicate
	if it.inline {
		out.inline = it.policy
	} else {
		out.Policy = it.policy
	}
	if r.Hold != nil {
		w.hold = *r.Hold
	}
	if it.kind == api.Refund || it.kind == api.Reset {
		d.memory.forgive(it)
	}
	if r.Status.Bare() {
		return
	}
	out.Allowed = r.Status == api.StatusAllowed || r.Status == api.StatusHeld
	out.Wait, out.Shadowed = micros(r.Wait), r.Shadowed
	d.state(r, it.kind == api.Peek, &out.State)
	if it.kind == api.Take {
		out.Source = d.sets[r.Set].SourceName()
	}
	if d.learns {
		d.memory.learn(it, &d.sets[r.Set], r)
	}
	if it.kind != api.Take {
		l := &d.sets[r.Set].Limits[r.Binding]
		w.refunded, w.rate, w.per = r.Refunded, l.Rate, l.Per
	}
}

// answerAll gives all items that have no answer the same error.
func (b *batch) answerAll(err error) { answerAll(b.items, err) }

func answerAll(items []item, err error) {
	for i := range items {
		w := items[i].call
		if w == nil {
			continue
		}
		w.mu.Lock()
		if !w.failed {
			w.out[items[i].at].Err = err
			w.answer(items[i].at)
		}
		w.mu.Unlock()
	}
}

// requeue sends items, none of which was applied, on their way again as new
// ones. With a surcharge, they count as having missed their shard once more.
func (l *lane) requeue(ctx context.Context, items []item, surcharge uint8) {
	var tries uint8
	for i := range items {
		it := &items[i]
		it.tries = min(it.tries+surcharge, 16)
		tries = max(tries, it.tries)
		it.call.mu.Lock()
		if !it.call.failed {
			it.call.where[it.at] = nil
		}
		it.call.mu.Unlock()
	}
	if surcharge > 0 {
		l.c.dir.refresh(ctx)
		if tries > 1 {
			sleep(ctx, (&backoff{last: firstWait << min(tries, 6)}).next(0))
		}
	}
	t := l.c.dir.now.Load()
	parts := map[*lane][]item{}
	for _, it := range items {
		to := t.lane(&it)
		parts[to] = append(parts[to], it)
	}
	// An atomic batch travels alone, so its items are recognised by the first.
	atomic := len(items) > 0 && items[0].atomic
	if atomic && len(parts) > 1 {
		answerAll(items, refuse(api.NewProblem(api.CrossShard, "an atomic batch must stay within one shard, and its keys were parted by a new slot map")))
		return
	}
	for to, part := range parts {
		to.pushOrFail(part, atomic, atomic)
	}
}

// requeueApart sends each call's items of b in a batch of their own.
func (l *lane) requeueApart(b *batch) {
	rest := b.everything()
	for len(rest) > 0 {
		n := 1
		for n < len(rest) && rest[n].call == rest[0].call {
			n++
		}
		l.pushOrFail(rest[:n], true, false)
		rest = rest[n:]
	}
}

// pushOrFail is push for items whose callers already wait.
func (l *lane) pushOrFail(items []item, own, atomic bool) {
	deadline, err := l.push(items, own, atomic)
	if err != nil {
		answerAll(items, err)
		return
	}
	l.c.watch(deadline)
}
