package check

import (
	"bytes"
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// Reservations and permits, and what they have in common with leases. The rules in
// quotes are those of docs/reference.md and of fsm/holds.go.

// hold is a promise of a shard: a reservation, "whose tokens are charged and may yet
// be given back", a permit, "which takes one slot of every concurrency limit of its
// bucket", or a lease, which lease.go is about.
type hold struct {
	id      [16]byte
	kind    string // of the operation that made it
	cost    int64  // what was charged to each limit that has tokens; of a lease, what was granted
	expires uint64 // "A hold lives while the stamp is below its expiry."
	free    bool   // "it charges nothing and takes no slot, and its settlement comes to nothing"
	cancels bool   // of a reservation: its expiry gives it back
	set     *numbers
	made    instant
}

// lives says whether the hold counts at a time.
func (h *hold) lives(now uint64) bool { return h.expires > now }

// madeBy says whether the operation is the one that made the hold: of the same kind
// and cost. What a lease asks for does not tell it.
func (h *hold) madeBy(op *logOp) bool {
	return h.kind == op.kind && (h.cost == op.cost || h.kind == leases)
}

// ending is "what is remembered of a hold that was settled", a lease excepted.
type ending struct {
	of   hold
	name bucketName
	by   string // commit, cancel or release
	cost int64  // that a commit asked for
	at   uint64

	committed, given, charged int64
}

const (
	endWindow = 5 * 60 * 1_000_000_000 // cluster time, nanoseconds
	maxEnds   = 1 << 18

	// "Reservations that are overdue are settled as entries come, oldest first, at
	// most 4 for an entry and 2 for each operation in it, or 4096 for a tick".
	settledEntry = 4
	settledOp    = 2
	settledTick  = 4096
)

// endMemory remembers how holds ended: what each may have come to, nearly always
// one thing. A nil ending is that it has not ended, as far as anybody remembers.
type endMemory struct {
	byID  map[[16]byte]rememberedEnd
	added int
}

type rememberedEnd struct {
	may []*ending
	n   int // how many were added before it
}

// recall returns what the end of a hold may be.
func (m *endMemory) recall(id [16]byte, now uint64) []*ending {
	r, ok := m.byID[id]
	if !ok || m.added-r.n > maxEnds {
		return []*ending{nil}
	}
	may := slices.Clone(r.may)
	for i, e := range may { // "for 5 minutes of cluster time"
		if e != nil && now-e.at >= endWindow {
			may[i] = nil
		}
	}
	return may
}

func (m *endMemory) add(id [16]byte, may []*ending) {
	var distinct []*ending
	for _, e := range may {
		if !slices.ContainsFunc(distinct, func(d *ending) bool { return d == e || d != nil && e != nil && *d == *e }) {
			distinct = append(distinct, e)
		}
	}
	m.byID[id] = rememberedEnd{distinct, m.added}
	m.added++
}

// find is the hold of a bucket under an id, or nil.
func (b *bucket) find(id [16]byte) *hold {
	if b == nil {
		return nil
	}
	for i := range b.holds {
		if b.holds[i].id == id {
			return &b.holds[i]
		}
	}
	return nil
}

// drop takes a hold out of a bucket, and returns it.
func (b *bucket) drop(id [16]byte) hold {
	h := *b.find(id)
	b.holds = slices.DeleteFunc(slices.Clone(b.holds), func(h hold) bool { return h.id == id })
	return h
}

// with is the bucket as of at, under its own numbers, with other holds; nil if nothing
// is left.
func (b *bucket) with(holds []hold, at instant) *bucket {
	switch {
	case b != nil && b.set != nil:
		b = b.clone()
		b.advance(at)
		b.holds = holds
		return b
	case len(holds) == 0:
		return nil
	}
	return &bucket{at: at, holds: holds}
}

// permits is when the permits that live and take a slot expire, in that order.
// "Expiry is exact for permits: what is overdue does not count."
func (b *bucket) permits() (expiries []uint64) {
	for i := range b.holds {
		if h := &b.holds[i]; h.kind == acquire && !h.free && h.lives(b.at.now) {
			expiries = append(expiries, h.expires)
		}
	}
	slices.Sort(expiries)
	return expiries
}

// untilSlot is "the time until enough permits have expired if none is renewed or
// released".
func (b *bucket) untilSlot(l *limit) uint64 {
	p := b.permits()
	if int64(len(p)) < l.burst {
		return 0
	}
	return p[int64(len(p))-l.burst] - b.at.now
}

// untilSlots is "that until all have".
func (b *bucket) untilSlots() uint64 {
	if p := b.permits(); len(p) > 0 {
		return p[len(p)-1] - b.at.now
	}
	return 0
}

// admits says whether each limit has a slot or cost tokens, whichever it counts.
func (b *bucket) admits(cost int64) bool {
	for i := range b.set.limits {
		want := cost
		if b.set.limits[i].algorithm == api.Concurrency {
			want = 1 // "one slot [...], whatever its cost"
		}
		if b.left(i) < want {
			return false
		}
	}
	return true
}

// recognise says whether the hold that an operation asks for was made by it, or under
// its id by another one. "The operation that made it, sent again under the same id,
// makes no second one", also when it has ended as e tells.
func recognise(op *logOp, b *bucket, e *ending) (known bool, code api.Code) {
	var made bool
	switch h := b.find(op.hold); {
	case h != nil:
		made = h.madeBy(op)
	case e != nil:
		made = e.of.madeBy(op) && e.name == bucketName{op.set.policy, op.key}
	default:
		return false, ""
	}
	if !made {
		return false, api.RequestIDReused
	}
	return true, ""
}

// decideHold applies a reserve or an acquire to a bucket.
func decideHold(op *logOp, b *bucket, e *ending) (out outcome, changed bool) {
	held := func(v verdict) outcome {
		a := b.describe(b.scarcest(), 0)
		a.Allowed, a.Hold = true, op.hold[:]
		return outcome{verdict: v, answer: a}
	}
	enforced := !b.set.off && !b.set.shadow
	known, code := recognise(op, b, e)
	switch {
	case code != "":
		return fail(code), false
	case known: // "answered as a duplicate, with the bucket as it is now"
		return held(again), false
	case op.kind == reserve && b.set.permits && !b.set.off:
		return fail(api.PermitRequired), false
	case op.kind == acquire && !b.set.permits: // "Under a policy without a concurrency limit"
		return fail(api.InvalidRequest), false
	case enforced && op.cost > b.set.smallest:
		return fail(api.CostExceedsBurst), false
	case enforced && !b.admits(op.cost):
		return outcome{verdict: denied, answer: b.deny(op.cost, 0)}, false
	}
	h := hold{
		id: op.hold, kind: op.kind, cost: op.cost, expires: b.at.now + uint64(op.ttl)*1e6,
		free: b.set.off || !b.admits(op.cost), cancels: op.rule == 1, set: b.set, made: b.at,
	}
	if h.free {
		out = held(allowed)
		if b.set.shadow {
			if op.cost <= b.set.smallest {
				out.answer = b.deny(op.cost, 0)
			}
			out.answer.Allowed, out.answer.Shadowed, out.answer.Hold = true, true, op.hold[:]
		}
		b.holds = append(slices.Clone(b.holds), h)
	} else {
		b.charge(op.cost, 0) // "It is charged now, to all limits or none."
		b.holds = append(slices.Clone(b.holds), h)
		out = held(allowed)
	}
	out.due = h.expires
	return out, !h.free
}

// settle ends a hold that is no lease, and returns what is remembered of that and
// whether the levels changed.
func (b *bucket) settle(name bucketName, id [16]byte, by string, cost int64) (e *ending, changed bool) {
	h := b.drop(id)
	e = &ending{of: h, name: name, by: by, cost: cost, at: b.at.now}
	switch {
	case h.kind == acquire, h.free:
		return e, false
	case cost < h.cost:
		e.given = b.undo(&h, h.cost-cost)
	case cost > h.cost:
		if e.charged = min(cost-h.cost, b.credit()); e.charged > 0 {
			b.charge(e.charged, 0)
		}
	}
	// "what was reserved, less refunded, plus charged"
	e.committed = h.cost - e.given + e.charged
	return e, e.given > 0 || e.charged > 0
}

// credit is how much can be charged "into debt if need be, down to one burst below 0
// in the limit that is nearest to that".
func (b *bucket) credit() int64 {
	least := int64(api.MaxCost)
	for i := range b.set.limits {
		if l := &b.set.limits[i]; l.algorithm != api.Concurrency {
			least = min(least, max(0, b.left(i)-max(-l.burst, l.burst-maxNumber)))
		}
	}
	return least
}

// undo gives tokens of a hold back. "A limit takes it as far as it still counts there
// [...]: a token bucket up to its burst, a window only if it is the one that was
// charged (a sliding window also as the previous one), and a limit that has become
// another one, nothing. Of several limits it is what the one took that took most."
func (b *bucket) undo(h *hold, tokens int64) (most int64) {
	for i, v := range b.levels {
		l, given := &b.set.limits[i], int64(0)
		j := slices.IndexFunc(h.set.limits, func(had limit) bool { return had.name == l.name })
		if j < 0 {
			continue
		}
		had := &h.set.limits[j]
		switch same := l.per == had.per && slices.Equal(l.zone, had.zone); {
		case l.algorithm != had.algorithm:
		case l.algorithm == api.TokenBucket:
			given = l.giveBack(v, b.at, tokens)
		case l.algorithm == api.FixedWindow && same && l.windowOf(h.made.wall) == v.start:
			given = l.giveBack(v, b.at, tokens)
		case l.algorithm == api.SlidingWindow && same:
			if ago := v.start - l.number(h.made.now); ago == 0 || ago == 1 {
				given = min(tokens, v.spent[1-ago])
				v.spent[1-ago] -= given
			}
		}
		most = max(most, given-l.clamp(v, b.leased()))
	}
	return most
}

// lapse ends a hold that is overdue, by its rule. "Then a reservation counts as
// committed as it was made, or as cancelled, whichever it chose, and a permit as
// released." A lease is gone, and not remembered.
func (b *bucket) lapse(name bucketName, id [16]byte) (e *ending, changed bool) {
	switch h := b.find(id); {
	case h.kind == leases:
		b.drop(id)
		return nil, false
	case h.kind == acquire:
		return b.settle(name, id, release, 0)
	case h.cancels:
		return b.settle(name, id, cancel, 0)
	default:
		return b.settle(name, id, commit, h.cost)
	}
}

// act tries an operation on a hold on each state that its bucket may have.
func (o *oracle) act(op *logOp) []way {
	switch slot := slotInID(op.hold); {
	case slot >= slotCount, op.cost > api.MaxCost, op.kind == renew && (op.ttl < 1 || op.ttl > api.MaxTTL):
		return []way{{outcomes: []outcome{fail(api.InvalidRequest)}}}
	case !o.owned[slot]:
		return []way{{outcomes: []outcome{fail(api.NotLeader)}}}
	}
	name, known := o.where[op.hold]
	if !known {
		return []way{{outcomes: []outcome{fail(api.NotFound)}}}
	}
	var ways []way
	calendar := o.goesByDay(name, nobody)
	for k, at := range o.instants(calendar) {
		for _, stored := range o.stored(name) {
			for _, w := range o.actOn(op, name, stored, at) {
				w.clock, w.calendar = o.clocks[k], calendar
				ways = append(ways, w)
			}
		}
	}
	return ways[:min(len(ways), maxPossible)]
}

// actOn is the ways in which an operation on a hold can go if its bucket is as
// stored.
func (o *oracle) actOn(op *logOp, name bucketName, stored *bucket, at instant) (ways []way) {
	h := stored.find(op.hold)
	if h == nil { // "what settled it may come again"
		for _, e := range o.ends.recall(op.hold, o.now) {
			ways = append(ways, way{outcomes: []outcome{repeat(op, e)}})
		}
		return ways
	}
	b := possible(stored, h.set, at)[0] // "A bucket with holds is not swept"
	b.adopt(h.set)
	var out outcome
	changed := false
	switch ofPermit := op.kind == renew || op.kind == release; {
	case !h.lives(at.now): // "one that is operated on is settled before"
		var e *ending
		e, changed = b.lapse(name, op.hold)
		out = repeat(op, e)
		if out.ended = e; e != nil {
			out.back = e.given
		}
	case (h.kind == acquire) != ofPermit:
		out = fail(api.NotFound)
	case op.kind == renew:
		b.holds = slices.Clone(b.holds)
		out = outcome{verdict: renewed, answer: &Answer{}, due: at.now + uint64(op.ttl)*1e6}
		b.find(op.hold).expires = out.due
	case h.kind == leases:
		out, changed = settleLease(op, b)
	default:
		var e *ending
		e, changed = b.settle(name, op.hold, op.kind, op.cost)
		out = outcome{verdict: settled, answer: e.tell(), ended: e, back: e.given}
	}
	after := b
	if !changed {
		after = stored.with(b.holds, at)
	}
	return []way{{outcomes: []outcome{out}, buckets: map[bucketName]*bucket{name: after}}}
}

// tell is the answer to what ended a hold so.
func (e *ending) tell() *Answer {
	return &Answer{Committed: e.committed, Given: e.given, Charged: e.charged}
}

// repeat is what becomes of an operation on a hold that has ended as e, or nobody
// knows how. "The same commit, or cancel, again has the same answer [...]; another end
// is already-settled. So has the end of the ttl". "Release [...]; again, or after the
// expiry, it answers the same".
func repeat(op *logOp, e *ending) outcome {
	switch {
	case e == nil || (e.of.kind == acquire) != (op.kind == renew || op.kind == release):
		return fail(api.NotFound)
	case e.by != op.kind || e.cost != op.cost:
		return fail(api.AlreadySettled)
	}
	return outcome{verdict: again, answer: e.tell()}
}

// elsewhere says whether the id of a hold that is asked for belongs to one of another
// bucket, and whether that is sure.
func (o *oracle) elsewhere(op *logOp) (may, sure bool) {
	name, known := o.where[op.hold]
	if !known || name == (bucketName{op.set.policy, op.key}) {
		return false, false
	}
	sure = true
	for _, b := range o.stored(name) {
		h := b.find(op.hold)
		has := h != nil && (h.kind != leases || op.kind != leases || h.lives(o.now))
		may, sure = may || has, sure && has
	}
	return may, sure
}

// dueHold is when a hold of a bucket may expire.
type dueHold struct {
	expires uint64
	name    bucketName
}

type dueHolds []dueHold

func (d dueHolds) Len() int           { return len(d) }
func (d dueHolds) Less(i, j int) bool { return d[i].expires < d[j].expires }
func (d dueHolds) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push implements [heap.Interface].
func (d *dueHolds) Push(x any) { *d = append(*d, x.(dueHold)) }

// Pop implements [heap.Interface].
func (d *dueHolds) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

// overdueHold is a hold that some state of its bucket has, and is overdue there.
type overdueHold struct {
	dueHold
	id   [16]byte
	sure bool // all states have it
}

// overdue returns the holds that are, the oldest first, and forgets when they were due.
func (o *oracle) overdue() (all []overdueHold) {
	met := map[bucketName]bool{}
	for len(o.due) > 0 && o.due[0].expires <= o.now {
		name := heap.Pop(&o.due).(dueHold).name
		if met[name] {
			continue
		}
		met[name] = true
		states := o.stored(name)
		seen := map[overdueHold]int{}
		for _, b := range states {
			for k := 0; b != nil && k < len(b.holds); k++ {
				if h := &b.holds[k]; !h.lives(o.now) {
					seen[overdueHold{dueHold{h.expires, name}, h.id, false}]++
				}
			}
		}
		for h, n := range seen {
			h.sure = n == len(states)
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b overdueHold) int {
		return cmp.Or(cmp.Compare(a.expires, b.expires), bytes.Compare(a.id[:], b.id[:]))
	})
	return all
}

// expire settles holds that are overdue, the oldest first: at least so many and at
// most so many, which are the same where it is clear what the store does.
func (o *oracle) expire(least, most int) {
	before, maybe := 0, 0 // of those so far
	for _, h := range o.overdue() {
		surely := before+maybe < least
		if surely || before < most {
			o.lapse(h.name, h.id, surely)
		}
		if !surely {
			heap.Push(&o.due, h.dueHold)
		}
		if h.sure {
			before++
		} else {
			maybe++
		}
	}
}

// lapse ends one hold that is overdue in each state of its bucket that has it; if
// that is not sure, the states without that may be as well.
func (o *oracle) lapse(name bucketName, id [16]byte, sure bool) {
	var after []*bucket
	var ends []*ending
	var back int64
	add := func(b *bucket) {
		if !slices.ContainsFunc(after, b.equal) {
			after = append(after, b)
		}
	}
	for _, stored := range o.stored(name) {
		h := stored.find(id)
		if h == nil || !sure {
			add(stored)
			ends = append(ends, o.ends.recall(id, o.now)...)
		}
		if h == nil {
			continue
		}
		for _, at := range o.instants(o.goesByDay(name, h.set)) {
			b := possible(stored, h.set, at)[0]
			b.adopt(h.set)
			e, changed := b.lapse(name, id)
			if !changed {
				b = stored.with(b.holds, at)
			}
			add(b)
			if e != nil {
				ends, back = append(ends, e), max(back, e.given)
			}
		}
	}
	o.set(name, after[:min(len(after), maxPossible)])
	if slices.ContainsFunc(ends, func(e *ending) bool { return e != nil }) {
		o.ends.add(id, ends)
	}
	if back > 0 {
		o.back = append(o.back, returned{name, back})
	}
}

// set makes the states that a bucket may have the ones that it has.
func (o *oracle) set(name bucketName, states []*bucket) {
	if len(states) == 1 && states[0] == nil {
		delete(o.buckets, name)
		return
	}
	o.buckets[name] = states
}

// returned is tokens that a reservation gave back when it expired.
type returned struct {
	name   bucketName
	tokens int64
}

// lent says whether a lease may be out, and whether that is sure. Nothing depends on
// when one that is overdue is taken out, but that it is there until then.
func (o *oracle) lent() (may, sure bool) {
	for _, states := range o.buckets {
		all := true
		for _, b := range states {
			has := b != nil && slices.ContainsFunc(b.holds, func(h hold) bool { return h.kind == leases && !h.free })
			may, all = may || has, all && has
		}
		sure = sure || all
	}
	return may, sure
}

// endByClock settles what is overdue before the time of day is corrected: if there
// are leases, "those that end, end by the clock as it was".
func (o *oracle) endByClock() {
	switch may, sure := o.lent(); {
	case sure:
		o.expire(math.MaxInt, math.MaxInt)
	case may:
		o.expire(0, math.MaxInt)
	}
}

// equalHolds compares holds, in whatever order.
func equalHolds(a, b []hold) bool {
	order := func(x, y hold) int {
		return cmp.Or(cmp.Compare(x.expires, y.expires), bytes.Compare(x.id[:], y.id[:]))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}
