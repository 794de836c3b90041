package limiter

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// What becomes of takes whose policy says what decides when the store can't.

// rulePatience is how long a take waits for a store that may be unavailable, before
// its policy's failure rule decides. An election mostly fits into it.
const rulePatience = 2 * time.Second

// leastPatience is what a caller must have had to say that a shard does not answer:
// many times a commit.
const leastPatience = rulePatience / 8

// shard is what this node knows of the availability of one.
type shard struct {
	breaker lease.Breaker
}

// shards are made as they are met.
type shards struct {
	mu   sync.RWMutex
	byID map[uint32]*shard
}

func (s *shards) of(id uint32) *shard {
	s.mu.RLock()
	sh := s.byID[id]
	s.mu.RUnlock()
	if sh != nil {
		return sh
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh = s.byID[id]; sh == nil {
		if s.byID == nil {
			s.byID = map[uint32]*shard{}
		}
		sh = &shard{breaker: lease.Breaker{Random: rand.Uint64}}
		s.byID[id] = sh
	}
	return sh
}

// each calls f with every shard, in no order.
func (s *shards) each(f func(id uint32, sh *shard)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, sh := range s.byID {
		f(id, sh)
	}
}

// unavailable tells the problems that mean that the store could not decide, from
// those that it has decided.
func unavailable(c api.Code) bool {
	switch c {
	case api.NoLeader, api.Overloaded, api.Draining, api.OutcomeUnknown:
		return true
	}
	return false
}

// maxTold is how many bytes of policies a problem tells at most: some hundred of them.
const maxTold = 16 << 10

// tellRules adds the policies of a batch to the problem that its shard does not answer,
// if its caller is one that decides by itself then: it may not have met them before.
func (l *Limiter) tellRules(b *api.Batch, err error) error {
	p := api.AsProblem(err)
	if b.Session.Seq == 0 || !unavailable(p.Code) {
		return err
	}
	var told []byte
	for i := range b.Policies {
		// Not what an override or a hot key makes of it: the client goes by it for all keys.
		s, ok := l.catalog.Policy(b.Policies[i].Name)
		if !ok || b.Policies[i].Inline != nil || len(told)+len(s.Encoded) > maxTold {
			continue
		}
		info := s.SetInfo
		info.Zone = nil // as in replies
		told = api.AppendSetInfo(told, &info)
	}
	if told == nil {
		return err
	}
	own := *p // the others of the entry share it
	own.Policies = told
	return &own
}

// sendRuled has w decided, all of whose operations are takes with a failure rule:
// by the store, or in time by the rules.
func (l *Limiter) sendRuled(ctx context.Context, w *work, o Options) ([]byte, error) {
	b := &l.shards.of(w.shard).breaker
	if b.Open() {
		if now := l.now(); b.Go(now) {
			l.probe(b, w)
		}
		return l.byRules(w, b, nil)
	}
	patience := l.rulePatience(ctx)
	in, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := l.send(in, w, o)
	switch p := api.AsProblem(err); {
	case err == nil:
		b.Success()
		l.remember(w, reply)
		return reply, nil
	case !unavailable(p.Code) || errors.Is(ctx.Err(), context.Canceled):
		return nil, err
	default:
		if in.Err() != nil && patience < leastPatience {
			return l.byRules(w, b, p)
		}
		if b.Failure(l.now()) {
			l.logger.Warn("a shard does not answer; failure rules decide", "shard", w.shard, "problem", p.Code, "detail", p.Detail)
		}
		return l.byRules(w, b, p)
	}
}

// rulePatience leaves time to get the rule's answer out.
func (l *Limiter) rulePatience(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(rulePatience, time.Until(end)-answerMargin)
	}
	return rulePatience
}

// probe asks the shard for something that changes nothing, so that no caller has to
// wait for a store that is gone.
func (l *Limiter) probe(b *lease.Breaker, w *work) {
	op, _, err := api.DecodeOp(w.batch.Ops)
	if err != nil {
		return
	}
	peek := &api.Batch{Policies: w.batch.Policies[op.Policy : op.Policy+1]}
	peek.Add(api.Op{Kind: api.Peek, Key: string([]byte(op.Key))})
	q := &work{shard: w.shard, batch: peek, sets: w.sets[op.Policy : op.Policy+1], idempotent: true}
	go func() {
		ctx, cancel := context.WithTimeout(l.spender.life, rulePatience)
		defer cancel()
		if _, err := l.send(ctx, q, Options{}); err != nil && unavailable(api.AsProblem(err).Code) {
			b.Failure(l.now())
			return
		}
		if b.Success() {
			l.logger.Info("a shard answers again", "shard", q.shard)
		}
	}()
}

// byRules answers takes by their policies' failure rules. why is the problem that
// the store's absence made, nil if it was not asked.
func (l *Limiter) byRules(w *work, b *lease.Breaker, why *api.Problem) ([]byte, error) {
	now, away := l.now(), int64(0)
	if b.Open() {
		away = now - b.Since()
	}
	if why == nil {
		why = api.NewProblem(api.NoLeader, "shard %d has not answered for %v, and is not asked by every take", w.shard, time.Duration(away).Round(time.Millisecond))
		why.RetryAfter = retryAdvice
	}
	a := answers{}
	dst := api.BeginReply(nil, w.batch.N, api.Commit{})
	rest := w.batch.Ops
	closed := 0
	for range w.batch.N {
		var op api.Op
		var err error
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return nil, err
		}
		set := w.sets[op.Policy]
		switch out, ok := l.byRule(now, away, &op, set); {
		case !ok:
			closed++
			dst = appendError(dst, why)
		case out == nil:
			dst = a.appendUntouched(dst, set, api.FromOpen)
		default:
			dst = a.appendOutcome(dst, out, api.FromLocal)
		}
	}
	if closed == w.batch.N {
		return nil, why
	}
	return api.FinishReply(dst, 0, a.sets), nil
}

// byRule decides one take by its policy's failure rule. ok is false if that is
// closed, or has ended; out is nil if the take is let pass.
func (l *Limiter) byRule(now, away int64, op *api.Op, set *policy.Set) (out *lease.Outcome, ok bool) {
	if set.UnavailableFor > 0 && away >= set.UnavailableFor*int64(time.Millisecond) {
		return nil, false
	}
	if set.Unavailable == api.FailOpen || set.Enforcement != api.Enforce {
		return nil, true
	}
	e, _ := l.spender.entry(now, set, op.Key)
	if e == nil {
		return nil, false // no room for one more bucket
	}
	local := e.TakeLocal(now, op.Cost)
	return &local, local.Verdict != lease.Store
}

// remember keeps what the store said of keys whose rule is local: where their
// buckets begin when it is gone.
func (l *Limiter) remember(w *work, reply []byte) {
	keep := false
	for _, s := range w.sets {
		keep = keep || s.Unavailable == api.FailLocal
	}
	if keep {
		l.learn(w.batch, w.sets, reply)
	}
}
