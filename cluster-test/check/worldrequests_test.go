package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// lent is a hold that somebody was told of.
type lent struct {
	kind        string
	policy, key string
	id          [16]byte
	granted     int64
}

// sent is a batch on its way to a shard's log.
type sent struct {
	shard  *worldShard
	batch  api.Batch
	sets   []*policy.Set
	ops    []int // in the history
	copies int   // times that it will be in the log; all but the last answer are lost
	twice  bool  // it was there before
	heard  bool  // the last answer arrives
}

// ask has an idle client ask for something.
func (w *world) ask() {
	client := w.rnd.IntN(len(w.busy))
	if w.busy[client] > w.now {
		return
	}
	view := w.views[len(w.views)-1]
	if w.chance(5) { // a router that is behind
		view = w.views[max(0, len(w.views)-1-w.rnd.IntN(3))]
	}
	tag := fmt.Sprint("{", w.rnd.IntN(w.tags), "}")
	if w.chance(3) {
		w.peekStale(client, tag)
		return
	}
	b := &sent{shard: w.groups[view.Route(api.Slot(tag))-1], copies: 1, heard: true}
	n, atomic := 1, w.chance(10)
	if atomic {
		n = 2 + w.rnd.IntN(3)
		w.batches++
		b.batch.Atomic = true
	}
	if at := slices.IndexFunc(w.leases, func(l lent) bool { return strings.HasPrefix(l.key, tag) }); at >= 0 && !atomic && w.chance(50) {
		w.end(b, client, w.leases[at])
		w.leases = slices.Delete(w.leases, at, at+1)
	} else if at := slices.IndexFunc(w.holds, func(l lent) bool { return strings.HasPrefix(l.key, tag) }); at >= 0 && !atomic && (w.chance(40) || w.holding && len(w.holds) > 3) {
		w.act(b, client, w.holds[at])
		if w.chance(60) { // else it is ended once more, or another end is tried
			w.holds = slices.Delete(w.holds, at, at+1)
		}
	} else {
		for range n {
			w.add(b, view, client, tag, atomic)
		}
	}
	if len(b.ops) == 0 {
		return
	}
	first := &w.h.Ops[b.ops[0]]
	safe := first.RequestID != "" || first.acts() && first.Policy != "" || first.Kind == reserve || first.Kind == acquire
	if !atomic && first.RequestID == "" && client < 6 && !slices.Contains([]string{peek, refund, reset}, first.Kind) { // through the Go client
		at := client*100 + int(b.shard.id)
		if w.session[at] == nil || w.chance(2) {
			w.session[at] = &api.Session{ID: [16]byte{byte(w.rnd.Uint32()), byte(at), byte(w.rnd.Uint32()), byte(w.rnd.Uint32())}}
		}
		w.session[at].Acked = w.session[at].Seq
		w.session[at].Seq++
		b.batch.Session = *w.session[at]
		safe = true
	}
	w.busy[client] = Forever
	switch n := w.rnd.IntN(100); {
	case n < 4:
		w.fails(b, NotApplied, api.NoLeader)
		return
	case n < 7:
		w.fails(b, Unknown, api.OutcomeUnknown)
		return
	case n < 12:
		b.heard = false
	case n < 25 && safe:
		b.copies = 2 + w.rnd.IntN(2)
	}
	w.pending = append(w.pending, b)
}

// add adds an operation to a batch.
func (w *world) add(b *sent, view *fsm.CatalogView, client int, tag string, atomic bool) {
	names := []string{"api", "two", "slow"}
	op := Op{Client: client, Call: w.now, Kind: take, Policy: names[w.rnd.IntN(3)], Key: fmt.Sprint(tag, w.rnd.IntN(3)), Cost: 1 + w.rnd.Int64N(4)}
	if atomic {
		op.Atomic = w.batches
	} else {
		switch n := w.rnd.IntN(100); {
		case n < 15:
			op.Kind, op.Cost = peek, 0
		case n < 25:
			op.Kind = refund
		case n < 28:
			op.Kind, op.Cost = reset, 0
		case w.strict:
		case n < 38 || w.holding && n < 55:
			op.Kind = reserve
			op.CancelOnExpiry = w.chance(50)
		case n < 45 || w.holding:
			op.Kind, op.Policy = acquire, []string{"jobs", "one"}[w.rnd.IntN(2)]
		case n < 58:
			op.Kind, op.Need = leases, 1+w.rnd.Int64N(op.Cost)
		case n < 63:
			op.Kind = syncs
			op.Cost--
		}
		if !w.strict && w.chance(5) {
			op.Policy = []string{"jobs", "one"}[w.rnd.IntN(2)]
		}
		if w.chance(2) && op.Kind != leases {
			op.Cost *= 5
		}
	}
	withID := w.chance(25)
	if atomic && b.batch.N > 0 { // all of them or none, or the batch could not be sent again
		withID = w.h.Ops[b.ops[0]].RequestID != ""
	}
	if withID && (op.Kind == take || op.Kind == refund || op.Kind == reserve || op.Kind == acquire) {
		w.ids++
		op.RequestID = fmt.Sprint("id", w.ids)
		if !atomic && w.chance(10) { // somebody else asks the same under the same id
			for i := len(w.h.Ops) - 1; i >= max(0, len(w.h.Ops)-40); i-- {
				if o := &w.h.Ops[i]; o.RequestID != "" && o.Atomic == 0 && view.Route(api.Slot(o.Key)) == b.shard.id {
					op.Kind, op.Policy, op.Key, op.Cost, op.RequestID, op.CancelOnExpiry = o.Kind, o.Policy, o.Key, o.Cost, o.RequestID, o.CancelOnExpiry
					break
				}
			}
		}
	}
	set, ok := view.Policy(op.Policy)
	if !ok {
		if atomic {
			return
		}
		set = policy.Unknown(op.Policy)
	}
	if set.Overrides != nil {
		if o := set.Overrides.Override(op.Key); o != nil {
			set = o
		}
	}
	at := slices.Index(b.sets, set)
	if at < 0 {
		at = len(b.sets)
		b.batch.Policies = append(b.batch.Policies, api.PolicyRef{Name: op.Policy})
		b.sets = append(b.sets, set)
	}
	var most int64 // how long it may wait
	if w.windows && op.Kind == take && w.chance(30) {
		most = w.rnd.Int64N(10_000)
		op.MaxWaitMS = most
	}
	o := api.Op{Kind: api.Kind(slices.Index(kinds[:], op.Kind)), Policy: at, Cost: op.Cost, Key: op.Key, RequestID: op.RequestID, MaxWait: most}
	if op.Kind == leases {
		w.last++
		o.Hold = &api.Hold{ID: api.NewHoldID(op.Key, [14]byte{byte(w.last), byte(w.last >> 8), byte(w.last >> 16)}), TTL: 1 + w.rnd.Int64N(3000), Need: op.Need}
		op.Hold = o.Hold.ID[:]
	}
	if op.Kind == reserve || op.Kind == acquire {
		w.last++
		if op.TTLMS = 1 + w.rnd.Int64N(3000); w.chance(10) {
			op.TTLMS = 30_000
		}
		id := api.NewHoldID(op.Key, [14]byte{byte(w.last), byte(w.last >> 8), byte(w.last >> 16), 1})
		if len(w.holds) > 0 && w.chance(5) { // an id that was used
			l := w.holds[w.rnd.IntN(len(w.holds))]
			if id = l.id; l.key != op.Key {
				id = api.NewHoldID(op.Key, [14]byte(id[2:]))
			}
		}
		o.Hold = &api.Hold{ID: id, TTL: op.TTLMS, CancelOnExpiry: op.CancelOnExpiry}
		if w.chance(50) { // who chose the id himself
			op.Hold = id[:]
		}
		if op.TTLMS == 30_000 {
			op.TTLMS = 0
		}
	}
	if op.Kind == syncs {
		o.Instance = uint64(client)
	}
	b.batch.Add(o)
	b.ops = append(b.ops, len(w.h.Ops))
	w.h.Ops = append(w.h.Ops, op)
}

// act adds an operation on a hold to a batch: one that is meant for its kind, mostly, of
// one that lives, mostly.
func (w *world) act(b *sent, client int, l lent) {
	op := Op{Client: client, Call: w.now, Kind: commit, Policy: l.policy, Key: l.key, Cost: w.rnd.Int64N(2*l.granted + 2), Hold: l.id[:]}
	switch w.rnd.IntN(3) {
	case 0:
		op.Kind, op.Cost = cancel, 0
	case 1:
		op.Cost = l.granted
		if w.chance(40) { // deeper into debt than there is credit, perhaps
			op.Cost *= 10
		}
	}
	if (l.kind == acquire) != w.chance(5) {
		op.Kind, op.Cost = release, 0
		if w.chance(50) {
			op.Kind, op.TTLMS = renew, 1+w.rnd.Int64N(3000)
		}
	}
	if w.chance(3) { // nobody has it
		id := api.NewHoldID(l.key, [14]byte{byte(w.rnd.Uint32()), 2})
		op.Hold, op.Policy, op.Key = id[:], "", ""
	}
	b.batch.Add(api.Op{Kind: api.Kind(slices.Index(kinds[:], op.Kind)), Cost: op.Cost, Hold: &api.Hold{ID: [16]byte(op.Hold), TTL: op.TTLMS}})
	b.ops = append(b.ops, len(w.h.Ops))
	w.h.Ops = append(w.h.Ops, op)
}

// end adds the end of a lease to a batch.
func (w *world) end(b *sent, client int, l lent) {
	op := Op{Client: client, Call: w.now, Kind: commit, Policy: l.policy, Key: l.key, Cost: w.rnd.Int64N(l.granted + 1), Hold: l.id[:]}
	switch w.rnd.IntN(5) {
	case 0:
		op.Kind, op.Cost = cancel, 0
	case 1:
		op.Cost = 2 * l.granted
	}
	b.batch.Add(api.Op{Kind: api.Kind(slices.Index(kinds[:], op.Kind)), Cost: op.Cost, Hold: &api.Hold{ID: l.id}})
	b.ops = append(b.ops, len(w.h.Ops))
	w.h.Ops = append(w.h.Ops, op)
}

// peekStale peeks without the log, if the machine can.
func (w *world) peekStale(client int, tag string) {
	view := w.views[len(w.views)-1]
	s := w.groups[view.Route(api.Slot(tag))-1]
	m, ok := s.machine.(rightMachine)
	set, known := view.Policy("two")
	if !ok || !known {
		return
	}
	w.h.Ops = append(w.h.Ops, Op{Client: client, Call: w.now, Kind: peek, Policy: "two", Key: tag + "0", Stale: true})
	b := &sent{ops: []int{len(w.h.Ops) - 1}}
	w.answer(b, m.PeekStale(api.Op{Kind: api.Peek, Key: tag + "0"}, set))
}

// fails answers a batch without an answer.
func (w *world) fails(b *sent, o Outcome, code api.Code) {
	back := w.now + w.rnd.Int64N(5e6)
	for _, at := range b.ops {
		op := &w.h.Ops[at]
		op.Outcome, op.Code, op.Return = o, code, back
		if o == Unknown {
			op.Return = Forever
		}
		w.busy[op.Client] = back + 1
	}
}
