package lease

import (
	"container/heap"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
)

// Config is what a table needs from outside. Send, Random and Wake must be set.
type Config struct {
	// Send carries an ask. It must not block. It is called from [Entry.Take],
	// [Ask.End], [Table.Tick] and [Table.Close], without a lock of the table, and
	// may call back, also before it returns.
	Send func(*Ask)
	// Wake makes sure that [Table.Tick] is called at the time at, or soon after. A
	// later call with an earlier time replaces it. It must not block, nor call
	// back.
	Wake func(at int64)
	// Random returns random bits.
	Random func() uint64
	// Instance names this process among those that sync.
	Instance uint64
	// Note makes [Told.Note]; nil makes none.
	Note func(*Told) any
	// Max is how many entries there may be; 0 is 65,536.
	Max int
}

// Table is the keys that are spent from memory. It is safe for concurrent use.
//
// Get is called for every take. It reads chains of a hash table without a lock;
// who changes them holds mu, and never frees what a reader may stand on. A reader
// who meets a change may miss an entry: then he goes to the store, or calls Put,
// which looks again.
type Table struct {
	cfg   Config
	seed  maphash.Seed
	chain atomic.Pointer[[]atomic.Pointer[Entry]] // a power of two of them

	count  atomic.Int64 // of entries; changes with mu held
	mu     sync.Mutex
	queue  queue // of entries to be looked at
	wakeAt int64 // the last that Wake was told; 0 is none since the last Tick
	closed bool

	stats struct{ granted, spent, returned atomic.Int64 }
}

const (
	defaultMax = 1 << 16
	firstChain = 64
)

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	if cfg.Max == 0 {
		cfg.Max = defaultMax
	}
	t := &Table{cfg: cfg, seed: maphash.MakeSeed()}
	chain := make([]atomic.Pointer[Entry], firstChain)
	t.chain.Store(&chain)
	return t
}

// keeps tells the policies that keep entries: those that are spent from here, and
// those whose failure rule is a local bucket. A policy in shadow or off is tried
// out, and every take of it is the store's.
func keeps(set *api.SetInfo) bool {
	return len(set.Limits) > 0 && set.Enforcement == api.Enforce &&
		(set.Mode == api.Leased && set.LeaseTTL > 0 || set.Mode == api.Soft && set.SyncInterval > 0 ||
			set.Mode == api.Strict && set.Unavailable == api.FailLocal)
}

func (t *Table) hash(policy, key string) uint64 {
	return maphash.String(t.seed, key) + 31*maphash.String(t.seed, policy)
}

// Get returns the entry of a key, or nil.
func (t *Table) Get(policy, key string) *Entry {
	h := t.hash(policy, key)
	chain := *t.chain.Load()
	for e := chain[h&uint64(len(chain)-1)].Load(); e != nil; e = e.next.Load() {
		if e.hash == h && e.key == key && e.policy == policy {
			return e
		}
	}
	return nil
}

// Put returns the entry of a key, and makes one if there is none: for a policy of
// mode leased or soft that is enforced, or with the rule local. It is nil for
// others, and when the table is full or closed. set is the key's, and copied.
// res is what the store answered to an operation on the key, or nil: then the
// bucket is taken to be full until the store says otherwise.
func (t *Table) Put(now int64, policy, key string, set *api.SetInfo, res *api.Result) *Entry {
	if !keeps(set) {
		return nil
	}
	h := t.hash(policy, key)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.Get(policy, key); e != nil {
		return e
	}
	if t.closed || t.Len() >= t.cfg.Max {
		return nil
	}
	t.count.Add(1)
	t.grow()
	e := &Entry{t: t, hash: h, policy: string([]byte(policy)), key: string([]byte(key)), mode: set.Mode, usedAt: now}
	if res == nil {
		e.told = t.freshTold(set)
	} else {
		e.told = t.tellOf(set, res)
	}
	var look int64
	switch e.mode {
	case api.Leased:
		e.lease.demand.add(now, e.horizon(), 1)
		look = now + e.horizon()
	case api.Soft:
		e.soft = newBucket(&e.front, e.told, now)
		if res != nil {
			e.soft.tell(now, now, e.told)
		}
		// So that those who begin together do not sync together.
		look = now + 1 + int64(t.cfg.Random()%uint64(e.interval()))
	default:
		look = now + localLife
	}
	if res != nil && set.Unavailable == api.FailLocal {
		e.hear(now, e.told)
	}
	c := &(*t.chain.Load())[h&uint64(len(*t.chain.Load())-1)]
	e.next.Store(c.Load())
	c.Store(e)
	t.schedule(e, look)
	return e
}

// grow doubles the chains when they get long. Readers who stand on an entry that
// moves see another chain's rest, and so may miss theirs.
func (t *Table) grow() {
	old := *t.chain.Load()
	if t.Len() <= len(old) {
		return
	}
	chain := make([]atomic.Pointer[Entry], 2*len(old))
	for i := range old {
		for e := old[i].Load(); e != nil; {
			next := e.next.Load()
			c := &chain[e.hash&uint64(len(chain)-1)]
			e.next.Store(c.Load())
			c.Store(e)
			e = next
		}
	}
	t.chain.Store(&chain)
}

// remove takes an entry out.
func (t *Table) remove(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain := *t.chain.Load()
	at := &chain[e.hash&uint64(len(chain)-1)]
	for at.Load() != nil && at.Load() != e {
		at = &at.Load().next
	}
	if at.Load() == e {
		at.Store(e.next.Load())
		t.count.Add(-1)
	}
}

// localLife is how often an entry that is only there for the rule local is looked
// at.
const localLife = 10_000_000_000

// Tick does what is due: leases are given back and renewed, buckets synced, idle
// entries forgotten.
func (t *Table) Tick(now int64) {
	t.mu.Lock()
	t.wakeAt = 0
	var due []*Entry
	for len(t.queue) > 0 && t.queue[0].at <= now {
		due = append(due, heap.Pop(&t.queue).(look).e)
	}
	t.mu.Unlock()
	next := make([]look, 0, len(due))
	for _, e := range due {
		if at := e.look(now); at != 0 {
			next = append(next, look{max(at, now+1), e})
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range next {
		heap.Push(&t.queue, l)
	}
	t.wake()
}

// schedule has e looked at. t.mu is held.
func (t *Table) schedule(e *Entry, at int64) {
	heap.Push(&t.queue, look{at, e})
	t.wake()
}

// lookAt has e looked at then; e.mu may be held.
func (t *Table) lookAt(e *Entry, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.schedule(e, at)
}

// wake tells the driver when the next look is due. t.mu is held.
func (t *Table) wake() {
	if len(t.queue) == 0 || t.closed {
		return
	}
	if at := t.queue[0].at; t.wakeAt == 0 || at < t.wakeAt {
		t.wakeAt = at
		t.cfg.Wake(at)
	}
}

// Close gives back every lease and charges what was spent and not charged yet.
// Nothing is spent from here any more. The asks that it sends, and those that
// their answers bring about, are the last; to wait for them is the driver's.
func (t *Table) Close(now int64) {
	t.mu.Lock()
	t.closed = true
	t.queue = nil
	var all []*Entry
	chain := *t.chain.Load()
	for i := range chain {
		for e := chain[i].Load(); e != nil; e = e.next.Load() {
			all = append(all, e)
		}
	}
	t.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		e.end(now)
		e.unlock()
	}
}

// Len is the number of entries.
func (t *Table) Len() int { return int(t.count.Load()) }

// Stats are totals since the table began, but for Entries.
type Stats struct {
	Entries int
	// Tokens of leases: what was granted, of those that have ended what was spent
	// from memory, and what the store took back.
	Granted, Spent, Returned int64
}

// Stats tells what the table has done.
func (t *Table) Stats() Stats {
	return Stats{Entries: t.Len(), Granted: t.stats.granted.Load(), Spent: t.stats.spent.Load(), Returned: t.stats.returned.Load()}
}

// newID names a hold on key.
func (t *Table) newID(key string) api.HoldID {
	var random [14]byte
	for i := 0; i < len(random); i += 7 {
		r := t.cfg.Random()
		for j := range 7 {
			random[i+j] = byte(r >> (8 * j))
		}
	}
	return api.NewHoldID(key, random)
}

// tellOf copies what the store said.
func (t *Table) tellOf(set *api.SetInfo, res *api.Result) *Told {
	told := t.freshTold(set)
	told.Values, told.Binding, told.Commit = slices.Clone(res.Limits), res.Binding, res.Commit
	if t.cfg.Note != nil {
		told.Note = t.cfg.Note(told)
	}
	return told
}

// freshTold is what is known of a bucket that the store was not asked about.
func (t *Table) freshTold(set *api.SetInfo) *Told {
	s := *set
	s.Policy = string([]byte(set.Policy))
	s.Limits = slices.Clone(set.Limits)
	told := &Told{Set: &s, Values: make([]api.LimitValues, len(s.Limits)), minBurst: api.MaxCost}
	for i := range s.Limits {
		l := &s.Limits[i]
		l.Name = string([]byte(l.Name))
		told.minBurst = min(told.minBurst, l.Burst)
		told.Values[i].Remaining = l.Burst
	}
	if t.cfg.Note != nil {
		told.Note = t.cfg.Note(told)
	}
	return told
}

// look is when an entry is to be looked at.
type look struct {
	at int64
	e  *Entry
}

// queue is a heap of looks, the first due first.
type queue []look

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is of [heap.Interface].
func (q *queue) Push(x any) { *q = append(*q, x.(look)) }

// Pop is of [heap.Interface].
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = look{}
	*q = (*q)[:len(*q)-1]
	return last
}
