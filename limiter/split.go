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
	byShard := make(map[uint32]int, 8)
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
		if it.bad != nil || it.off != nil {
			continue
		}
		n, ok := last.work, last.work >= 0 && pl.works[last.work].shard == it.shard
		if !ok {
			n, ok = byShard[it.shard]
		}
		if !ok {
			n = len(pl.works)
			byShard[it.shard] = n
			pl.works = append(pl.works, &work{
				shard: it.shard, idempotent: true,
				batch: &api.Batch{Atomic: b.Atomic, Session: b.Session, Ops: make([]byte, 0, len(b.Ops)/(len(pl.works)+1)+64)},
			})
			keys = append(keys, op.Subject())
			if n == 1 && (b.Atomic || b.Session.Seq != 0) {
				return l.crossShard(b, pl.works, keys)
			}
		}
		it.work = n
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
	var sets [][]byte
	known := map[string]int{}
	number := func(enc []byte) int {
		at, ok := known[string(enc)]
		if !ok {
			at = len(sets)
			known[string(enc)] = at
			sets = append(sets, enc)
		}
		return at
	}
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
			renumbered[n] = append(renumbered[n], number(api.AppendSetInfo(nil, &r.Sets[i])))
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
			dst = appendOff(dst, it.off, number)
			continue
		}
		w := pl.works[it.work]
		if w.err != nil {
			dst = appendError(dst, w.err)
			continue
		}
		ok, err := replies[it.work].Next(&res)
		if err != nil || !ok {
			w.err = api.NewProblem(api.OutcomeUnknown, "shard %d: its answer is malformed: %v", w.shard, err)
			dst = appendError(dst, w.err)
			continue
		}
		res.OwnCommit = true
		if n := renumbered[it.work]; res.Set < len(n) {
			res.Set = n[res.Set]
		}
		dst = api.AppendResult(dst, &res)
	}
	dst = api.FinishReply(dst, 0, sets)
	if replayed {
		api.MarkReplayed(dst)
	}
	return dst
}

// appendOff appends the answer to a take whose policy is off: it passes, every
// limit is untouched, and no log knows of it. number numbers a set of the reply.
func appendOff(dst []byte, s *policy.Set, number func([]byte) int) []byte {
	info := s.SetInfo
	info.Zone = nil
	res := api.Result{Status: api.StatusAllowed, Set: number(api.AppendSetInfo(nil, &info)), OwnCommit: true}
	for _, l := range info.Limits {
		res.Limits = append(res.Limits, api.LimitValues{Remaining: l.Burst})
	}
	return api.AppendResult(dst, &res)
}

func appendError(dst []byte, p *api.Problem) []byte {
	return api.AppendResult(dst, &api.Result{Status: api.StatusError, Code: p.Code, Detail: p.Detail})
}
