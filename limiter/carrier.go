package limiter

import (
	"context"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

// carrier takes what the spender asks to one shard: all that waits in one batch,
// one batch at a time, in a session of its own, so that nothing is applied twice.
// It has a goroutine while there is something to carry.
type carrier struct {
	s       *spender
	shard   uint32
	session api.Session

	queue   []*lease.Ask // guarded by s.mu
	running bool         // guarded by s.mu
}

const (
	// carryPatience bounds one attempt.
	carryPatience = 5 * time.Second
	// carryGiveUp is how long a batch whose outcome is unknown is repeated. It is
	// well within what a shard remembers a session for. After that, what it
	// granted expires, and what it charged may be charged once more.
	carryGiveUp = 2 * time.Minute
	// carryAgain is the wait between attempts.
	carryAgain = 500 * time.Millisecond
)

// send is [lease.Config.Send].
func (s *spender) send(a *lease.Ask) {
	shard := s.l.catalog.Route(api.Slot(a.Entry().Key()))
	if s.life.Err() != nil {
		a.End(s.l.now(), s.life.Err())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.carriers[shard]
	if c == nil {
		c = &carrier{s: s, shard: shard}
		id := [2]uint64{randomBits(), randomBits()}
		for i := range c.session.ID {
			c.session.ID[i] = byte(id[i/8] >> (8 * (i % 8)))
		}
		s.carriers[shard] = c
	}
	c.queue = append(c.queue, a)
	if !c.running {
		c.running = true
		go c.run()
	}
}

// run carries until nothing waits.
func (c *carrier) run() {
	for asks := c.next(); len(asks) > 0; asks = c.next() {
		err := c.carry(asks)
		now := c.s.l.now()
		for _, a := range asks {
			a.End(now, err)
		}
	}
}

// next takes what waits, as far as it fits one batch; none ends the run.
func (c *carrier) next() []*lease.Ask {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	n, ops := 0, 0
	for n < len(c.queue) && (n == 0 || ops+len(c.queue[n].Ops) <= api.MaxBatch) {
		ops += len(c.queue[n].Ops)
		n++
	}
	asks := c.queue[:n:n]
	c.queue = c.queue[n:]
	c.running = n > 0
	return asks
}

// carry has the store answer asks. What has no result then, failed with its error.
func (c *carrier) carry(asks []*lease.Ask) error {
	c.session.Acked = c.session.Seq
	c.session.Seq++
	b := &api.Batch{Session: c.session}
	for _, a := range asks {
		ref := b.Ref(a.Entry().Policy())
		for _, op := range a.Ops {
			if !op.Kind.OnHold() {
				op.Policy = ref
			}
			b.Add(op)
		}
	}
	breaker := &c.s.l.shards.of(c.shard).breaker
	for began := time.Now(); ; {
		reply, err := c.attempt(b)
		if err == nil {
			breaker.Success()
			return deliver(asks, reply)
		}
		p := api.AsProblem(err)
		if unavailable(p.Code) {
			breaker.Failure(c.s.l.now())
		}
		if p.Outcome == api.NotApplied || !p.Retryable || time.Since(began) > carryGiveUp || !pause(c.s.life, carryAgain) {
			return err
		}
	}
}

func (c *carrier) attempt(b *api.Batch) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.s.life, carryPatience)
	defer cancel()
	pl, err := c.s.l.plan(ctx, b, false)
	if err != nil {
		return nil, err
	}
	return c.s.l.decide(ctx, pl, Options{})
}

// deliver hands out the results of a batch of asks.
func deliver(asks []*lease.Ask, reply []byte) (last error) {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return api.NewProblem(api.OutcomeUnknown, "%v", err)
	}
	for _, a := range asks {
		for i := range a.Ops {
			var res api.Result
			if ok, err := r.Next(&res); err != nil || !ok {
				return api.NewProblem(api.OutcomeUnknown, "an answer without result %d: %v", i, err)
			}
			switch {
			case !res.Status.Bare():
				a.Result(i, &r.Sets[res.Set], &res)
			case res.Status != api.StatusError || !res.Code.Info().Retryable:
				a.Result(i, nil, &res)
			default:
				last = api.NewProblem(res.Code, "%s", res.Detail)
			}
		}
	}
	return last
}
