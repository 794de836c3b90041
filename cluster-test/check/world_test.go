package check

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// world makes histories and logs under random load, in virtual time: the
// store's own state machines with callers, routers, lost answers, retries and
// changes of leader around them, in one goroutine. What it makes is true, unless
// a test breaks a machine.
type world struct {
	t   testing.TB
	rnd *rand.Rand

	setup
	now     int64 // ns on the recorder's clock
	skew    int64 // of the leaders' wall clocks
	h       History
	groups  []*worldShard
	catalog *fsm.Catalog
	log0    []Entry              // the catalog's
	views   []*fsm.CatalogView   // newest last
	busy    []int64              // of each client: until when it waits for an answer
	session map[int]*api.Session // of some clients and shards
	ids     int
	batches int64
	pending []*sent
	leases  []lent // given, and not ended yet
	holds   []lent // reservations and permits that somebody was told of, some of them over
	last    int    // number of the last one that was asked for
}

// lent is a hold that somebody was told of.
type lent struct {
	kind        string
	policy, key string
	id          [16]byte
	granted     int64
}

// setup is what kind of world it is.
type setup struct {
	shards    int
	tags      int   // each with a few keys; few tags make hot keys
	steady    bool  // policies are not edited
	windows   bool  // policies have limits of all algorithms, and takes wait
	strict    bool  // there are neither holds nor syncs
	holding   bool  // most of it is about reservations and permits
	fast      int64 // by how many percent cluster time runs fast; 0 is right
	machineOf func(shard uint32) machine
}

// right is a world of many keys and edits without a fault.
func right(shards int) setup {
	return setup{shards: shards, tags: 6, machineOf: func(shard uint32) machine { return rightMachine{fsm.NewBuckets(shard)} }}
}

// calendar is a world of windows, whose clocks jump.
func calendar() setup {
	s := right(2)
	s.tags, s.windows = 2, true
	return s
}

// holding is a world of reservations and permits of few keys, without edits.
func holding() setup {
	s := right(2)
	s.tags, s.steady, s.holding = 1, true, true
	return s
}

// hot is the same with few keys and no edits.
func hot() setup {
	s := right(2)
	s.tags, s.steady, s.strict = 1, true, true
	return s
}

// worldShard is one group with its one machine: that replicas agree is a matter
// of the replicas alone.
type worldShard struct {
	id      uint32
	machine machine
	index   uint64
	term    uint64
	lag     int64 // cluster time is behind the recorder's clock by this, ns
	entries []Entry
}

// machine is a shard's state machine, right or broken.
type machine interface {
	Apply(index uint64, entry []byte) ([][]byte, error)
}

// rightMachine is the store's own.
type rightMachine struct{ *fsm.Buckets }

func (m rightMachine) Apply(index uint64, entry []byte) ([][]byte, error) {
	a, err := m.Buckets.Apply(index, entry)
	if err != nil {
		return nil, err
	}
	return a.Replies, nil
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

func newWorld(t testing.TB, seed uint64, s setup) *world {
	w := &world{t: t, setup: s, rnd: rand.New(rand.NewPCG(seed, 1)), now: int64(time.Second), catalog: fsm.NewCatalog(), busy: make([]int64, 12), session: map[int]*api.Session{}}
	w.views = append(w.views, w.catalog.View())
	m := api.EvenSlotMap(uint32(s.shards))
	w.command(fsm.CatalogCommand{Init: &fsm.CatalogInit{ClusterID: "c", SlotMap: m}})
	for id := uint32(1); id <= uint32(w.setup.shards); id++ {
		s := &worldShard{id: id, machine: s.machineOf(id), term: 1, index: 1}
		w.groups = append(w.groups, s)
		w.append(s, fsm.EncodeOwn(w.stamp(s), m.Version, m.Ranges))
	}
	if w.windows {
		for _, s := range w.groups {
			w.append(s, fsm.EncodeClock(w.stamp(s), w.wall()))
		}
		w.edit("api", w.window("fixed_window", "burst"))
		w.edit("two", w.window("sliding_window", "a"), w.window("token_bucket", "b"))
		w.edit("slow", w.window("fixed_window", "daily"), w.window("sliding_window", "b"))
		w.jobs()
		return w
	}
	w.edit("api", api.Limit{Name: "burst", Rate: 10, Per: api.Duration(time.Second), Burst: 10})
	w.edit("two", api.Limit{Name: "a", Rate: 3, Per: api.Duration(time.Second), Burst: 5}, api.Limit{Name: "b", Rate: 7, Per: api.Duration(7 * time.Second / 2), Burst: 6})
	w.edit("slow", api.Limit{Name: "daily", Rate: 100, Per: api.Duration(24 * time.Hour), Burst: 30})
	w.jobs()
	return w
}

// jobs stores the policies of permits.
func (w *world) jobs() {
	if w.strict {
		return
	}
	w.edit("jobs", w.slots(), w.window("token_bucket", "b"))
	w.edit("one", w.slots())
}

func (w *world) slots() api.Limit {
	return api.Limit{Name: "slots", Algorithm: "concurrency", Max: 1 + w.rnd.Int64N(3)}
}

func (w *world) stamp(s *worldShard) uint64 {
	return uint64((w.now - s.lag) * (100 + w.fast) / 100)
}

// command applies one to the catalog.
func (w *world) command(cmd fsm.CatalogCommand) *fsm.CatalogResult {
	e, err := fsm.EncodeCatalog(uint64(w.now), cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	index := uint64(len(w.log0)*2 + 2)
	res, err := w.catalog.Apply(index, e)
	if err != nil {
		w.t.Fatal(err)
	}
	w.log0 = append(w.log0, Entry{Group: 0, Index: index, Term: 1, Data: e})
	w.views = append(w.views, w.catalog.View())
	return res
}

// edit stores a policy, and now and then nobody hears of it.
func (w *world) edit(name string, limits ...api.Limit) {
	for i := range limits {
		limits[i].Algorithm = cmp.Or(limits[i].Algorithm, "token_bucket")
	}
	doc := api.Policy{Name: name, Limits: limits, Mode: "strict", OnUnavailable: "closed", Enforcement: "enforce"}
	if w.windows && !w.steady && w.chance(20) {
		doc.Enforcement = "shadow"
	}
	if w.windows && !w.steady && w.chance(5) {
		doc.Enforcement = "off"
	}
	if w.windows && w.chance(70) {
		doc.ZoneRules = zoneRules
	}
	e := Edit{Name: name, Call: w.now, Outcome: Done}
	w.pass(2)
	res := w.command(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: doc}})
	w.pass(2)
	e.Return, e.Policy = w.now, res.Policy
	if w.chance(10) {
		e.Return, e.Policy, e.Outcome = Forever, nil, Unknown
	}
	w.h.Edits = append(w.h.Edits, e)
}

// midnight is when the world begins, and zoneRules a zone that shifts soon after:
// back to the very beginning of a window, forth, and by a part of an hour.
var (
	midnight  = time.Date(2026, time.October, 25, 0, 59, 50, 0, time.UTC)
	zoneRules = []api.ZoneShift{{0, 7200}, {midnight.Unix() + 10, 3600}, {midnight.Unix() + 15, 5401}, {midnight.Unix() + 60, -1802}}
)

// wall is what a leader's clock shows, which now and then jumps.
func (w *world) wall() int64 {
	if w.chance(30) {
		w.skew = w.rnd.Int64N(6e9) - 3e9
	}
	return midnight.UnixNano() + w.now + w.skew
}

// window draws a limit.
func (w *world) window(algorithm, name string) api.Limit {
	pers := []time.Duration{500 * time.Millisecond, 2 * time.Second, 7 * time.Second, time.Minute, time.Hour}
	l := api.Limit{Name: name, Algorithm: algorithm, Rate: 3 + w.rnd.Int64N(20), Per: api.Duration(pers[w.rnd.IntN(len(pers))])}
	switch {
	case algorithm == "token_bucket":
		l.Burst = 3 + w.rnd.Int64N(15)
	case algorithm == "fixed_window" && w.chance(15):
		l.Per = api.Month
	}
	return l
}

// any draws an algorithm.
func (w *world) any() string {
	return []string{"token_bucket", "fixed_window", "sliding_window"}[w.rnd.IntN(3)]
}

// pattern is that of some keys, or one of them.
func (w *world) pattern() string {
	return []string{"*", "{1}*", "{2}0", "{0}1", "{"}[w.rnd.IntN(5)] + []string{"", "*"}[w.rnd.IntN(2)]
}

// except gives some keys of the policy api another limit, for a time or for good.
func (w *world) except(l api.Limit) {
	o := api.Override{Key: w.pattern(), Limits: []api.Limit{l}}
	if w.chance(40) {
		o.TTL = api.Duration(time.Second)
	}
	w.command(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{Policy: "api", Override: o}})
}

func (w *world) remove(name string) {
	call := w.now
	w.pass(2)
	res := w.command(fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{Name: name}})
	w.pass(2)
	if res.Err == nil {
		w.h.Edits = append(w.h.Edits, Edit{Name: name, Call: call, Return: w.now, Outcome: Done, Deletion: true})
	}
}

// append puts an entry into a shard's log and applies it.
func (w *world) append(s *worldShard, e []byte) [][]byte {
	s.index += 2 // what raft puts there itself is no command
	s.entries = append(s.entries, Entry{Group: s.id, Index: s.index, Term: s.term, Data: e})
	replies, err := s.machine.Apply(s.index, e)
	if err != nil {
		w.t.Fatal(err)
	}
	return replies
}

func (w *world) chance(percent int) bool { return w.rnd.IntN(100) < percent }

// pass lets up to ms milliseconds pass.
func (w *world) pass(ms int) { w.now += 1 + w.rnd.Int64N(int64(ms)*1e6) }

// run makes a history of so many steps, and then an end at which nothing is on
// its way.
func (w *world) run(steps int) *world {
	for range steps {
		w.step()
	}
	w.drain()
	return w
}

// drain has everything that is on its way arrive.
func (w *world) drain() {
	for len(w.pending) > 0 {
		w.seal(w.pending[0].shard, 100)
	}
}

func (w *world) step() {
	w.pass(20)
	switch n := w.rnd.IntN(1000); {
	case n < 600:
		w.ask()
	case n < 950:
		if len(w.pending) > 0 {
			w.seal(w.pending[w.rnd.IntN(len(w.pending))].shard, 80)
		}
	case n < 965:
		s := w.groups[w.rnd.IntN(len(w.groups))]
		if w.windows {
			w.append(s, fsm.EncodeClock(w.stamp(s), w.wall()))
			return
		}
		w.append(s, fsm.EncodeTick(w.stamp(s)))
	case n < 980: // another leads, and what passed since the last stamp is lost in part
		s := w.groups[w.rnd.IntN(len(w.groups))]
		s.term++
		s.lag += w.rnd.Int64N(1e8)
	case n < 994 && !w.steady && !w.strict && w.chance(25):
		w.editJobs()
	case n < 994 && w.windows && !w.steady:
		names := []string{"burst", "a", "b", "daily"}
		switch w.rnd.IntN(6) {
		case 0:
			w.except(w.window(w.any(), "burst"))
		case 1:
			w.remove("slow")
			w.edit("slow", w.window(w.any(), "daily"))
		case 2:
			w.edit("two", w.window(w.any(), "a"), w.window(w.any(), "b"))
		default:
			policy := []string{"api", "two", "slow"}[w.rnd.IntN(3)]
			w.edit(policy, w.window(w.any(), names[w.rnd.IntN(4)]))
		}
	case n < 994 && !w.steady:
		rate, burst := w.rnd.Int64N(20)+1, w.rnd.Int64N(15)+3
		switch w.rnd.IntN(7) {
		case 4, 5:
			w.except(api.Limit{Name: "burst", Algorithm: "token_bucket", Rate: rate, Per: api.Duration(time.Second), Burst: burst})
		case 6:
			w.command(fsm.CatalogCommand{DeleteOverride: &fsm.DeleteOverride{Policy: "api", Key: w.pattern()}})
			w.command(fsm.CatalogCommand{ExpireOverrides: &fsm.ExpireOverrides{}})
		case 0:
			w.edit("api", api.Limit{Name: "burst", Rate: rate, Per: api.Duration(time.Second), Burst: burst})
		case 1:
			w.edit("two", api.Limit{Name: "a", Rate: rate, Per: api.Duration(time.Second), Burst: burst}, api.Limit{Name: "c", Rate: 2, Per: api.Duration(time.Second), Burst: burst})
		case 2:
			w.edit("two", api.Limit{Name: "b", Rate: rate, Per: api.Duration(3 * time.Second), Burst: burst})
		default:
			w.command(fsm.CatalogCommand{RemoveMember: &fsm.RemoveMember{ID: fmt.Sprintf("n%d", len(w.h.Edits)%7)}})
			w.remove("slow")
			w.edit("slow", api.Limit{Name: "daily", Rate: 100, Per: api.Duration(24 * time.Hour), Burst: burst})
		}
	case n < 998:
		w.now += int64(w.rnd.IntN(5000)) * 1e6
	case w.steady:
	default: // beyond what is remembered, when nobody repeats anything
		w.drain()
		w.now += int64(time.Duration(w.rnd.IntN(12)) * time.Minute)
	}
}

// editJobs has other slots, or none: then a limit of another algorithm has their name,
// or theirs has that of another one.
func (w *world) editJobs() {
	name := []string{"jobs", "one", "two"}[w.rnd.IntN(3)]
	switch w.rnd.IntN(6) {
	case 0:
		w.edit(name, w.window("token_bucket", "slots"), w.window("token_bucket", "b"))
	case 1:
		w.remove("one")
		w.edit("one", w.slots())
	case 2:
		l := w.slots()
		l.Name = "b"
		w.edit(name, l)
	default:
		w.edit(name, w.slots(), w.window("token_bucket", "b"))
	}
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

// seal puts batches of a shard, each with this chance, into one entry.
func (w *world) seal(s *worldShard, percent int) {
	var e fsm.EntryWriter
	var sealed []*sent
	w.pending = slices.DeleteFunc(w.pending, func(b *sent) bool {
		if b.shard != s || !w.chance(percent) {
			return false
		}
		e.Add(&b.batch, b.sets)
		sealed = append(sealed, b)
		return true
	})
	if len(sealed) == 0 {
		return
	}
	entry := e.Seal(w.stamp(s))
	for i, reply := range w.append(s, entry) {
		b := sealed[i]
		if b.copies--; b.copies > 0 {
			b.twice = true
			w.pending = append(w.pending, b)
		} else if b.heard {
			w.answer(b, reply)
		} else {
			w.fails(b, Unknown, api.OutcomeUnknown)
		}
	}
}

// answer tells the callers of a batch what the machine said.
func (w *world) answer(b *sent, encoded []byte) {
	reply, err := api.DecodeReply(encoded)
	if err != nil {
		w.t.Fatal(err)
	}
	back := w.now + w.rnd.Int64N(5e6)
	var res api.Result
	for _, at := range b.ops {
		if ok, err := reply.Next(&res); err != nil || !ok {
			w.t.Fatalf("no result for operation %d: %v", at, err)
		}
		op := &w.h.Ops[at]
		w.busy[op.Client] = back + 1
		op.Return = back
		if res.Status == api.StatusError {
			op.Outcome, op.Code = NotApplied, res.Code
			if b.twice && b.batch.Session.Seq == 0 && op.RequestID == "" && (op.makes() || op.acts()) { // the first may have been applied
				op.Outcome, op.Return = Unknown, Forever
			}
			continue
		}
		op.Outcome = Done
		op.Answer = &Answer{Allowed: res.Status == api.StatusAllowed || res.Status == api.StatusLeased || res.Status == api.StatusHeld, Refunded: res.Refunded, Duplicate: res.Duplicate, Shadowed: res.Shadowed, WaitMS: int64(res.Wait+999) / 1000}
		if res.Status == api.StatusReset {
			continue
		}
		place := res.Commit
		op.Answer.Commit = &place
		switch res.Status {
		case api.StatusSettled:
			op.Answer.Committed, op.Answer.Given, op.Answer.Charged = res.Hold.Committed, res.Hold.Refunded, res.Hold.Charged
			continue
		case api.StatusReleased, api.StatusRenewed:
			continue
		case api.StatusHeld:
			id := res.Hold.ID
			op.Answer.Hold = id[:]
			if w.chance(80) { // else it is left to expire
				w.holds = append(w.holds, lent{op.Kind, op.Policy, op.Key, id, op.Cost})
			}
		case api.StatusLeased:
			op.Answer.Granted = res.Hold.Granted
			w.leases = append(w.leases, lent{leases, op.Policy, op.Key, res.Hold.ID, res.Hold.Granted})
		}
		set := &reply.Sets[res.Set]
		op.Answer.Revision = set.Revision
		for i, v := range res.Limits {
			op.Answer.Limits = append(op.Answer.Limits, api.LimitState{
				Name: set.Limits[i].Name, Limit: set.Limits[i].Burst, Remaining: v.Remaining,
				RetryAfterMS: int64(v.RetryAfter+999) / 1000, ResetAfterMS: int64(v.ResetAfter+999) / 1000,
			})
		}
		op.Answer.bind(res.Binding)
		if len(res.Limits) == 1 && op.Kind != peek {
			op.Answer.Limits = nil
		}
	}
}

// input is what the world has recorded: three nodes, of which one restarted now
// and then and one came late.
func (w *world) input() Input {
	var all []Entry
	all = append(all, w.log0...)
	for _, s := range w.groups {
		all = append(all, s.entries...)
	}
	again := slices.Clone(all)
	for i := range 5 {
		again = append(again, w.log0[i*len(w.log0)/5:]...)
	}
	again = append(again, w.groups[0].entries[len(w.groups[0].entries)/2:]...)
	return Input{
		History: &w.h,
		Replicas: []*Replica{
			{Node: "n1", Entries: all},
			{Node: "n2", Entries: again},
			{Node: "n3", Entries: w.groups[0].entries[len(w.groups[0].entries)/3:]},
		},
	}
}
