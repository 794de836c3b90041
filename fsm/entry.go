package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// The entries of a bucket shard. Each begins with the header of header.go; the
// bodies are as follows. A uvarint is encoding/binary's; fixed-size integers
// are little-endian. Nothing follows the last field.
//
// Kind 1, takes: operations of any number of callers, a group each.
//
//	uvarint  number of distinct sets of limits; each
//	           uvarint  length, and the bytes of api.AppendSetInfo
//	groups, at least 1, up to the entry's end; each
//	  u8       flags: 1 atomic, 2 session; other bits are 0
//	           if session: 16 bytes id, uvarint seq, uvarint acked
//	  uvarint  number of policies; each
//	             uvarint  index of its set in the table above
//	  uvarint  number of operations, 1 to 10,000
//	  uvarint  length in bytes of the operations, and these as in the binary
//	           batch of package api, verbatim
//
// Kind 2, own: the slots that the shard owns from now on.
//
//	uvarint  version of the slot map
//	uvarint  number of ranges; each
//	           u16 first slot, u16 last slot, u32 shard
//
// Ranges of other shards may be among them and do not count.
//
// Kind 3, tick: nothing but the header's stamp.
//
// Kind 4, clock: what the leader measured of the time of day.
//
//	i64      its wall clock less the header's stamp, nanoseconds
const (
	kindTakes = 1
	kindOwn   = 2
	kindTick  = 3
	kindClock = 4
)

const (
	groupAtomic  = 1
	groupSession = 2
)

// EntryWriter builds an entry of operations. It is not safe for concurrent
// use. The zero value is ready, and Reset makes it ready again.
type EntryWriter struct {
	sets   []byte // the table without its count
	groups []byte
	n      int // sets in the table
	ops    int

	bySet   map[*policy.Set]int
	byBytes map[string]int // keys are the sets' Encoded
}

// Reset forgets everything added. It keeps memory, but no set.
func (w *EntryWriter) Reset() {
	w.sets, w.groups, w.n, w.ops = w.sets[:0], w.groups[:0], 0, 0
	clear(w.bySet)
	clear(w.byBytes)
}

// Add adds b as a group; sets holds one set for each of b's policies. It keeps
// nothing of b. Neither are checked here: b comes from api.DecodeBatch, or was
// built in the same form, and an entry that breaks the form halts the shard.
func (w *EntryWriter) Add(b *api.Batch, sets []*policy.Set) {
	var flags byte
	if b.Atomic {
		flags |= groupAtomic
	}
	if b.Session.Seq != 0 {
		flags |= groupSession
	}
	w.groups = append(w.groups, flags)
	if b.Session.Seq != 0 {
		w.groups = append(w.groups, b.Session.ID[:]...)
		w.groups = binary.AppendUvarint(w.groups, b.Session.Seq)
		w.groups = binary.AppendUvarint(w.groups, b.Session.Acked)
	}
	w.groups = binary.AppendUvarint(w.groups, uint64(len(sets)))
	for _, s := range sets {
		w.groups = binary.AppendUvarint(w.groups, uint64(w.ref(s)))
	}
	w.groups = binary.AppendUvarint(w.groups, uint64(b.N))
	w.groups = api.AppendBytes(w.groups, b.Ops)
	w.ops += b.N
}

// ref returns the index of s in the table, adding it if need be.
func (w *EntryWriter) ref(s *policy.Set) int {
	if i, ok := w.bySet[s]; ok {
		return i
	}
	if w.bySet == nil {
		w.bySet, w.byBytes = map[*policy.Set]int{}, map[string]int{}
	}
	i, ok := w.byBytes[string(s.Encoded)]
	if !ok {
		i = w.n
		w.n++
		w.byBytes[string(s.Encoded)] = i
		w.sets = api.AppendBytes(w.sets, s.Encoded)
	}
	w.bySet[s] = i
	return i
}

// Size returns the bytes that Seal would return now, up to 3 more.
func (w *EntryWriter) Size() int { return entryHeaderSize + 3 + len(w.sets) + len(w.groups) }

// Ops returns the number of operations added.
func (w *EntryWriter) Ops() int { return w.ops }

// Seal returns the entry, stamped. The slice is fresh and the caller's; the
// writer never touches it again. At least one group must have been added.
func (w *EntryWriter) Seal(stamp uint64) []byte {
	e := appendHeader(make([]byte, 0, w.Size()), kindTakes)
	e = binary.AppendUvarint(e, uint64(w.n))
	e = append(e, w.sets...)
	e = append(e, w.groups...)
	sealHeader(e, stamp)
	return e
}

// EncodeOwn returns an entry that makes the shard own the slots of those of
// ranges that name it, and no others, as of this version of the slot map.
func EncodeOwn(stamp, version uint64, ranges []api.SlotRange) []byte {
	e := appendHeader(nil, kindOwn)
	e = binary.AppendUvarint(e, version)
	e = binary.AppendUvarint(e, uint64(len(ranges)))
	for _, r := range ranges {
		e = binary.LittleEndian.AppendUint16(e, r.From)
		e = binary.LittleEndian.AppendUint16(e, r.To)
		e = binary.LittleEndian.AppendUint32(e, r.Shard)
	}
	sealHeader(e, stamp)
	return e
}

// EncodeTick returns an entry that carries nothing but time.
func EncodeTick(stamp uint64) []byte {
	e := appendHeader(nil, kindTick)
	sealHeader(e, stamp)
	return e
}

// EncodeClock returns an entry that tells what the leader's wall clock showed
// when it was stamped, in nanoseconds since 1970.
func EncodeClock(stamp uint64, wall int64) []byte {
	offset := min(max(wall, 0), maxWall) - int64(min(stamp, maxWall))
	e := appendHeader(nil, kindClock)
	e = binary.LittleEndian.AppendUint64(e, uint64(min(max(offset, -maxOffset), maxOffset)))
	sealHeader(e, stamp)
	return e
}

// EntryStamp returns the stamp of an entry without checking the rest of it. It
// is false for bytes that cannot be an entry of this version.
func EntryStamp(entry []byte) (stamp uint64, ok bool) {
	if len(entry) < entryHeaderSize || entry[0] != entryVersion {
		return 0, false
	}
	return binary.LittleEndian.Uint64(entry[8:]), true
}

// group is one decoded group of an entry, its operations still encoded.
type group struct {
	atomic  bool
	session api.Session
	sets    []*set // one for each policy of the group
	n       int
	ops     []byte // aliases the entry
	offset  uint32 // of its first operation among all of the entry
}

var errShort = errors.New("it ends too early, or a number is out of range")

// decodeTakes reads the body of an entry of operations: the sets, which it
// interns, and the heads of the groups, into m.groups. It allocates no more
// than a constant times len(body).
func (m *Buckets) decodeTakes(body []byte) error {
	n, body, err := api.CutUvarint(body)
	if err != nil || n > uint64(len(body)) {
		return errShort
	}
	m.entrySets, m.groupSets, m.groups = m.entrySets[:0], m.groupSets[:0], m.groups[:0]
	for range n {
		var b string
		if b, body, err = api.CutString(body); err != nil {
			return err
		}
		s, err := m.sets.intern(b)
		if err != nil {
			return fmt.Errorf("set %d: %w", len(m.entrySets), err)
		}
		m.entrySets = append(m.entrySets, s)
	}
	ops := 0
	for len(body) > 0 {
		var g group
		if g, body, err = m.decodeGroup(body); err != nil {
			return fmt.Errorf("group %d: %w", len(m.groups), err)
		}
		g.offset = uint32(ops)
		ops += g.n
		m.groups = append(m.groups, g)
	}
	if len(m.groups) == 0 {
		return errors.New("it has no groups")
	}
	m.ops = ops
	return nil
}

func (m *Buckets) decodeGroup(b []byte) (g group, rest []byte, err error) {
	flags := b[0]
	b = b[1:]
	if flags&^(groupAtomic|groupSession) != 0 {
		return g, nil, fmt.Errorf("unknown flags %#02x", flags)
	}
	g.atomic = flags&groupAtomic != 0
	if flags&groupSession != 0 {
		if len(b) < len(g.session.ID) {
			return g, nil, errShort
		}
		copy(g.session.ID[:], b)
		b = b[len(g.session.ID):]
		if g.session.Seq, b, err = api.CutUvarint(b); err != nil {
			return g, nil, err
		}
		if g.session.Acked, b, err = api.CutUvarint(b); err != nil {
			return g, nil, err
		}
		if g.session.Acked >= g.session.Seq {
			return g, nil, fmt.Errorf("session sequence %d with %d acknowledged", g.session.Seq, g.session.Acked)
		}
	}
	var n uint64
	if n, b, err = api.CutUvarint(b); err != nil || n > uint64(len(b)) {
		return g, nil, errShort
	}
	first := len(m.groupSets)
	for range n {
		var i uint64
		if i, b, err = api.CutUvarint(b); err != nil {
			return g, nil, err
		}
		if i >= uint64(len(m.entrySets)) {
			return g, nil, fmt.Errorf("set %d of %d", i, len(m.entrySets))
		}
		m.groupSets = append(m.groupSets, m.entrySets[i])
	}
	g.sets = m.groupSets[first:len(m.groupSets):len(m.groupSets)]
	if n, b, err = api.CutUvarint(b); err != nil {
		return g, nil, err
	}
	if n == 0 || n > api.MaxBatch {
		return g, nil, fmt.Errorf("%d operations; it needs 1 to %d", n, api.MaxBatch)
	}
	g.n = int(n)
	if n, b, err = api.CutUvarint(b); err != nil {
		return g, nil, err
	}
	if n > uint64(len(b)) || g.n > int(n/3) { // the shortest operation has 3 bytes
		return g, nil, errShort
	}
	g.ops = b[:n]
	return g, b[n:], nil
}

// next cuts the next operation off ops and finds its set, nil for one that acts
// on a hold.
func (g *group) next(ops []byte) (op api.Op, s *set, rest []byte, err error) {
	if op, rest, err = api.DecodeOp(ops); err != nil {
		return op, nil, nil, err
	}
	if op.Kind.OnHold() {
		return op, nil, rest, nil
	}
	if op.Policy >= len(g.sets) {
		return op, nil, nil, fmt.Errorf("policy %d of %d", op.Policy, len(g.sets))
	}
	return op, g.sets[op.Policy], rest, nil
}
