package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
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

func (w *world) stamp(s *worldShard) uint64 {
	return uint64((w.now - s.lag) * (100 + w.fast) / 100)
}

// midnight is when the world begins, and zoneRules a zone that shifts soon after:
// back to the very beginning of a window, forth, and by a part of an hour.
var (
	midnight  = time.Date(2026, time.October, 25, 0, 59, 50, 0, time.UTC)
	zoneRules = []api.ZoneShift{{0, 7200}, {midnight.Unix() + 10, 3600}, {midnight.Unix() + 15, 5401}, {midnight.Unix() + 60, -1802}}
)

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
