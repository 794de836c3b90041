package limiter

import (
	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// split copies the good operations of a plan into one work a shard, in order of
// first use, with only the policies that each needs. A policy is there once for
// each set that its keys have.
func (l *Limiter) split(pl *plan, sets []*policy.Set) error {
	b := pl.batch
	type slot struct {
		work int
		set  *policy.Set
	}
	type way struct {
		shard uint32
		ruled bool
	}
	byWay := make(map[way]int, 8)
	renumbered := make(map[slot]int, 8)
	last := slot{work: -1} // and its number: neighbours are often alike
	lastAt := 0
	var keys []string // first key of each work, or id of a hold
	rest := b.Ops
	for i := range b.N {
		var op api.Op
		var err error
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return api.NewProblem(api.InvalidRequest, "request %d is malformed: %v", i, err)
		}
		it := &pl.items[i]
		if it.bad != nil || it.off != nil || it.local {
			continue
		}
		n, ok := last.work, last.work >= 0 && pl.works[last.work].shard == it.shard && pl.works[last.work].ruled == it.ruled
		if !ok {
			n, ok = byWay[way{it.shard, it.ruled}]
		}
		if !ok {
			n = len(pl.works)
			byWay[way{it.shard, it.ruled}] = n
			pl.works = append(pl.works, &work{
				shard: it.shard, ruled: it.ruled, idempotent: true,
				batch: &api.Batch{Atomic: b.Atomic, Session: b.Session, Ops: make([]byte, 0, len(b.Ops)/(len(pl.works)+1)+64)},
			})
			keys = append(keys, op.Subject())
			if n == 1 && (b.Atomic || b.Session.Seq != 0) {
				return l.crossShard(b, pl.works, keys)
			}
		}
		it.at = uint16(n)
		w := pl.works[n]
		w.idempotent = w.idempotent && (repeatable(&op) || b.Session.Seq != 0)
		if op.Kind.OnHold() {
			w.batch.Add(op)
			continue
		}
		set := it.set
		if set == nil {
			set = sets[op.Policy]
		}
		if (slot{n, set}) != last {
			at, ok := renumbered[slot{n, set}]
			if !ok {
				at = len(w.sets)
				renumbered[slot{n, set}] = at
				w.batch.Policies = append(w.batch.Policies, b.Policies[op.Policy])
				w.sets = append(w.sets, set)
			}
			last, lastAt = slot{n, set}, at
		}
		op.Policy = lastAt
		w.batch.Add(op)
	}
	if len(pl.works) == 1 && pl.works[0].batch.N == b.N {
		pl.items = nil
	}
	return nil
}

// crossShard refuses a batch that must stay within one shard and does not. A
// session's numbers count the batches of one shard: spread over two, the same
// number could stand for two batches in the second.
func (l *Limiter) crossShard(b *api.Batch, works []*work, keys []string) error {
	what := "an atomic batch"
	if !b.Atomic {
		what = "a batch of a session"
	}
	p := api.NewProblem(api.CrossShard,
		"%s must stay within one shard, but key %q lives in shard %d and key %q in shard %d; the same {tag} inside both keys puts them together",
		what, keys[0], works[0].shard, keys[1], works[1].shard)
	p.SlotMapVersion = l.catalog.SlotMapVersion()
	return p
}

// merge puts the outcomes of a plan's works and its refused operations together
// in the order of the batch. Each decision carries its own commit.
func merge(pl *plan) []byte {
	replies := make([]*api.Reply, len(pl.works))
	renumbered := make([][]int, len(pl.works)) // a reply's sets -> the merged ones
	var a answers
	size, replayed := 0, false
	for n, w := range pl.works {
		if w.err != nil {
			continue
		}
		r, err := api.DecodeReply(w.reply)
		if err != nil {
			w.err = api.NewProblem(api.OutcomeUnknown, "shard %d: %v", w.shard, err)
			continue
		}
		replies[n] = r
		size += len(w.reply)
		replayed = replayed || r.Replayed
		for i := range r.Sets {
			renumbered[n] = append(renumbered[n], a.number(api.AppendSetInfo(nil, &r.Sets[i])))
		}
	}
	// 24 bytes a result are what its own commit takes at most, nearly always.
	dst := api.BeginReply(make([]byte, 0, size+24*pl.batch.N+64), pl.batch.N, api.Commit{})
	var res api.Result
	for i := range pl.items {
		it := &pl.items[i]
		if it.bad != nil {
			dst = appendError(dst, it.bad)
			continue
		}
		if it.off != nil {
			dst = a.appendUntouched(dst, it.off, api.FromStore)
			continue
		}
		if it.local {
			dst = a.appendOutcome(dst, &pl.spent[it.at], api.FromLease)
			continue
		}
		w := pl.works[it.at]
		if w.err != nil {
			dst = appendError(dst, w.err)
			continue
		}
		ok, err := replies[it.at].Next(&res)
		if err != nil || !ok {
			w.err = api.NewProblem(api.OutcomeUnknown, "shard %d: its answer is malformed: %v", w.shard, err)
			dst = appendError(dst, w.err)
			continue
		}
		res.OwnCommit = true
		if n := renumbered[it.at]; res.Set < len(n) {
			res.Set = n[res.Set]
		}
		dst = api.AppendResult(dst, &res)
	}
	dst = api.FinishReply(dst, 0, a.sets)
	if replayed {
		api.MarkReplayed(dst)
	}
	return dst
}

// allFailed is the reply to n operations that failed alike.
func allFailed(n int, p *api.Problem) []byte {
	dst := api.BeginReply(nil, n, api.Commit{})
	for range n {
		dst = appendError(dst, p)
	}
	return api.FinishReply(dst, 0, nil)
}

func appendError(dst []byte, p *api.Problem) []byte {
	return api.AppendResult(dst, &api.Result{Status: api.StatusError, Code: p.Code, Detail: p.Detail})
}
