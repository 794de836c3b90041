package limiter

import (
	"context"
	"fmt"
	"slices"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// Bounds of the cache of parsed inline limits.
const (
	inlineCache    = 4096 // sets in each of two generations
	inlineCacheMax = 2048 // bytes of JSON; longer limits are parsed each time
)

// plan is a checked batch: which operations go to which shard, and which are
// refused.
type plan struct {
	batch *api.Batch
	works []*work

	// items says of each operation where it goes. It is nil when all go, in their
	// order, to works[0].
	items []item

	spent []lease.Outcome // of takes that were decided from memory
	ids   []usedID        // that this batch was the first to use, as far as this node knows
}

// whole tells that the batch goes to one shard, whose reply is that to the batch.
func (pl *plan) whole() bool { return pl.items == nil }

// item is the way of one operation: to a shard, or nowhere.
type item struct {
	shard uint32
	at    uint16       // index into plan.spent, if it is local; else into plan.works, if bad is nil
	local bool         // a take that is decided from memory
	ruled bool         // a take whose policy says what decides if the store can't
	set   *policy.Set  // an override's, if not that of the operation's policy; else nil
	bad   *api.Problem // why it is refused
	off   *policy.Set  // that of a take that passes without the log, its policy being off
}

// work is the part of a batch that lies in one shard.
type work struct {
	shard      uint32
	batch      *api.Batch
	sets       []*policy.Set
	idempotent bool // the state machine recognises a repetition
	ruled      bool // it is takes that have failure rules

	// The outcome, once known.
	reply []byte
	err   *api.Problem
}

// plan resolves and checks b. Its error refuses the whole batch. asked is true of
// a batch from outside, whose caller this node spends for, if it has no session.
func (l *Limiter) plan(ctx context.Context, b *api.Batch, asked bool) (*plan, error) {
	sets, unresolved := l.resolve(b.Policies)
	keyed := slices.ContainsFunc(sets, func(s *policy.Set) bool { return s != nil && s.Overrides != nil })
	off, offs := slices.ContainsFunc(sets, isOff), 0
	modes := anySpecial(sets)
	ours, locals, others := modes && asked && b.Session.Seq == 0 && !b.Atomic, 0, 0
	pl := &plan{batch: b}
	first := &work{batch: b, sets: sets, idempotent: true}
	rest := b.Ops
	for i := range b.N {
		var op api.Op
		var err error
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return nil, api.NewProblem(api.InvalidRequest, "request %d is malformed: %v", i, err)
		}
		var it item
		if keyed && op.Policy < len(sets) && !op.Kind.OnHold() {
			it.set = overrideOf(sets[op.Policy], op.Key)
		}
		if it.bad = l.check(&op, b, sets, it.set, unresolved); it.bad == nil && op.RequestID != "" && !op.Kind.OnHold() {
			pl.ids, it.bad = l.guard.check(pl.ids, i, &op, sets[op.Policy].Policy)
		}
		if it.bad == nil {
			it.shard = l.catalog.Route(op.Slot())
		} else if b.Atomic {
			l.guard.forget(pl.ids)
			return nil, inItem(i, it.bad)
		}
		if off && it.bad == nil && op.Kind == api.Take && isOff(sets[op.Policy]) {
			if it.off = it.set; it.off == nil {
				it.off = sets[op.Policy]
			}
			offs++
		}
		if modes && it.bad == nil && it.off == nil && !op.Kind.OnHold() {
			l.mode(&it, &op, sets[op.Policy], ours)
			if it.local {
				locals++
			}
			if op.Kind != api.Take {
				others++
			}
		}
		if i == 0 && it.bad == nil {
			first.shard, first.ruled = it.shard, it.ruled
		}
		if pl.items == nil && (it.bad != nil || it.set != nil || it.off != nil || it.local || it.shard != first.shard || it.ruled != first.ruled) {
			pl.items = make([]item, i, b.N)
			for j := range pl.items {
				pl.items[j].shard, pl.items[j].ruled = first.shard, first.ruled
			}
		}
		if pl.items != nil {
			pl.items = append(pl.items, it)
		}
		first.idempotent = first.idempotent && repeatable(&op)
	}
	if b.Session.Seq != 0 {
		first.idempotent = true
	}
	if offs > 0 && offs < b.N && (b.Atomic || b.Session.Seq != 0) {
		// What is repeated under a session's number must be what came first, and
		// an atomic batch has one outcome: the state machine lets them pass.
		for i := range pl.items {
			pl.items[i].off = nil
		}
	}
	if ours && others > 0 {
		// What is asked about a key stays behind what was taken of it before.
		first.ruled, locals = false, 0
		for i := range pl.items {
			pl.items[i].local, pl.items[i].ruled = false, false
		}
	}
	if locals > 0 {
		l.spend(ctx, pl, sets)
	}
	if pl.items == nil && !slices.Contains(sets, nil) {
		pl.works = []*work{first}
		return pl, nil
	}
	if pl.items == nil { // limits that mean nothing and that no operation uses: leave them out
		pl.items = make([]item, b.N)
		for j := range pl.items {
			pl.items[j].shard, pl.items[j].ruled = first.shard, first.ruled
		}
	}
	if err := l.split(pl, sets); err != nil {
		l.guard.forget(pl.ids)
		return nil, err
	}
	return pl, nil
}

// mode says how an operation goes by what its policy trades off: set is that of
// its policy. ours tells a batch that this node spends for.
func (l *Limiter) mode(it *item, op *api.Op, set *policy.Set, ours bool) {
	if it.set != nil {
		set = it.set
	}
	if set.Hot != nil && (op.Kind == api.Lease || l.isHot(set, op.Key)) {
		set, it.set = set.Hot, set.Hot
	}
	if !ours || op.Kind != api.Take {
		return
	}
	it.local = spendable(set) && op.RequestID == "" && op.MaxWait == 0
	it.ruled = set.Unavailable != api.FailClosed
}

func isOff(s *policy.Set) bool { return s != nil && s.Enforcement == api.Off }

// overrideOf returns the set that key has instead of s, or nil. s may be nil.
func overrideOf(s *policy.Set, key string) *policy.Set {
	if s == nil || s.Overrides == nil {
		return nil
	}
	return s.Overrides.Override(key)
}

// resolve returns the set of each reference, and the problems of those that
// can't decide, or nil if all can. A name that the catalog does not hold has the
// set of an unknown policy as well as a problem: see check.
func (l *Limiter) resolve(refs []api.PolicyRef) (sets []*policy.Set, bad []*api.Problem) {
	sets = make([]*policy.Set, len(refs))
	for i := range refs {
		var p *api.Problem
		if sets[i], p = l.resolveRef(&refs[i]); p != nil {
			if bad == nil {
				bad = make([]*api.Problem, len(refs))
			}
			bad[i] = p
		}
	}
	return sets, bad
}

func (l *Limiter) resolveRef(ref *api.PolicyRef) (*policy.Set, *api.Problem) {
	if ref.Inline == nil {
		if s, ok := l.catalog.Policy(ref.Name); ok {
			return s, nil
		}
		unknown := api.NewProblem(api.UnknownPolicy, "there is no policy %.140q", ref.Name)
		if policy.CheckName(ref.Name) != nil {
			return nil, unknown // and there never was one
		}
		return policy.Unknown(ref.Name), unknown
	}
	if !l.allowInline {
		return nil, api.NewProblem(api.InvalidRequest, "limits inside a request are not allowed on this server; name a policy, or start it with --allow-inline-limits")
	}
	if s, ok := l.inline.get(string(ref.Inline)); ok {
		return s, nil
	}
	s, err := policy.ParseInline(ref.Inline)
	if err != nil {
		return nil, api.AsProblem(err)
	}
	if len(ref.Inline) <= inlineCacheMax {
		l.inline.add(string(ref.Inline), s)
	}
	return s, nil
}

// check says why an operation must not reach a log, or returns nil.
//
// What depends on the catalog, whether there is such a policy and what it can
// ever grant, is left to the state machine for an operation that may be a
// repetition: its first answer stands, though the policy was edited or deleted
// since, and a session's batch must hold the same operations each time.
//
// override is the set of the override that applies, or nil.
func (l *Limiter) check(op *api.Op, b *api.Batch, sets []*policy.Set, override *policy.Set, unresolved []*api.Problem) *api.Problem {
	if op.Policy >= len(sets) && !op.Kind.OnHold() {
		return api.NewProblem(api.InvalidRequest, "policy %d of %d", op.Policy, len(sets))
	}
	if err := op.Check(); err != nil {
		return api.AsProblem(err)
	}
	if op.RequestID != "" && !op.Kind.Charges() {
		return api.NewProblem(api.InvalidRequest, "a %s takes no request_id", op.Kind)
	}
	if b.Atomic && op.Kind != api.Take {
		return api.NewProblem(api.InvalidRequest, "an atomic batch holds takes only, not a %s", op.Kind)
	}
	if op.Kind.OnHold() {
		return nil
	}
	mayRepeat := op.RequestID != "" || b.Session.Seq != 0
	if unresolved != nil && unresolved[op.Policy] != nil && (!mayRepeat || sets[op.Policy] == nil) {
		return unresolved[op.Policy]
	}
	s := sets[op.Policy]
	if override != nil {
		s = override
	}
	if (op.Kind == api.Take || op.Kind == api.Peek) && s.Enforcement == api.Enforce && op.Cost > s.MinBurst && !mayRepeat {
		return api.NewProblem(api.CostExceedsBurst, "the cost is %d, and the smallest burst of the policy %d: it could never pass", op.Cost, s.MinBurst)
	}
	return nil
}

// repeatable tells that the state machine recognises a repetition of op, or
// that one does no harm. A reset is neither: the second would also forget what
// was taken after the first. A hold is recognised by its id, but a lease only while
// it lives: what comes after its end would be another one, which nobody spends.
func repeatable(op *api.Op) bool {
	return op.Kind == api.Peek || op.RequestID != "" || op.Kind.MakesHold() && op.Kind != api.Lease || op.Kind.OnHold()
}

// inItem is p with the index of the operation that it is about.
func inItem(i int, p *api.Problem) *api.Problem {
	q := *p
	if q.Detail == "" {
		q.Detail = q.Title
	}
	q.Detail = fmt.Sprintf("request %d: %s", i, q.Detail)
	return &q
}
