package fsm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// Buckets is the machine of one shard. See the package's page for its
// contract.
type Buckets struct {
	shard uint32

	mu sync.RWMutex // held by Apply for a whole entry; guards all below but stats
	state
	broken error // why Apply returned an error; nothing is applied after

	// Since this process started.
	dropped uint64
	expired uint64 // tokens of leases that nobody settled
	resets  [ResetReasons]uint64

	stats stats // for other goroutines, without mu

	// Of the entry being applied. Nothing here outlives it, but for capacity.
	at        moment // of all its operations
	entrySets []*set // its table
	groupSets []*set // what its groups' policies mean, one after the other
	groups    []group
	ops       int
	made      int // buckets
	staged    [lookahead]staged
	touched   uint64 // means nothing; see table.touch
	b         bucket
	res       api.Result
	held      api.HoldOutcome // of res
	reply     replySets
	swept     []uint64
	atomic    atomicScratch
}

// state is all that a snapshot holds: the same on every replica that has
// applied the same entries, but for the layout of its tables.
type state struct {
	index  uint64 // of the last entry applied
	last   uint64 // cluster time, nanoseconds
	cursor uint64 // of the sweep: the next bucket hash to look at
	owned  ownership
	clock  clock

	sets     sets
	table    table
	dedup    dedup
	sessions sessions
	holds    holds
}

func newState() state {
	return state{
		sets:     sets{byBytes: map[string]*set{}},
		table:    table{cow: &cow{}},
		sessions: sessions{byID: map[[16]byte]*sessionNode{}, cow: &cow{}},
		holds:    newHolds(),
	}
}

// Applied is what an entry came to.
type Applied struct {
	// Replies holds the encoded reply of each group, in order; none for an
	// entry without operations.
	Replies [][]byte
}

// NewBuckets returns the machine of a new shard. It owns no slot until an
// entry of [EncodeOwn] says so.
func NewBuckets(shard uint32) *Buckets { return &Buckets{shard: shard, state: newState()} }

// Apply applies one committed entry. index is its place in the log and grows
// from call to call. An error halts the replica: see the package's page.
func (m *Buckets) Apply(index uint64, entry []byte) (*Applied, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	a, err := m.apply(index, entry)
	if err != nil {
		m.broken = fmt.Errorf("shard %d, log index %d: %w", m.shard, index, err)
		return nil, m.broken
	}
	m.publish()
	return a, nil
}

func (m *Buckets) apply(index uint64, entry []byte) (*Applied, error) {
	if index <= m.index {
		return nil, fmt.Errorf("fsm: index %d is applied already", m.index)
	}
	kind, stamp, body, err := openHeader(entry)
	if err != nil {
		return nil, err
	}
	m.index, m.last = index, max(m.last, stamp)
	m.at = m.moment()
	m.ops, m.made = 0, 0
	a := &Applied{}
	switch kind {
	case kindTakes:
		if err := m.decodeTakes(body); err != nil {
			return nil, malformed(err)
		}
		m.expire(sweepAlways + 2*m.ops)
		if a.Replies, err = m.applyGroups(); err != nil {
			return nil, malformed(err)
		}
		m.sweep(sweepAlways + m.ops/sweepOps + m.made*sweepMade)
	case kindOwn:
		if err := m.own(body); err != nil {
			return nil, malformed(err)
		}
	case kindTick:
		if len(body) != 0 {
			return nil, malformed(errors.New("bytes follow its end"))
		}
		m.expire(sweepTick)
		m.sweep(sweepTick)
	case kindClock:
		measured, err := decodeClock(body)
		if err != nil {
			return nil, malformed(err)
		}
		if len(m.holds.leased) > 0 { // those that end, end by the clock as it was
			m.expireHolds(len(m.holds.due))
		}
		m.clock.correct(measured, m.last, m.sets.calendar > 0)
	default:
		return nil, fmt.Errorf("fsm: unknown entry kind %d: it was written by a newer rlstore", kind)
	}
	m.sets.collect()
	clear(m.groups)
	clear(m.staged[:])
	return a, nil
}

// moment is when the last entry was applied.
func (m *Buckets) moment() moment { return moment{m.last, m.clock.wall(m.last)} }

func malformed(err error) error { return fmt.Errorf("fsm: the entry is malformed: %w", err) }

// expire forgets what is older than its window, at most budget of each sort.
func (m *Buckets) expire(budget int) {
	m.dedup.expire(m.last, budget, &m.sets)
	m.sessions.expire(m.last, budget)
	m.expireHolds(budget)
}

// applyGroups answers every group. The replies share one buffer; each has just
// its own capacity, so that a caller may append to one.
func (m *Buckets) applyGroups() ([][]byte, error) {
	size := 0
	for i := range m.groups {
		g := &m.groups[i]
		size += 64
		perOp := 0
		for _, s := range g.sets {
			size += len(s.told)
			perOp = max(perOp, 3+12*len(s.limits))
		}
		size += g.n * perOp
	}
	// An estimate of the common case. What garbage may claim is bounded: each
	// operation took 3 bytes of the entry, each limit of a set 5.
	buf := make([]byte, 0, min(size, 1<<20))
	replies := make([][]byte, len(m.groups))
	ends := 0
	for i := range m.groups {
		var err error
		if buf, err = m.applyGroup(buf, &m.groups[i]); err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
		replies[i] = buf[ends:len(buf):len(buf)]
		ends = len(buf)
	}
	return replies, nil
}

// applyGroup appends a group's reply to dst.
func (m *Buckets) applyGroup(dst []byte, g *group) ([]byte, error) {
	var s *session
	if g.session.Seq != 0 {
		var stored []byte
		var e opError
		if s, stored, e = m.sessions.begin(&g.session, m.last); e.code != "" {
			return m.refuseGroup(dst, g, e), nil
		}
		if stored != nil {
			start := len(dst)
			dst = append(dst, stored...)
			api.MarkReplayed(dst[start:])
			return dst, nil
		}
	}
	start := len(dst)
	dst = api.BeginReply(dst, g.n, m.commit(g.offset))
	m.reply.begin()
	var err error
	if g.atomic {
		dst, err = m.applyAtomic(dst, g)
	} else {
		dst, err = m.applyEach(dst, g)
	}
	if err != nil {
		return nil, err
	}
	dst = api.FinishReply(dst, start, m.reply.encoded)
	if s != nil {
		m.sessions.store(s, g.session.Seq, dst[start:])
	}
	return dst, nil
}

// opError is why an operation was not applied; no code is no error.
type opError struct {
	code   api.Code
	detail string
}

// refuseGroup answers every operation of a group with the same error.
func (m *Buckets) refuseGroup(dst []byte, g *group, e opError) []byte {
	start := len(dst)
	dst = api.BeginReply(dst, g.n, m.commit(g.offset))
	for range g.n {
		dst = m.appendError(dst, e)
	}
	return api.FinishReply(dst, start, nil)
}

func (m *Buckets) appendError(dst []byte, e opError) []byte {
	m.res = api.Result{Status: api.StatusError, Code: e.code, Detail: e.detail, Limits: m.res.Limits[:0]}
	return api.AppendResult(dst, &m.res)
}

// commit is the place of an operation in the log.
func (m *Buckets) commit(offset uint32) api.Commit {
	return api.Commit{Shard: m.shard, Index: m.index, Offset: offset, TimeNS: m.last}
}

// staged is an operation decoded ahead.
type staged struct {
	op   api.Op // aliases the entry
	set  *set
	key  uint64 // api.Hash of the key
	hash uint64 // of the bucket
	slot uint16
}

// lookahead is how many operations are decoded before the first of them is
// applied, so that the memory of their buckets is fetched side by side: with
// many buckets, waiting for it one by one is most of a take's time.
const lookahead = 16

// applyEach applies the operations of a group one by one.
func (m *Buckets) applyEach(dst []byte, g *group) ([]byte, error) {
	ops := g.ops
	for done := 0; done < g.n; {
		ahead := m.staged[:min(lookahead, g.n-done)]
		for i := range ahead {
			st := &ahead[i]
			var err error
			if st.op, st.set, ops, err = g.next(ops); err != nil {
				return nil, fmt.Errorf("operation %d: %w", done+i, err)
			}
			if st.set == nil { // it names a hold, and its bucket later
				continue
			}
			st.key, st.slot = hashes(st.op.Key)
			st.hash = st.set.bucketHash(st.key)
		}
		m.touched += m.table.touch(ahead)
		for i := range ahead {
			st := &ahead[i]
			if e := m.applyOp(st, g.offset+uint32(done+i)); e.code != "" {
				dst = m.appendError(dst, e)
			} else {
				dst = api.AppendResult(dst, &m.res)
			}
		}
		done += len(ahead)
	}
	if len(ops) != 0 {
		return nil, errors.New("bytes follow its last operation")
	}
	return dst, nil
}

// applyOp applies one operation on its own and leaves the result in m.res.
func (m *Buckets) applyOp(st *staged, offset uint32) opError {
	op, hash, b := &st.op, st.hash, &m.b
	if st.set == nil {
		return m.applyOnHold(op)
	}
	if e := m.refuse(op, st.slot); e.code != "" {
		return e
	}
	res := &m.res
	*res = api.Result{Limits: res.Limits[:0]}
	var id, print uint64
	if op.RequestID != "" {
		id, print = api.Hash(op.RequestID), fingerprint(op, st.set, st.key)
		if found, e := m.recall(op.RequestID, id, print); found || e.code != "" {
			return e
		}
	}
	if st.set.refusal.code != "" { // after recall: the first answer stands
		return st.set.refusal
	}
	where := m.fetch(b, hash, op.Key, st.set)
	switch op.Kind {
	case api.Take:
		switch {
		case b.set.off:
			res.Status = api.StatusAllowed
			b.describe(res, 0)
		case b.set.concurrency:
			return permitRequired(b.set)
		case op.Cost > b.set.minBurst && !b.set.shadow:
			return exceeds(op.Cost, b.set)
		case op.Cost > b.set.minBurst: // the wait that there is none of stays 0
			res.Status, res.Shadowed = api.StatusAllowed, true
			b.describe(res, 0)
		case b.passes(op.Cost) && b.charge(op.Cost, 0), op.MaxWait != 0 && m.borrows(op):
			res.Status = api.StatusAllowed
			b.describe(res, 0)
			m.store(hash, where, op.Key, b)
		default:
			res.Status = api.StatusDenied
			if b.set.shadow {
				res.Status, res.Shadowed = api.StatusAllowed, true
			}
			b.deny(res, op.Cost, op.MaxWait)
		}
	case api.Peek:
		res.Status = api.StatusState
		switch {
		case op.Cost > b.set.minBurst && !b.set.shadow && !b.set.off:
			return exceeds(op.Cost, b.set)
		case op.Cost > b.set.minBurst: // as of a take that is let pass
			b.describe(res, 0)
		case op.Cost > 0 && !b.passes(op.Cost):
			b.deny(res, op.Cost, 0)
		default:
			b.describe(res, max(1, op.Cost))
		}
	case api.Refund:
		res.Status = api.StatusRefunded
		if b.refund(res, op.Cost) {
			m.store(hash, where, op.Key, b)
		}
	case api.Reset:
		res.Status = api.StatusReset
		if where.found {
			m.table.drop(hash, where.loc, &m.sets)
		}
		m.holds.drop(st.set.policy, op.Key, &m.sets)
		return opError{}
	case api.Reserve, api.Acquire:
		if e := m.makeHold(op, st.key, hash, where); e.code != "" {
			return e
		}
	case api.Lease:
		if e := m.makeLease(op, st.set, st.key, hash, where); e.code != "" {
			return e
		}
	case api.Sync:
		if b.set.concurrency && !b.set.off {
			return permitRequired(b.set)
		}
		res.Status = api.StatusState
		if op.Cost > 0 && !b.set.off {
			b.owe(op.Cost)
			m.store(hash, where, op.Key, b)
		}
		b.describe(res, 1)
	}
	res.Set = m.reply.index(b.set)
	if op.RequestID != "" {
		m.dedup.add(op.RequestID, id, print, b.set, res, m.commit(offset), &m.sets)
	}
	return opError{}
}

// borrows charges a take that waits to m.b, and leaves the wait in m.res. It is
// false, and nothing changed, if the take is denied.
func (m *Buckets) borrows(op *api.Op) bool {
	wait, ok := m.b.borrow(op.Cost, op.MaxWait)
	if ok {
		m.res.Wait = micros(wait)
	}
	return ok
}

// hashes returns the hash of a key and its slot.
func hashes(key string) (hash uint64, slot uint16) {
	hash = api.Hash(key)
	if tag := api.Tag(key); len(tag) != len(key) {
		return hash, api.Slot(key)
	}
	return hash, uint16(hash % api.Slots)
}

// refuse says why an operation cannot be applied whatever the state of its
// bucket. It looks only at what could hurt the machine: whoever made the entry
// has checked the rest.
func (m *Buckets) refuse(op *api.Op, slot uint16) opError {
	charges := op.Kind.Charges()
	switch {
	case op.Kind.MakesHold() && op.Check() != nil,
		len(op.Key) < 1 || len(op.Key) > api.MaxKey,
		charges && (op.Cost < 1 && op.Kind != api.Sync || op.Cost < 0 || op.Cost > api.MaxCost),
		op.MaxWait < 0 || op.MaxWait > api.MaxWait,
		len(op.RequestID) > api.MaxRequestID:
		p := api.AsProblem(op.Check())
		return opError{p.Code, p.Detail}
	case op.RequestID != "" && !charges:
		return opError{api.InvalidRequest, "a " + op.Kind.String() + " takes no request_id"}
	case !m.owned.has(slot):
		return m.notOwned(slot)
	}
	return opError{}
}

func (m *Buckets) notOwned(slot uint16) opError {
	return opError{api.NotLeader, fmt.Sprintf("slot %d is not owned by shard %d", slot, m.shard)}
}

func exceeds(cost int64, s *set) opError {
	return opError{api.CostExceedsBurst, fmt.Sprintf("the cost is %d; policy %q lets at most %d pass at once", cost, s.policy, s.minBurst)}
}

// fetch unpacks a bucket into b as it is now under the set that decides; see
// [bucket]. A bucket that is not there, or that cannot be, is a fresh one; the
// latter is dropped at once.
func (m *Buckets) fetch(b *bucket, hash uint64, key string, s *set) at {
	where := m.table.find(hash, s.policy, key, &m.sets)
	if !where.found {
		b.fresh(s, m.at)
		m.countPermits(b, key)
		if len(m.holds.leased) != 0 {
			m.countLeases(b, hash, key)
		}
		return where
	}
	st := &m.table.stripes[stripeOf(hash)]
	if reason := b.load(st.record(where.loc), &m.sets, m.last); reason != ResetNone {
		m.resets[reason]++
		m.table.drop(hash, where.loc, &m.sets)
		b.fresh(s, m.at)
		m.countPermits(b, key)
		if len(m.holds.leased) != 0 {
			m.countLeases(b, hash, key)
		}
		return at{}
	}
	if len(m.holds.leased) == 0 {
		b.advance(m.at)
	} else {
		m.advanceLeased(b, hash, key, m.at)
	}
	m.countPermits(b, key)
	if b.set != s {
		b.adopt(s)
		m.countPermits(b, key)
	}
	return where
}

// store writes a changed bucket back to where fetch found it.
func (m *Buckets) store(hash uint64, where at, key string, b *bucket) {
	if !where.found {
		m.made++
	}
	if b.set.concurrency {
		b.withoutPermits()
	}
	m.table.put(hash, where, key, b, &m.sets)
}

// replySets numbers the sets of one reply in the order of their first use.
type replySets struct {
	serial  uint64 // of the reply; a set's index is valid while its mark equals it
	encoded [][]byte
}

func (r *replySets) begin() {
	r.serial++
	clear(r.encoded)
	r.encoded = r.encoded[:0]
}

func (r *replySets) index(s *set) int {
	if s.mark != r.serial {
		s.mark, s.index = r.serial, len(r.encoded)
		r.encoded = append(r.encoded, s.told)
	}
	return s.index
}

// PeekStale answers a peek from what this replica has applied, as of the stamp
// of the last entry, without the log. set is the limits that the caller knows.
// It may be called from any goroutine, and returns a reply of one result.
func (m *Buckets) PeekStale(op api.Op, ps *policy.Set) []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var sets [][]byte
	res := m.peek(&op, ps, &sets)
	reply := api.BeginReply(nil, 1, m.commit(0))
	reply = api.AppendResult(reply, &res)
	return api.FinishReply(reply, 0, sets)
}

// peek reads and changes nothing, not even scratch space: others may be in it.
func (m *Buckets) peek(op *api.Op, ps *policy.Set, sets *[][]byte) api.Result {
	fail := func(e opError) api.Result {
		return api.Result{Status: api.StatusError, Code: e.code, Detail: e.detail}
	}
	s, err := newSet(string(ps.Encoded))
	switch {
	case err != nil:
		return fail(opError{api.InvalidRequest, err.Error()})
	case op.Kind != api.Peek:
		return fail(opError{api.InvalidRequest, "a " + op.Kind.String() + " needs the log"})
	}
	key, slot := hashes(op.Key)
	if e := m.refuse(op, slot); e.code != "" {
		return fail(e)
	}
	if s.refusal.code != "" {
		return fail(s.refusal)
	}
	var b bucket
	hash := s.bucketHash(key)
	where := m.table.find(hash, s.policy, op.Key, &m.sets)
	st := &m.table.stripes[stripeOf(hash)]
	if where.found && b.load(st.record(where.loc), &m.sets, m.last) == ResetNone {
		m.advanceLeased(&b, hash, op.Key, m.moment())
		m.countPermits(&b, op.Key)
		b.adopt(s)
	} else {
		b.fresh(s, m.moment())
		m.countLeases(&b, hash, op.Key)
	}
	m.countPermits(&b, op.Key)
	*sets = [][]byte{b.set.told}
	res := api.Result{Status: api.StatusState}
	b.describe(&res, 1)
	return res
}
