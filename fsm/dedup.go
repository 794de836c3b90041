package fsm

import (
	"encoding/binary"

	"github.com/rlstore/rlstore/api"
)

// Bounds of the memory for request ids, each shard's.
const (
	// DedupWindow is how long a request id is remembered: 5 minutes of cluster
	// time, in nanoseconds.
	DedupWindow = 5 * 60 * 1_000_000_000
	// MaxDedup is how many are remembered; one more and the oldest is forgotten.
	MaxDedup = 1 << 18
)

// dedup remembers the results of operations with a request id, in the order in
// which they were applied.
//
// The records lie in chunks that are only ever appended to, so a capture shares
// them. A record is
//
//	u32      id of its set; in a snapshot, the set's number there
//	u64      fingerprint
//	u8       length of the request id, and its bytes
//	u8       status; bit 6: it has a wait; bit 7: shadowed
//	u8       which limit binds
//	u8       number of limits
//	u32 shard, u64 index, u32 offset, u64 time_ns    of the commit
//	uvarint  tokens refunded
//	uvarint  wait, in microseconds, if it has one
//	         for each limit: uvarint remaining, retry-after, reset-after
//	16 bytes id of the hold, if that is what the operation made
//
// Denials are remembered as well. Errors are not: nothing was applied, and a
// later try may fare better.
type dedup struct {
	ring  []remembered // a power of two; entries head to head+n-1, oldest first
	head  int
	n     int
	index index // tag: high bits of hash; value: place in ring

	chunks [][]byte // chunks[0] is number first
	first  uint32

	scratch []byte
	max     int // MaxDedup if 0; tests set less
}

// remembered is where a record lies, and what is needed to pass it over.
type remembered struct {
	hash  uint64 // api.Hash of the id
	stamp uint64
	chunk uint32 // counted up from the first ever made
	off   uint32
}

const (
	dedupChunk = 64 << 10
	dedupHead  = 12 // bytes before the length of the id

	rememberedWait   = 1 << 6
	rememberedShadow = 1 << 7
)

// fingerprint tells an operation from another one under the same request id. A
// new revision of the policy is the same policy.
func fingerprint(op *api.Op, s *set, key uint64) uint64 {
	f := mix(s.hash + uint64(op.Kind))
	return mix(mix(f^key) ^ uint64(op.Cost))
}

func expired(stamp, now, window uint64) bool { return now-stamp >= window }

func (d *dedup) record(r *remembered) []byte { return d.chunks[r.chunk-d.first][r.off:] }

// find returns the record of an id that has not expired, or nil.
func (d *dedup) find(id string, hash, now uint64) []byte {
	if d.n == 0 {
		return nil
	}
	tag, mask := uint32(hash>>32), len(d.index.slots)-1
	for i := d.index.home(tag); d.index.slots[i] != 0; i = (i + 1) & mask {
		if slotTag(d.index.slots[i]) != tag {
			continue
		}
		r := &d.ring[slotValue(d.index.slots[i])]
		if r.hash != hash || expired(r.stamp, now, DedupWindow) {
			continue
		}
		if rec := d.record(r); string(rec[dedupHead+1:dedupHead+1+int(rec[dedupHead])]) == id {
			return rec
		}
	}
	return nil
}

// add remembers a result. The id is not remembered yet, or has expired.
func (d *dedup) add(id string, hash, print uint64, s *set, res *api.Result, c api.Commit, sets *sets) {
	for d.n >= orDefault(d.max, MaxDedup) {
		d.forget(sets)
	}
	s.refs++
	r := d.scratch[:0]
	r = binary.LittleEndian.AppendUint32(r, s.id)
	r = binary.LittleEndian.AppendUint64(r, print)
	r = append(r, byte(len(id)))
	r = append(r, id...)
	status := byte(res.Status)
	if res.Wait != 0 {
		status |= rememberedWait
	}
	if res.Shadowed {
		status |= rememberedShadow
	}
	r = append(r, status, byte(res.Binding), byte(len(res.Limits)))
	r = binary.LittleEndian.AppendUint32(r, c.Shard)
	r = binary.LittleEndian.AppendUint64(r, c.Index)
	r = binary.LittleEndian.AppendUint32(r, c.Offset)
	r = binary.LittleEndian.AppendUint64(r, c.TimeNS)
	r = binary.AppendUvarint(r, uint64(res.Refunded))
	if res.Wait != 0 {
		r = binary.AppendUvarint(r, res.Wait)
	}
	for _, v := range res.Limits {
		r = binary.AppendUvarint(r, uint64(v.Remaining))
		r = binary.AppendUvarint(r, v.RetryAfter)
		r = binary.AppendUvarint(r, v.ResetAfter)
	}
	if res.Status == api.StatusHeld {
		r = append(r, res.Hold.ID[:]...)
	}
	d.scratch = r
	d.append(r, hash, c.TimeNS)
}

// append adds a whole record, which it copies.
func (d *dedup) append(rec []byte, hash, stamp uint64) {
	n := len(d.chunks)
	if n == 0 || cap(d.chunks[n-1])-len(d.chunks[n-1]) < len(rec) {
		d.chunks = append(d.chunks, make([]byte, 0, dedupChunk))
		n++
	}
	chunk := &d.chunks[n-1]
	d.push(remembered{hash: hash, stamp: stamp, chunk: d.first + uint32(n-1), off: uint32(len(*chunk))})
	*chunk = append(*chunk, rec...)
}

// push puts r at the end of the ring and into the index.
func (d *dedup) push(r remembered) {
	if d.n == len(d.ring) {
		bigger := make([]remembered, max(16, 2*len(d.ring)))
		d.index = index{}
		for i := range d.n {
			bigger[i] = d.ring[(d.head+i)&(len(d.ring)-1)]
			d.index.add(uint32(bigger[i].hash>>32), uint32(i))
		}
		d.ring, d.head = bigger, 0
	}
	i := (d.head + d.n) & (len(d.ring) - 1)
	d.ring[i] = r
	d.n++
	d.index.add(uint32(r.hash>>32), uint32(i))
}

// expire forgets at most budget records that are over the window. Records
// stand in the order of their stamps.
func (d *dedup) expire(now uint64, budget int, sets *sets) {
	for ; budget > 0 && d.n > 0 && expired(d.ring[d.head].stamp, now, DedupWindow); budget-- {
		d.forget(sets)
	}
}

// forget drops the oldest record, and its chunk with the last one in it.
func (d *dedup) forget(sets *sets) {
	r := &d.ring[d.head]
	if s := sets.get(binary.LittleEndian.Uint32(d.record(r))); s != nil {
		sets.unref(s)
	}
	d.index.remove(uint32(r.hash>>32), uint32(d.head))
	d.head = (d.head + 1) & (len(d.ring) - 1)
	d.n--
	if d.n == 0 {
		*d = dedup{scratch: d.scratch, max: d.max}
		return
	}
	for d.ring[d.head].chunk != d.first {
		d.chunks[0] = nil
		d.chunks = d.chunks[1:]
		d.first++
	}
}

// recall looks a request id up and, if it is known, leaves its first result in
// m.res, marked as a duplicate and with the commit of the first time.
func (m *Buckets) recall(id string, hash, print uint64) (found bool, e opError) {
	rec := m.dedup.find(id, hash, m.last)
	if rec == nil {
		return false, opError{}
	}
	if binary.LittleEndian.Uint64(rec[4:]) != print {
		return false, opError{api.RequestIDReused, "the request_id " + id + " was used for another operation, policy, key or cost"}
	}
	s := m.sets.get(binary.LittleEndian.Uint32(rec))
	// What can't be is never taken for a new request: that would charge twice.
	if s == nil || decodeRemembered(rec, &m.res) == 0 || len(m.res.Limits) != len(s.limits) || m.res.Binding >= len(s.limits) {
		return false, opError{api.Internal, "what is remembered of the request_id " + id + " is damaged; nothing was applied now"}
	}
	m.res.Set = m.reply.index(s)
	return true, opError{}
}

// decodeRemembered reads a record's result into res, and returns the size of
// the record, or 0 if it is cut short.
func decodeRemembered(rec []byte, res *api.Result) int {
	const fixed = 3 + 24
	if len(rec) <= dedupHead {
		return 0
	}
	r := rec[dedupHead:]
	n := 1 + int(r[0])
	if len(r) < n+fixed {
		return 0
	}
	r = r[n:]
	*res = api.Result{
		Status: api.Status(r[0] &^ (rememberedWait | rememberedShadow)), Binding: int(r[1]), Limits: res.Limits[:0],
		Duplicate: true, OwnCommit: true, Shadowed: r[0]&rememberedShadow != 0,
		Commit: api.Commit{
			Shard: binary.LittleEndian.Uint32(r[3:]), Index: binary.LittleEndian.Uint64(r[7:]),
			Offset: binary.LittleEndian.Uint32(r[15:]), TimeNS: binary.LittleEndian.Uint64(r[19:]),
		},
	}
	waits, limits := r[0]&rememberedWait != 0, int(r[2])
	r = r[fixed:]
	v, r, err := api.CutUvarint(r)
	if err != nil {
		return 0
	}
	res.Refunded = int64(v)
	if waits {
		if res.Wait, r, err = api.CutUvarint(r); err != nil || res.Wait == 0 {
			return 0
		}
	}
	for range limits {
		var v [3]uint64
		for i := range v {
			if v[i], r, err = api.CutUvarint(r); err != nil {
				return 0
			}
		}
		res.Limits = append(res.Limits, api.LimitValues{Remaining: int64(v[0]), RetryAfter: v[1], ResetAfter: v[2]})
	}
	if res.Status == api.StatusHeld {
		res.Hold = new(api.HoldOutcome)
		if len(r) < len(res.Hold.ID) {
			return 0
		}
		r = r[copy(res.Hold.ID[:], r):]
	}
	return len(rec) - len(r)
}
