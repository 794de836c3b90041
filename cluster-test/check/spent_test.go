package check

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	spending "github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// spenders is a world of processes that take from memory, as nodes do for their
// callers: with the store's own tables, and answers that are lost now and then.
type spenders struct {
	*world
	sets  map[string]*policy.Set
	procs []*spender
}

type spender struct {
	w     *spenders
	table *spending.Table
	asks  []*spending.Ask
	wake  int64
	cut   bool // from the store
}

var errCutOff = errors.New("cut off")

func newSpenders(t testing.TB, seed uint64) *spenders {
	w := &spenders{world: newWorld(t, seed, hot()), sets: map[string]*policy.Set{}}
	limits := func(rate, burst int64) []api.Limit {
		return []api.Limit{{Name: "l", Algorithm: "token_bucket", Rate: rate, Per: api.Duration(time.Second), Burst: burst}}
	}
	for _, doc := range []api.Policy{
		{Name: "leased", Mode: "leased", LeaseTTL: api.Duration(300 * time.Millisecond), Limits: limits(40, 60)},
		{Name: "soft", Mode: "soft", SyncInterval: api.Duration(50 * time.Millisecond), Limits: limits(5, 20)},
		{Name: "local", Mode: "strict", OnUnavailable: "local", Limits: limits(10, 10)},
		{Name: "open", Mode: "strict", OnUnavailable: "open", Limits: limits(10, 10)},
	} {
		doc.Enforcement = "enforce"
		if doc.OnUnavailable == "" {
			doc.OnUnavailable = "closed"
		}
		w.command(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: doc}})
		set, ok := w.catalog.View().Policy(doc.Name)
		if !ok {
			t.Fatalf("there is no policy %s", doc.Name)
		}
		w.sets[doc.Name] = set
	}
	for i := range 3 {
		p := &spender{w: w, wake: Forever}
		p.table = spending.NewTable(spending.Config{
			Send: func(a *spending.Ask) { p.asks = append(p.asks, a) }, Wake: func(at int64) { p.wake = at },
			Random: w.rnd.Uint64, Instance: uint64(i + 1),
		})
		w.procs = append(w.procs, p)
	}
	return w
}

// run makes a history of so many takes, and ends it with a peek of each shard.
func (w *spenders) run(takes int) *spenders {
	for range takes {
		w.pass(8)
		for _, p := range w.procs {
			if w.chance(1) {
				p.cut = !p.cut
			}
			if w.now >= p.wake {
				p.wake = Forever
				p.table.Tick(w.now)
			}
			p.carry()
		}
		p := w.procs[w.rnd.IntN(len(w.procs))]
		p.take([]string{"leased", "leased", "soft", "soft", "local", "open"}[w.rnd.IntN(6)], fmt.Sprint("k", w.rnd.IntN(2)), 1+w.rnd.Int64N(3))
		w.pass(2)
	}
	w.now += 2e9
	for _, p := range w.procs {
		p.cut = false
		p.table.Close(w.now)
		p.carry()
	}
	for i := range 8 { // so that somebody hears of the end of each shard
		w.procs[0].cut = false
		w.procs[0].ask(Op{Client: 1, Call: w.now, Kind: take, Policy: "slow", Key: fmt.Sprint("end", i), Cost: 1}, true)
		w.pass(2)
	}
	return w
}

// input says what is true of the processes: as long as one is cut off, it hears nothing.
func (w *spenders) input() Input {
	in := w.world.input()
	in.Instances, in.Silence = len(w.procs), time.Duration(w.now)
	return in
}

// carry takes the asks to the store; of some the answer does not come back.
func (p *spender) carry() {
	for len(p.asks) > 0 {
		a := p.asks[0]
		p.asks = p.asks[1:]
		if p.cut && p.w.chance(70) {
			a.End(p.w.now, errCutOff)
			continue
		}
		e, b := a.Entry(), &api.Batch{}
		ref := b.Ref(e.Policy())
		for _, op := range a.Ops {
			op.Policy = ref
			b.Add(op)
		}
		shard := p.w.groups[p.w.catalog.View().Route(api.Slot(e.Key()))-1]
		var entry fsm.EntryWriter
		entry.Add(b, []*policy.Set{p.w.sets[e.Policy()]})
		encoded := p.w.append(shard, entry.Seal(p.w.stamp(shard)))[0]
		if p.cut {
			a.End(p.w.now, errCutOff)
			continue
		}
		reply, err := api.DecodeReply(encoded)
		if err != nil {
			p.w.t.Fatal(err)
		}
		for i := range a.Ops {
			var res api.Result
			if ok, err := reply.Next(&res); !ok || err != nil {
				p.w.t.Fatal(err)
			}
			var set *api.SetInfo
			if !res.Status.Bare() {
				set = &reply.Sets[res.Set]
			}
			a.Result(i, set, &res)
		}
		a.End(p.w.now, nil)
	}
}

// take decides one from memory, by the log, or by the rule of its policy.
func (p *spender) take(name, key string, cost int64) {
	w, set := p.w, p.w.sets[name]
	op := Op{Client: len(w.h.Ops), Call: w.now, Kind: take, Policy: name, Key: key, Cost: cost, Return: Forever, Outcome: Unknown}
	fresh := p.table.Get(name, key) == nil
	e := p.table.Put(w.now, name, key, &set.SetInfo, nil)
	for range 3 {
		if e == nil || fresh && set.Mode == api.Leased {
			break
		}
		out := e.Take(w.now, cost)
		if out.Verdict != spending.Wait {
			if p.decided(op, &out, map[uint8]string{api.Leased: fromLease, api.Soft: fromSoft}[set.Mode]) {
				return
			}
			break
		}
		p.carry()
	}
	switch {
	case !p.cut:
		p.ask(op, true)
	case name == "open":
		w.pass(1)
		op.Outcome, op.Return = Done, w.now
		op.Answer = &Answer{Allowed: true, Source: fromOpen, Revision: set.Revision, Commit: &api.Commit{}}
		p.rule(op)
	case name == "local":
		out := e.TakeLocal(w.now, cost)
		p.decided(op, &out, fromLocal)
	}
}

// ask has an operation decided by the log, whose answer arrives if heard.
func (p *spender) ask(op Op, heard bool) {
	w := p.w
	shard := w.groups[w.catalog.View().Route(api.Slot(op.Key))-1]
	set, _ := w.catalog.View().Policy(op.Policy)
	b := &sent{shard: shard, heard: heard, copies: 1, sets: []*policy.Set{set}, ops: []int{len(w.h.Ops)}}
	b.batch.Add(api.Op{Kind: api.Take, Policy: b.batch.Ref(op.Policy), Cost: op.Cost, Key: op.Key})
	if op.Client >= len(w.busy) {
		op.Client = 0
	}
	w.h.Ops = append(w.h.Ops, op)
	w.pending = append(w.pending, b)
	w.seal(shard, 100)
	w.busy[op.Client] = 0
}

// rule notes a take that its rule let pass, and that the log may hold all the same.
func (p *spender) rule(op Op) {
	at := len(p.w.h.Ops)
	if p.w.chance(50) {
		p.ask(op, false)
	} else {
		p.w.h.Ops = append(p.w.h.Ops, op)
	}
	p.w.h.Ops[at] = op
}

func (p *spender) decided(op Op, out *spending.Outcome, source string) bool {
	if out.Verdict != spending.Allowed && out.Verdict != spending.Denied {
		return false
	}
	commit := out.Told.Commit
	op.Outcome, op.Return = Done, p.w.now+1
	op.Answer = &Answer{Allowed: out.Verdict == spending.Allowed, Source: source, Revision: out.Told.Set.Revision, Commit: &commit}
	p.w.h.Ops = append(p.w.h.Ops, op)
	return true
}

// TestWhatIsSpentFromMemoryIsTrue: of processes that spend, with all that befalls
// them, nothing is said that is not so; and much was there to be looked at.
func TestWhatIsSpentFromMemoryIsTrue(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	for seed := first; seed < first+12; seed++ {
		w := newSpenders(t, seed).run(1500)
		r := Check(w.input())
		if err := r.Err(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for _, source := range []string{fromLease, fromSoft, fromOpen, fromLocal} {
			if r.Elsewhere[source] == 0 {
				t.Errorf("seed %d: no take is from %s: %s", seed, source, r)
			}
		}
		if r.Leases < 5 {
			t.Errorf("seed %d: %d leases were spent from", seed, r.Leases)
		}
	}
}

// TestLiesAboutMemoryAreFound tells one lie in each of some true histories.
func TestLiesAboutMemoryAreFound(t *testing.T) {
	var truths []*spenders
	for seed := range uint64(6) {
		truths = append(truths, newSpenders(t, 300+seed).run(1200))
	}
	from := func(source string) func(*Op) bool {
		return func(op *Op) bool { return op.elsewhere() && op.Answer.Allowed && op.Answer.Source == source }
	}
	again := func(l *liar, op *Op, n int64) { // so many more like it
		for range n {
			l.History.Ops = append(l.History.Ops, *op)
		}
	}
	for _, lie := range []struct {
		name string
		want Kind
		tell func(*liar)
	}{
		{"more spent than a lease has", OverSpent, func(l *liar) {
			op := l.op(from(fromLease))
			again(l, op, 61/op.Cost+1)
		}},
		{"spent what was given back", OverSpent, func(l *liar) {
			lent := map[commitKey]int64{}
			r := &checker{in: *l.Input, h: l.History, report: &Report{Elsewhere: map[string]int{}}, sets: map[string]*numbers{}, catalog: newCatalog(), placed: make([]*place, len(l.History.Ops))}
			for _, log := range merge(l.Replicas, r.report) {
				if log.group != 0 {
					rp := replay{c: r, o: newOracle(log.group)}
					rp.run(&log)
					for key, one := range r.lendings([][]*place{rp.places}).byPlace {
						if one.back > 0 {
							lent[key] = one.granted
						}
					}
				}
			}
			key := func(op *Op) commitKey { m := op.Answer.Commit; return commitKey{m.Shard, m.Index, m.Offset} }
			op := l.op(func(op *Op) bool { return from(fromLease)(op) && lent[key(op)] > 0 })
			granted := lent[key(op)]
			one := *op
			one.Cost = 1
			for i := range l.History.Ops {
				if o := &l.History.Ops[i]; from(fromLease)(o) && key(o) == key(&one) {
					granted -= o.Cost
				}
			}
			again(l, &one, granted) // now it is all spent, and no more than was granted
		}},
		{"spent when the lease was over", OverSpent, func(l *liar) {
			op := l.op(from(fromLease))
			op.Call, op.Return = op.Call+3600e9, op.Return+3600e9
		}},
		{"spent from a lease that is in no log", LostCharge, func(l *liar) {
			l.op(from(fromLease)).Answer.Commit.Index = 1 << 40
		}},
		{"spent from the lease of another key", OtherPlace, func(l *liar) {
			l.op(from(fromLease)).Key = "another"
		}},
		{"leased takes at one instant", OverAdmitted, func(l *liar) {
			first := int64(Forever)
			for i := range l.History.Ops {
				if op := &l.History.Ops[i]; from(fromLease)(op) {
					first = min(first, op.Call)
					op.Call, op.Return = first, first+1
				}
			}
		}},
		{"soft takes beyond the bound", OverAdmitted, func(l *liar) {
			again(l, l.op(from(fromSoft)), 10_000)
		}},
		{"a closed policy that lets pass without the store", WrongSource, func(l *liar) {
			op := l.op(from(fromLease))
			op.Answer.Source = fromOpen
		}},
		{"a strict policy that spends from memory", WrongSource, func(l *liar) {
			l.op(from(fromOpen)).Answer.Source = fromLease
		}},
		{"a rule of another policy", WrongSource, func(l *liar) {
			l.op(from(fromOpen)).Answer.Source = fromLocal
		}},
		{"a take that its rule let pass and the log holds, by nobody", Unasked, func(l *liar) {
			for i := range l.History.Ops { // which of them are in the log too, the history does not tell
				if op := &l.History.Ops[i]; from(fromOpen)(op) {
					op.Key = "another"
				}
			}
		}},
	} {
		t.Run(lie.name, func(t *testing.T) {
			for i, w := range truths {
				l := &liar{Input: copyInput(w.input()), rnd: rand.New(rand.NewPCG(uint64(i), 2))}
				lie.tell(l)
				if r := Check(*l.Input); r.ByKind[lie.want] == 0 {
					t.Errorf("seed %d: not found as %s: %v", 300+i, lie.want, r.Err())
				}
			}
		})
	}
}

// TestALeaseIsSomebodysUnderAStrictPolicy: only policies for it are leased without
// anybody who asked.
func TestALeaseIsSomebodysUnderAStrictPolicy(t *testing.T) {
	in := newWorld(t, 7, right(2)).run(700).input()
	at := slices.IndexFunc(in.History.Ops, func(op Op) bool { return op.Kind == leases && op.Outcome == Done && op.Answer.Allowed })
	if at < 0 {
		t.Fatal("nobody leased")
	}
	in.History.Ops = slices.Delete(in.History.Ops, at, at+1)
	if r := Check(in); r.ByKind[Unasked] == 0 {
		t.Errorf("a lease that nobody asked for is not found: %v", r.Err())
	}
}
