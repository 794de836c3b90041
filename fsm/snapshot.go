package fsm

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/snapshot"
)

// A snapshot of a bucket shard, content version 1: a file of package snapshot
// whose header has the applied index and the last stamp. Equal states have
// equal bytes. The records, in this order:
//
//	1 meta, once:
//	    uvarint sweep cursor; uvarint slot map version;
//	    uvarint number of owned ranges, each u16 first slot, u16 last slot;
//	    uvarint number of sets, of buckets, of request ids, of sessions, of
//	    holds, of settled holds;
//	    if the clock was ever set: varint offset of the time of day; uvarint age
//	    of its last correction, the header's stamp less that one's; uvarint
//	    the latest time of day that it showed up to then
//	2 set, one each, sorted by its bytes and numbered from 0:
//	    the bytes of api.AppendSetInfo
//	3 buckets, many in one, sorted by hash, then policy, then key; each:
//	    uvarint number of the set; uvarint age, the header's stamp less the
//	    bucket's; uvarint length, key; for each limit: varint tokens,
//	    uvarint frac
//	4 request ids, many in one, oldest first: as in dedup.go
//	5 session, one each, least recently used first:
//	    16 bytes id; uvarint stamp of the last use; uvarint acked;
//	    uvarint number of answers
//	6 answer, one each, after its session, by sequence number:
//	    uvarint sequence number; the reply
//	7 holds, many in one, sorted by id: as in holds_snapshot.go
//	8 settled holds, many in one, the oldest first: as in holds_snapshot.go
const (
	contentVersion = 1

	recMeta    = 1
	recSet     = 2
	recBuckets = 3
	recDedup   = 4
	recSession = 5
	recAnswer  = 6
	recHolds   = 7
	recEnds    = 8

	recordFill = 32 << 10 // a record of many is closed once it has as many bytes
)

// Capture is the state as of one entry. It shares memory with the machine,
// which copies what it changes until Release.
type Capture struct {
	m      *Buckets
	st     state // scalars only
	broken error

	sets      []*set
	pages     [][]*page
	buckets   int
	chunks    [][]byte
	dedupFrom uint32 // where the first record begins in chunks[0]
	dedupIDs  int
	sessions  []*session
	holds     []*hold
	ends      [][]ending
	endsFrom  int // where the oldest begins in ends[0]
	endsKept  int

	tableCow, sessionsCow *cow
}

// Capture notes the state as it is, for [Capture.WriteTo]. Call it on the
// goroutine that applies. It copies one pointer for each KiB of buckets and
// for each session and live hold, and no bucket.
func (m *Buckets) Capture() *Capture {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Capture{
		m:        m,
		st:       state{index: m.index, last: m.last, cursor: m.cursor, owned: m.owned, clock: m.clock},
		broken:   m.broken,
		sets:     slices.Clone(m.sets.byID),
		pages:    m.table.pageList(),
		buckets:  m.table.n,
		chunks:   slices.Clone(m.dedup.chunks),
		dedupIDs: m.dedup.n,
		sessions: m.sessions.list(),
		holds:    m.holds.list(),
		ends:     slices.Clone(m.holds.ends.chunks),
		endsFrom: int(m.holds.ends.head % endChunk),
		endsKept: m.holds.ends.len(),
		tableCow: m.table.cow, sessionsCow: m.sessions.cow,
	}
	if m.dedup.n > 0 {
		c.dedupFrom = m.dedup.ring[m.dedup.head].off
	}
	c.tableCow.capture()
	c.sessionsCow.capture()
	return c
}

// Release lets the machine change again what the capture shared. Call it once,
// from any goroutine.
func (c *Capture) Release() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.tableCow.release()
	c.sessionsCow.release()
	c.pages, c.chunks, c.sessions, c.holds, c.ends = nil, nil, nil, nil, nil
}

// WriteTo writes the snapshot. It may run while the machine applies.
func (c *Capture) WriteTo(w io.Writer) (int64, error) {
	count := &bytesWritten{w: w}
	sw, err := snapshot.NewWriter(count, snapshot.Header{
		Kind: snapshot.KindBuckets, Version: contentVersion,
		Shard: c.m.shard, Index: c.st.index, TimeNS: c.st.last,
	})
	if err != nil {
		return count.n, err
	}
	if err := c.records(sw.Record); err != nil {
		return count.n, err
	}
	return count.n, sw.Close()
}

// bytesWritten counts what goes through to w.
type bytesWritten struct {
	w io.Writer
	n int64
}

func (c *bytesWritten) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// Digest returns a hash of the canonical state. Equal digests at equal indexes
// mean replicas that agree.
func (m *Buckets) Digest() ([32]byte, error) {
	c := m.Capture()
	defer c.Release()
	h := sha256.New()
	err := c.records(func(typ uint8, payload []byte) error {
		head := binary.LittleEndian.AppendUint64([]byte{typ}, uint64(len(payload)))
		h.Write(head)
		h.Write(payload)
		return nil
	})
	var sum [32]byte
	binary.LittleEndian.PutUint64(sum[:], c.st.last)
	h.Write(sum[:8])
	return [32]byte(h.Sum(nil)), err
}

// records emits the canonical records.
func (c *Capture) records(emit func(typ uint8, payload []byte) error) error {
	if c.broken != nil {
		return fmt.Errorf("fsm: a halted machine has no state to keep: %w", c.broken)
	}
	sorted := slices.DeleteFunc(slices.Clone(c.sets), func(s *set) bool { return s == nil })
	slices.SortFunc(sorted, func(a, b *set) int { return bytes.Compare(a.encoded, b.encoded) })
	number := make([]uint32, len(c.sets)) // by id
	for i, s := range sorted {
		number[s.id] = uint32(i)
	}

	owned := c.st.owned.ranges(c.m.shard)
	meta := binary.AppendUvarint(nil, c.st.cursor)
	meta = binary.AppendUvarint(meta, c.st.owned.version)
	meta = binary.AppendUvarint(meta, uint64(len(owned)))
	for _, r := range owned {
		meta = binary.LittleEndian.AppendUint16(meta, r.From)
		meta = binary.LittleEndian.AppendUint16(meta, r.To)
	}
	for _, n := range []int{len(sorted), c.buckets, c.dedupIDs, len(c.sessions), len(c.holds), c.endsKept} {
		meta = binary.AppendUvarint(meta, uint64(n))
	}
	if k := &c.st.clock; k.set {
		meta = binary.AppendVarint(meta, k.offset)
		meta = binary.AppendUvarint(meta, c.st.last-k.at)
		meta = binary.AppendUvarint(meta, uint64(k.peak))
	}
	if err := emit(recMeta, meta); err != nil {
		return err
	}
	for _, s := range sorted {
		if err := emit(recSet, s.encoded); err != nil {
			return err
		}
	}
	if err := c.bucketRecords(number, &filler{typ: recBuckets, emit: emit}); err != nil {
		return err
	}
	if err := c.dedupRecords(number, &filler{typ: recDedup, emit: emit}); err != nil {
		return err
	}
	if err := c.sessionRecords(emit); err != nil {
		return err
	}
	if err := c.holdRecords(number, &filler{typ: recHolds, emit: emit}); err != nil {
		return err
	}
	return c.endRecords(&filler{typ: recEnds, emit: emit})
}

// filler gathers small items into records.
type filler struct {
	typ  uint8
	buf  []byte
	emit func(uint8, []byte) error
}

// done ends an item; last is after the last one.
func (f *filler) done(last bool) error {
	if len(f.buf) == 0 || !last && len(f.buf) < recordFill {
		return nil
	}
	err := f.emit(f.typ, f.buf)
	f.buf = f.buf[:0]
	return err
}

func (c *Capture) bucketRecords(number []uint32, f *filler) error {
	type item struct {
		hash uint64
		set  *set
		rec  []byte
	}
	var items []item
	view := sets{byID: c.sets}
	var b bucket
	n := 0
	for _, pages := range c.pages {
		items = items[:0]
		for _, p := range pages {
			for r := range p.records {
				if b.load(r, &view, c.st.last) == ResetNone {
					items = append(items, item{b.set.bucketHash(api.Hash(string(recordKey(r)))), b.set, r})
				}
			}
		}
		slices.SortFunc(items, func(x, y item) int {
			return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.set.policy, y.set.policy),
				bytes.Compare(recordKey(x.rec), recordKey(y.rec)))
		})
		n += len(items)
		for _, it := range items {
			b.load(it.rec, &view, c.st.last)
			f.buf = binary.AppendUvarint(f.buf, uint64(number[it.set.id]))
			f.buf = binary.AppendUvarint(f.buf, c.st.last-b.at.now)
			f.buf = api.AppendBytes(f.buf, recordKey(it.rec))
			for i := range it.set.limits {
				f.buf = binary.AppendVarint(f.buf, b.lim[i].tokens)
				f.buf = binary.AppendUvarint(f.buf, b.lim[i].frac)
			}
			if err := f.done(false); err != nil {
				return err
			}
		}
	}
	if n != c.buckets {
		return fmt.Errorf("fsm: %d of %d buckets are impossible; taking a snapshot of them would hide it", c.buckets-n, c.buckets)
	}
	return f.done(true)
}

func (c *Capture) dedupRecords(number []uint32, f *filler) error {
	var res api.Result
	left := c.dedupIDs
	from := c.dedupFrom
	for _, chunk := range c.chunks {
		for rest := chunk[from:]; left > 0 && len(rest) > 0; left-- {
			size := decodeRemembered(rest, &res)
			if size == 0 {
				return errors.New("fsm: a remembered request id is cut short")
			}
			f.buf = binary.LittleEndian.AppendUint32(f.buf, number[binary.LittleEndian.Uint32(rest)])
			f.buf = append(f.buf, rest[4:size]...)
			rest = rest[size:]
			if err := f.done(false); err != nil {
				return err
			}
		}
		from = 0
	}
	return f.done(true)
}

func (c *Capture) sessionRecords(emit func(uint8, []byte) error) error {
	var buf []byte
	for _, s := range c.sessions {
		buf = append(buf[:0], s.id[:]...)
		buf = binary.AppendUvarint(buf, s.last)
		buf = binary.AppendUvarint(buf, s.acked)
		buf = binary.AppendUvarint(buf, uint64(len(s.replies)))
		if err := emit(recSession, buf); err != nil {
			return err
		}
		for _, r := range s.replies {
			buf = binary.AppendUvarint(buf[:0], r.seq)
			buf = append(buf, r.reply...)
			if err := emit(recAnswer, buf); err != nil {
				return err
			}
		}
	}
	return nil
}
