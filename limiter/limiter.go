package limiter

import (
	"context"
	"log/slog"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// Catalog is this node's copy of the replicated catalog. It is safe for
// concurrent use, and its answers cost no more than a map look-up.
type Catalog interface {
	// Current says whether the copy has caught up since the node started. Until
	// then a policy that it lacks may exist all the same.
	Current() bool
	// Removed says that the node was removed from its cluster: the copy will hear
	// of no change any more, and decides nothing.
	Removed() bool
	// Policy returns the resolved limits of a policy.
	Policy(name string) (*policy.Set, bool)
	// Route returns the shard that owns a slot.
	Route(slot uint16) (shard uint32)
	// SlotMapVersion returns the version of the map that Route reads.
	SlotMapVersion() uint64
}

// Leader is what this node knows of a shard's leader. While Known is false the
// other fields mean nothing.
type Leader struct {
	ID    string // node id
	HTTP  string // base URL of its API; may be empty
	Local bool   // it is this node, and it is ready to take submissions
	Known bool
}

// Log is the shards' replicated logs, and the way to the peers that lead them.
// It is safe for concurrent use. Its errors are problems, with the outcome told
// truly: whoever is in doubt says unknown.
type Log interface {
	// Leader returns the present belief about a shard's leader; it does not
	// block.
	Leader(shard uint32) Leader
	// Submit queues p on this node's replica of shard and returns at once. It
	// completes p exactly once, soon: with the reply, or with whatever
	// outcome the log can vouch for. It makes sense where Leader is local;
	// elsewhere p fails with [api.NotLeader].
	Submit(shard uint32, p *Part)
	// Forward sends an encoded batch to [Limiter.Forwarded] of a peer and
	// returns its answer. An error of ctx is one of unknown outcome.
	Forward(ctx context.Context, nodeID string, shard uint32, batch []byte) (reply []byte, err error)
}

// Config is what a [Limiter] is made of. Catalog and Log are required.
type Config struct {
	Catalog     Catalog
	Log         Log
	Replicas    Replicas     // nil refuses stale peeks
	AllowInline bool         // serve limits written into requests; the same on every node
	Logger      *slog.Logger // nil is slog.Default()
	Metrics     Observer     // nil counts nothing

	// Clock is the time by which leases and soft buckets are spent, and breakers go.
	// Nil is the machine's monotonic clock.
	Clock lease.Clock

	// Waiting tells how many callers' batches wait for an entry of a shard that this
	// node leads: by it keys of policies of mode auto become hot. Nil finds none.
	Waiting func(shard uint32) int
}

// Limiter decides batches. It is safe for concurrent use.
type Limiter struct {
	catalog     Catalog
	log         Log
	replicas    Replicas
	allowInline bool
	logger      *slog.Logger
	metrics     Observer
	inline      *generations[*policy.Set]
	guard       *guard
	top         *top
	clock       lease.Clock
	shards      shards
	syncs       syncs
	waiting     func(shard uint32) int
	hot         hot
	spender     *spender
}

// New returns a limiter. It has goroutines only while it holds leases or soft
// buckets, which GiveBack and Abandon end.
func New(c Config) *Limiter {
	l := &Limiter{
		catalog: c.Catalog, log: c.Log, replicas: c.Replicas, allowInline: c.AllowInline,
		logger: c.Logger, metrics: c.Metrics,
		inline: newGenerations[*policy.Set](inlineCache),
		guard:  newGuard(guardIDs),
		top:    newTop(),
		clock:  c.Clock, waiting: c.Waiting,
	}
	if l.clock == nil {
		l.clock = lease.Monotonic()
	}
	l.spender = newSpender(l)
	if l.logger == nil {
		l.logger = slog.Default()
	}
	if l.metrics == nil {
		l.metrics = nothing{}
	}
	return l
}

// now is the clock's time, in nanoseconds, never 0.
func (l *Limiter) now() int64 { return int64(l.clock.Now()) + 1 }

// Options is what a caller may ask for beside the batch.
type Options struct {
	// NoForward answers [api.NotLeader], with the leader's address, instead of
	// forwarding, and [api.NoLeader] at once instead of waiting for one.
	NoForward bool
	// Each tells an operation's failure as its result, also where all lie in one shard
	// and that fails. [api.NotLeader], and what befalls an atomic batch, is an error
	// nevertheless.
	Each bool
}

// Do decides b and returns the encoded reply (see [api.DecodeReply]), with one
// result for each operation, in order.
//
// b's form must be right, as after [api.DecodeBatch]; the values of its
// operations are checked here. Do never changes b. When it returns an error,
// or results that Options.Each made of one, the log may still be reading b: the
// caller drops its memory and must not reuse it.
//
// A batch that lies in one shard and fails there returns that failure as its
// error, but see Options.Each. Of a batch over several shards, each failed
// shard's operations get it as their results, and the other shards' results
// stand. An atomic batch has one outcome: a reply, or an error.
//
// Without a deadline in ctx, Do gives up on a shard after [DefaultPatience].
func (l *Limiter) Do(ctx context.Context, b *api.Batch, o Options) ([]byte, error) {
	if err := l.awaitCatalog(ctx, o); err != nil {
		l.metrics.Failed(api.AsProblem(err).Code, b.N)
		return nil, err
	}
	pl, err := l.plan(ctx, b, true)
	if err != nil {
		return nil, err
	}
	reply, err := l.decide(ctx, pl, o)
	l.guard.conclude(pl.ids, reply, err)
	if err != nil {
		l.metrics.Failed(api.AsProblem(err).Code, b.N)
		return nil, l.tellRules(b, err)
	}
	l.observe(reply)
	return reply, nil
}

// decide has every part of the plan decided and puts the answers together.
func (l *Limiter) decide(ctx context.Context, pl *plan, o Options) ([]byte, error) {
	if len(pl.works) == 1 {
		w := pl.works[0]
		reply, err := l.dispatch(ctx, w, o)
		if err == nil && pl.batch.Atomic {
			err = refusedWhole(reply)
		}
		switch {
		case err != nil && o.Each && !pl.batch.Atomic && api.AsProblem(err).Code != api.NotLeader:
			w.err = api.AsProblem(err)
			if pl.whole() {
				return allFailed(pl.batch.N, w.err), nil
			}
		case err != nil:
			return nil, err
		case pl.whole():
			return reply, nil
		default:
			w.reply = reply
		}
		return merge(pl), nil
	}
	l.scatter(ctx, pl.works, o)
	return merge(pl), nil
}

// dispatch has w decided.
func (l *Limiter) dispatch(ctx context.Context, w *work, o Options) ([]byte, error) {
	if w.ruled {
		return l.sendRuled(ctx, w, o)
	}
	return l.send(ctx, w, o)
}

// Forwarded decides a batch that a peer sent here because it believes that
// this node leads shard. Nothing in it is trusted: it is decoded, checked and
// resolved by this node's own catalog as if it came from a stranger. A batch
// that does not lie wholly in shard by this node's map, or that this node
// cannot submit as the leader, fails with [api.NotLeader]; it never travels on.
//
// The batch's memory belongs to Forwarded from here on.
func (l *Limiter) Forwarded(ctx context.Context, shard uint32, batch []byte) ([]byte, error) {
	b, err := api.DecodeBatch(batch)
	if err != nil {
		return nil, err
	}
	if err := l.awaitCatalog(ctx, Options{NoForward: true}); err != nil {
		return nil, err
	}
	pl, err := l.plan(ctx, b, false)
	if err != nil {
		return nil, err
	}
	leader := l.log.Leader(shard)
	var reply []byte
	if !leader.Local || len(pl.works) > 1 || len(pl.works) == 1 && pl.works[0].shard != shard {
		err = l.notLeader(shard, leader)
	} else {
		reply, err = l.decideHere(ctx, pl)
	}
	l.guard.conclude(pl.ids, reply, err)
	return reply, err
}

// decideHere is decide for a plan of one part at most, which this node leads.
func (l *Limiter) decideHere(ctx context.Context, pl *plan) ([]byte, error) {
	if len(pl.works) == 0 {
		return merge(pl), nil
	}
	w := pl.works[0]
	reply, p := l.submit(ctx, w)
	if p != nil {
		return nil, p
	}
	if pl.whole() {
		return reply, nil
	}
	w.reply = reply
	return merge(pl), nil
}

// refusedWhole is the error of an atomic batch that the state machine refused:
// it answers every operation with an error then, or none.
func refusedWhole(reply []byte) error {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return api.NewProblem(api.OutcomeUnknown, "%v", err)
	}
	var res api.Result
	if ok, err := r.Next(&res); err != nil || !ok {
		return api.NewProblem(api.OutcomeUnknown, "an answer without results: %v", err)
	}
	if res.Status != api.StatusError {
		return nil
	}
	return api.NewProblem(res.Code, "%s", res.Detail)
}
