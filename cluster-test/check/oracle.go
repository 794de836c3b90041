package check

import (
	"container/heap"
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/rlstore/rlstore/api"
)

// oracle is the state of one shard, kept in the simplest way that is right. It
// forgets nothing that it need not, and knows a bucket as the list of what it
// may be: nearly always one.
type oracle struct {
	shard    uint32
	now      uint64      // cluster time: the highest stamp so far
	clocks   []timeOfDay // what its time of day may be: nearly always one
	calendar bool        // limits that go by it were met
	version  uint64      // of the slot map
	owned    [slotCount]bool
	buckets  map[bucketName][]*bucket // never empty; a nil bucket is none
	where    map[[16]byte]bucketName  // of the hold that was made last under an id
	due      dueHolds                 // a heap: when holds may expire
	back     []returned               // what expired since somebody looked
	ends     endMemory
	ids      idMemory
	sessions sessionMemory
}

func newOracle(shard uint32) *oracle {
	return &oracle{
		shard: shard, buckets: map[bucketName][]*bucket{}, clocks: make([]timeOfDay, 1), where: map[[16]byte]bucketName{},
		ends: endMemory{byID: map[[16]byte]rememberedEnd{}},
		ids:  newIDMemory(), sessions: newSessionMemory(),
	}
}

// pass lets time pass up to a stamp.
func (o *oracle) pass(stamp uint64) {
	o.now = max(o.now, stamp)
	for i := range o.clocks {
		c := &o.clocks[i]
		c.peak = c.instant(o.now).wall
	}
}

// correct takes in what a leader measured of the time of day. Whether the shard
// holds windows of the calendar, so that the offset is slewed, depends on what the
// store has forgotten: unless a bucket tells, both may be.
func (o *oracle) correct(measured int64) {
	o.endByClock()
	var after []timeOfDay
	add := func(c timeOfDay) {
		if c.peak = c.instant(o.now).wall; !slices.Contains(after, c) {
			after = append(after, c)
		}
	}
	holds := o.holdsCalendar()
	for _, c := range o.clocks {
		if o.calendar {
			add(c.correct(measured, o.now, true))
		}
		if !holds {
			add(c.correct(measured, o.now, false))
		}
	}
	o.clocks = after[:min(len(after), maxPossible)]
}

// holdsCalendar says whether there surely is a bucket with windows of the
// calendar.
func (o *oracle) holdsCalendar() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(o.buckets)), func(stored []*bucket) bool {
		return !slices.ContainsFunc(stored, func(b *bucket) bool {
			if b == nil || b.set == nil || !b.set.calendar() {
				return true
			}
			return slices.ContainsFunc(o.clocks, func(c timeOfDay) bool {
				gone := b.clone()
				gone.advance(c.instant(o.now))
				return gone.full()
			})
		})
	})
}

// instants is when an operation may be decided.
func (o *oracle) instants(calendar bool) []instant {
	if !calendar {
		return []instant{o.clocks[0].instant(o.now)}
	}
	var all []instant
	for _, c := range o.clocks {
		all = append(all, c.instant(o.now))
	}
	return all
}

// goesByDay says whether the time of day matters to an operation.
func (o *oracle) goesByDay(name bucketName, s *numbers) bool {
	return s.calendar() || slices.ContainsFunc(o.buckets[name], func(b *bucket) bool { return b != nil && b.set != nil && b.set.calendar() })
}

// maxPossible bounds the ways in which one operation or group is tried.
const maxPossible = 64

// verdict is what became of an operation.
type verdict uint8

const (
	failed   verdict = iota // nothing changed
	denied                  // nothing changed
	allowed                 // a take, and what makes a hold
	told                    // a peek
	refunded                // a refund
	forgot                  // a reset
	synced                  // a sync
	settled                 // a hold
	renewed                 // a permit
	repeated                // the request id is known: nothing changed
	replayed                // the session's number is known: nothing changed
	again                   // the hold is known, or its end: nothing changed
)

func (v verdict) String() string {
	return [...]string{"refused", "denied", "allowed", "told", "refunded", "reset", "synced", "settled", "renewed", "repeated", "replayed", "known"}[v]
}

// decided says whether the operation was decided here and now, and so is asked
// by somebody.
func (v verdict) decided() bool { return v != failed && v < repeated }

// outcome is one possible result of an operation.
type outcome struct {
	verdict verdict
	code    api.Code // of a failure
	answer  *Answer  // of what was decided, but for a reset and without the commit
	first   *place   // of a repetition

	due   uint64  // when the hold that it makes or renews expires
	ended *ending // what is remembered of the hold that it ends
	lease *hold   // that it ends
	back  int64   // what that gives back
}

func fail(code api.Code) outcome { return outcome{verdict: failed, code: code} }

// own applies an entry of ownership. "One of an older version than the machine
// has is late, and changes nothing."
func (o *oracle) own(r ownRanges) {
	if r.version < o.version {
		return
	}
	o.version, o.owned = r.version, [slotCount]bool{}
	for _, r := range r.ranges {
		for s := int(r.from); r.shard == o.shard && s <= int(r.to); s++ {
			o.owned[s] = true
		}
	}
}

// slotOf is the slot of a key: "slot = xxhash64(tag) mod 4096, where tag is the
// text inside the first {…} of the key if there is one and it is not empty,
// else the whole key".
func slotOf(key string) int {
	tag := key
	if _, after, ok := strings.Cut(key, "{"); ok {
		if inside, _, ok := strings.Cut(after, "}"); ok && inside != "" {
			tag = inside
		}
	}
	return int(xxhash.Sum64String(tag) % slotCount)
}

// slotInID is the slot in the id of a hold: "The first two bytes are the slot of
// the hold's key, big-endian".
func slotInID(id [16]byte) int { return int(id[0])<<8 | int(id[1]) }

// refuse says why an operation fails whatever its bucket holds.
func (o *oracle) refuse(op *logOp) api.Code {
	charges := op.kind == take || op.kind == refund || op.makes() || op.kind == syncs
	switch {
	case len(op.key) < 1 || len(op.key) > api.MaxKey,
		charges && (op.cost < 1 && op.kind != syncs || op.cost > api.MaxCost),
		op.makes() && (op.ttl < 1 || op.ttl > api.MaxTTL || slotInID(op.hold) != slotOf(op.key)),
		op.kind == leases && (op.need < 1 || op.need > op.cost || op.requestID != ""),
		len(op.requestID) > api.MaxRequestID,
		op.requestID != "" && !charges:
		return api.InvalidRequest
	case !o.owned[slotOf(op.key)]: // "An operation on a slot that the shard does not own is refused"
		return api.NotLeader
	}
	return ""
}

// way is one way in which an operation, or an atomic group, can have gone.
type way struct {
	outcomes []outcome              // of the operations
	buckets  map[bucketName]*bucket // as they are afterwards, if they changed
	clock    timeOfDay              // that it goes by; if calendar
	calendar bool
}

// apply tries an operation on its own. The ways differ in nothing but what its
// bucket was.
func (o *oracle) apply(op *logOp) []way {
	one := func(out outcome) []way { return []way{{outcomes: []outcome{out}}} }
	if op.acts() {
		return o.act(op)
	}
	if code := o.refuse(op); code != "" {
		return one(fail(code))
	}
	// "The same id again returns the first decision [...]. The same id with
	// another policy, key or cost is 422 request-id-reused."
	if first, code := o.ids.recall(op, o.now); code != "" {
		return one(fail(code))
	} else if first != nil {
		return one(outcome{verdict: repeated, first: first})
	}
	if op.set.refusal != "" {
		return one(fail(op.set.refusal))
	}
	var ways []way
	if op.makes() {
		switch may, sure := o.elsewhere(op); {
		case sure:
			return one(fail(api.RequestIDReused))
		case may:
			ways = one(fail(api.RequestIDReused))
		}
	}
	return o.ways(ways, op, bucketName{op.set.policy, op.key})
}

// ways adds the ways in which an operation can go on each state that its bucket may
// have.
func (o *oracle) ways(ways []way, op *logOp, name bucketName) []way {
	ends := []*ending{nil}
	if op.makes() {
		ends = o.ends.recall(op.hold, o.now)
	}
	calendar := o.goesByDay(name, op.set)
	for k, at := range o.instants(calendar) {
		for _, stored := range o.stored(name) {
			for _, e := range ends {
				for _, b := range possible(stored, op.set, at) {
					b.adopt(op.set)
					out, changed := decide(op, b, e)
					after := stored
					switch {
					case op.kind == reset: // "It takes the bucket's reservations and permits along"
						after = nil
					case changed:
						after = b
					case op.makes():
						after = stored.with(b.holds, at)
					}
					ways = append(ways, way{
						outcomes: []outcome{out}, buckets: map[bucketName]*bucket{name: after},
						clock: o.clocks[k], calendar: calendar,
					})
				}
			}
		}
	}
	return ways[:min(len(ways), maxPossible)]
}

// stored is what a bucket may be.
func (o *oracle) stored(name bucketName) []*bucket {
	if l := o.buckets[name]; l != nil {
		return l
	}
	return []*bucket{nil}
}

// settle makes the ways that remain the state; ops are the operations.
func (o *oracle) settle(ops []*place, ways []way) {
	for i, p := range ops {
		o.remember(p, i, ways)
	}
	if len(o.clocks) > 1 && ways[0].calendar { // then all are
		o.clocks = slices.DeleteFunc(o.clocks, func(c timeOfDay) bool {
			return !slices.ContainsFunc(ways, func(w way) bool { return w.clock == c })
		})
	}
	if len(ways) == 1 {
		for name, b := range ways[0].buckets {
			if b == nil {
				delete(o.buckets, name)
			} else {
				o.buckets[name] = []*bucket{b}
			}
		}
		return
	}
	after := map[bucketName][]*bucket{}
	for _, w := range ways {
		for name := range w.buckets {
			after[name] = nil
		}
	}
	for name := range after {
		for _, w := range ways {
			b, changed := w.buckets[name]
			possible := []*bucket{b}
			if !changed {
				possible = o.stored(name)
			}
			for _, b := range possible {
				if !slices.ContainsFunc(after[name], b.equal) {
					after[name] = append(after[name], b)
				}
			}
		}
	}
	maps.Copy(o.buckets, after)
}

// remember keeps what operation i of the ways does to a hold.
func (o *oracle) remember(p *place, i int, ways []way) {
	var ends []*ending
	for _, w := range ways {
		out := &w.outcomes[i]
		if op := p.op; out.due > 0 {
			if op.makes() {
				o.where[op.hold] = bucketName{op.set.policy, op.key}
			}
			heap.Push(&o.due, dueHold{out.due, o.where[op.hold]})
		}
		if out.ended != nil {
			ends = append(ends, out.ended)
		}
	}
	switch {
	case len(ends) == 0:
		return
	case len(ends) < len(ways):
		ends = append(ends, o.ends.recall(p.op.hold, o.now)...)
	}
	o.ends.add(p.op.hold, ends)
}

// decide applies one operation to the bucket as it is now, and says whether its levels
// changed. e is how the hold that it asks for has ended, if it has.
func decide(op *logOp, b *bucket, e *ending) (out outcome, changed bool) {
	switch op.kind {
	case take:
		if b.set.off { // "a take passes, and nothing is charged"
			a := b.describe(b.scarcest(), 0)
			a.Allowed = true
			return outcome{verdict: allowed, answer: a}, false
		}
		if b.set.permits { // since an edit: "used through permits only"
			return fail(api.PermitRequired), false
		}
		// "cost-exceeds-burst: could never pass"
		if op.cost > b.set.smallest && b.set.shadow {
			a := b.describe(b.scarcest(), 0)
			a.Allowed, a.Shadowed = true, true
			return outcome{verdict: allowed, answer: a}, false
		}
		if op.cost > b.set.smallest {
			return fail(api.CostExceedsBurst), false
		}
		// "A take is charged to all of them or to none. A denial spends nothing
		// and changes nothing."
		wait, ok := b.borrow(op.cost, op.maxWait)
		if !ok {
			out := outcome{verdict: denied, answer: b.deny(op.cost, op.maxWait)}
			if b.set.shadow { // "a denial becomes allowed, shadowed"
				out.verdict, out.answer.Allowed, out.answer.Shadowed = allowed, true, true
			}
			return out, false
		}
		a := b.describe(b.scarcest(), 0)
		a.Allowed, a.WaitMS = true, millis(wait)
		return outcome{verdict: allowed, answer: a}, true
	case reserve, acquire:
		return decideHold(op, b, e)
	case leases:
		return decideLease(op, b, e)
	case syncs:
		return decideSync(op, b)
	case peek: // "the bucket's state"; when a take of 1 would pass
		return outcome{verdict: told, answer: b.describe(b.scarcest(), 1)}, false
	case refund: // "give tokens back (never above the burst)"
		var given []int64
		for i, v := range b.levels {
			l := &b.set.limits[i]
			given = append(given, l.giveBack(v, b.at, op.cost)-l.clamp(v, b.leased()))
			changed = changed || given[i] > 0
		}
		binding := b.scarcest()
		a := b.describe(binding, 1)
		a.Refunded = given[binding] // "tokens given back to the limit that binds"
		return outcome{verdict: refunded, answer: a}, changed
	default: // "forget the bucket"
		return outcome{verdict: forgot}, true
	}
}
