package fsm

import (
	"encoding/binary"
	"slices"
)

// The table holds the buckets of a shard in memory that the garbage collector
// does not scan.
//
// A bucket's hash of 40 bits names one of 256 stripes (8 bits) and a tag in
// the stripe's index (32 bits). The index gives the location of its record in
// the stripe's pages. A record never moves but by compaction, and never spans
// two pages:
//
//	 0  u32  id of the set, local to this machine
//	 4  u64  stamp of the last change
//	12  u16  length of the key
//	14  u8   number of limits; 0x80 is set in a dead record
//	15       key
//	         for each limit: i32 tokens, u64 frac, which mean what its
//	         algorithm says
//
// Little-endian. A bucket of one limit thus takes 27 bytes and its key, plus 10
// to 20 in the index and at most a quarter of garbage.
//
// A capture shares the pages: see [cow]. The index is not captured, because
// the pages alone hold everything.
const (
	stripes  = 256
	hashBits = 40

	recordHead = 15
	levelSize  = 12
	recordDead = 0x80

	// A page is what the first change after a capture copies. An entry of
	// thousands of takes touches as many pages, so they are small; smaller ones
	// would make the capture itself, which copies their list, the longer pause.
	pageShift = 10
	pageSize  = 1<<pageShift - 16
)

// page is 1 KiB, the head included.
type page struct {
	epoch uint64 // of cow, when it was made
	used  uint64 // bytes of buf
	buf   [pageSize]byte
}

// cow tells which memory a capture still reads. What was made in an epoch
// before shared must be copied, not changed.
type cow struct {
	epoch  uint64 // of what is made now
	shared uint64
	open   int // captures not released yet
}

func (c *cow) capture() {
	c.epoch++
	c.shared = c.epoch
	c.open++
}

// release ends one capture. Epochs say nothing about which capture holds what,
// so the last one to end frees everything.
func (c *cow) release() {
	if c.open--; c.open == 0 {
		c.shared = 0
	}
}

type stripe struct {
	index index
	pages []*page
	bytes int // of all records, dead ones included
	dead  int // of dead records
}

type table struct {
	stripes [stripes]stripe
	n       int // buckets
	bytes   int // of all records
	cow     *cow
}

// at is the place of a record. The zero value is no place.
type at struct {
	loc   uint32 // page << pageShift | offset
	found bool
}

func stripeOf(hash uint64) uint8 { return uint8(hash >> 32) }
func tagOf(hash uint64) uint32   { return uint32(hash) }

// record returns the bytes from loc to the end of its page.
func (s *stripe) record(loc uint32) []byte {
	return s.pages[loc>>pageShift].buf[loc&(1<<pageShift-1):]
}

// recordKey returns the key, nil when the record is cut short.
func recordKey(r []byte) []byte {
	if n := int(binary.LittleEndian.Uint16(r[12:])); recordHead+n <= len(r) {
		return r[recordHead : recordHead+n]
	}
	return nil
}

func recordSize(key, limits int) int { return recordHead + key + limits*levelSize }

// find looks a bucket up by policy and key. A record whose set id means
// nothing matches by its key alone: load will tell.
func (t *table) find(hash uint64, policy, key string, sets *sets) at {
	s := &t.stripes[stripeOf(hash)]
	if s.index.n == 0 {
		return at{}
	}
	tag, mask := tagOf(hash), len(s.index.slots)-1
	for i := s.index.home(tag); ; i = (i + 1) & mask {
		e := s.index.slots[i]
		if e == 0 {
			return at{}
		}
		if slotTag(e) != tag {
			continue
		}
		loc := slotValue(e)
		r := s.record(loc)
		if string(recordKey(r)) != key {
			continue
		}
		if own := sets.get(binary.LittleEndian.Uint32(r)); own == nil || own.policy == policy {
			return at{loc, true}
		}
	}
}

// touch reads what the look-ups of these operations will read, in loops so tight
// that the processor waits for many at once. The sum that it returns means nothing,
// but keeps the compiler from leaving the reads out.
func (t *table) touch(ops []staged) (sum uint64) {
	for i := range ops {
		s := &t.stripes[stripeOf(ops[i].hash)]
		if s.index.n > 0 {
			sum += s.index.slots[s.index.home(tagOf(ops[i].hash))]
		}
	}
	var records [lookahead][]byte
	for i := range ops {
		s := &t.stripes[stripeOf(ops[i].hash)]
		if e := s.index.first(tagOf(ops[i].hash)); e != 0 {
			records[i] = s.record(slotValue(e))
		}
	}
	for i := range ops {
		// Both ends: two records in three lie across two lines of the cache.
		if r := records[i]; len(r) > 0 {
			sum += uint64(r[0]) + uint64(r[min(recordSize(len(ops[i].op.Key), 1), len(r))-1])
		}
	}
	return sum
}

// load unpacks a record into b. It returns what is
// impossible about it, in which case b means nothing.
func (b *bucket) load(r []byte, sets *sets, now uint64) ResetReason {
	s := sets.get(binary.LittleEndian.Uint32(r))
	if s == nil || s.refusal.code != "" || len(s.limits) != int(r[14]) {
		return ResetBadSet
	}
	b.set, b.leased, b.at.now = s, 0, binary.LittleEndian.Uint64(r[4:])
	if b.at.now > now {
		return ResetFutureStamp
	}
	levels := recordHead + int(binary.LittleEndian.Uint16(r[12:]))
	if levels+len(s.limits)*levelSize > len(r) {
		return ResetBadSet
	}
	r = r[levels:]
	for i := range s.limits {
		l, v := &s.limits[i], &b.lim[i]
		v.tokens = int64(int32(binary.LittleEndian.Uint32(r[i*levelSize:])))
		v.frac = binary.LittleEndian.Uint64(r[i*levelSize+4:])
		if reason := l.check(*v); reason != ResetNone {
			return reason
		}
	}
	return ResetNone
}

// pack writes all of b but its key into its record.
func (b *bucket) pack(r []byte, key int) {
	binary.LittleEndian.PutUint32(r, b.set.id)
	binary.LittleEndian.PutUint64(r[4:], b.at.now)
	binary.LittleEndian.PutUint16(r[12:], uint16(key))
	r[14] = uint8(len(b.set.limits))
	r = r[recordHead+key:]
	for i := range b.set.limits {
		binary.LittleEndian.PutUint32(r[i*levelSize:], uint32(int32(b.lim[i].tokens)))
		binary.LittleEndian.PutUint64(r[i*levelSize+4:], b.lim[i].frac)
	}
}

// put stores b under hash and key: in place of the record that find found, or
// as a new one. It copies key, and keeps count of the references to sets.
func (t *table) put(hash uint64, where at, key string, b *bucket, sets *sets) {
	s := &t.stripes[stripeOf(hash)]
	b.set.refs++
	if where.found {
		r := s.record(where.loc)
		if int(r[14]) == len(b.set.limits) {
			sets.unref(sets.get(binary.LittleEndian.Uint32(r)))
			b.pack(t.writable(s, where.loc), len(key))
			return
		}
		t.kill(s, where.loc, sets)
		s.index.replace(tagOf(hash), where.loc, t.append(s, key, b))
	} else {
		s.index.add(tagOf(hash), t.append(s, key, b))
		t.n++
	}
	t.compact(s)
}

// drop takes out the record at loc, which may be an impossible one.
func (t *table) drop(hash uint64, loc uint32, sets *sets) {
	t.dropAll(stripeOf(hash), []uint64{uint64(tagOf(hash))<<32 | uint64(loc) + 1}, sets)
}

// dropAll takes out entries of one stripe's index, and their records. It
// compacts only at the end, for that moves records.
func (t *table) dropAll(stripe uint8, entries []uint64, sets *sets) {
	s := &t.stripes[stripe]
	for _, e := range entries {
		s.index.remove(slotTag(e), slotValue(e))
		t.n--
		t.kill(s, slotValue(e), sets)
	}
	t.compact(s)
}

// kill marks a record as dead and lets go of its set.
func (t *table) kill(s *stripe, loc uint32, sets *sets) {
	r := t.writable(s, loc)
	if own := sets.get(binary.LittleEndian.Uint32(r)); own != nil {
		sets.unref(own)
	}
	s.dead += recordSize(int(binary.LittleEndian.Uint16(r[12:])), int(r[14]))
	r[14] |= recordDead
}

// append adds a record to the last page, or to a new one, and returns where.
func (t *table) append(s *stripe, key string, b *bucket) uint32 {
	size := recordSize(len(key), len(b.set.limits))
	n := len(s.pages)
	if n == 0 || s.pages[n-1].used+uint64(size) > pageSize {
		s.pages = append(s.pages, &page{epoch: t.cow.epoch})
		n++
	}
	loc := uint32(n-1)<<pageShift | uint32(s.pages[n-1].used)
	p := t.own(s, n-1)
	r := p.buf[p.used : p.used+uint64(size)]
	p.used += uint64(size)
	b.pack(r, len(key))
	copy(r[recordHead:], key)
	s.bytes += size
	t.bytes += size
	return loc
}

// writable returns the record at loc in memory that no capture reads.
func (t *table) writable(s *stripe, loc uint32) []byte {
	return t.own(s, int(loc>>pageShift)).buf[loc&(1<<pageShift-1):]
}

func (t *table) own(s *stripe, i int) *page {
	p := s.pages[i]
	if t.cow.open > 0 && p.epoch < t.cow.shared {
		own := *p
		own.epoch = t.cow.epoch
		p = &own
		s.pages[i] = p
	}
	return p
}

// compact rewrites a stripe once a quarter of its bytes, and over a page, are
// dead. That is one stripe of 256, and paid for by the records that died.
func (t *table) compact(s *stripe) {
	if s.dead <= pageSize || s.dead*4 <= s.bytes {
		return
	}
	old := *s
	s.pages = make([]*page, 0, len(old.pages))
	for i, e := range s.index.slots {
		if e == 0 {
			continue
		}
		r := old.record(slotValue(e))
		size := recordSize(int(binary.LittleEndian.Uint16(r[12:])), int(r[14]))
		n := len(s.pages)
		if n == 0 || s.pages[n-1].used+uint64(size) > pageSize {
			s.pages = append(s.pages, &page{epoch: t.cow.epoch})
			n++
		}
		p := s.pages[n-1]
		s.index.slots[i] = uint64(slotTag(e))<<32 | uint64(uint32(n-1)<<pageShift|uint32(p.used)) + 1
		p.used += uint64(copy(p.buf[p.used:], r[:size]))
	}
	t.bytes -= s.dead
	s.bytes -= s.dead
	s.dead = 0
}

// pageList shares every page with a capture, stripe by stripe.
func (t *table) pageList() [][]*page {
	list := make([][]*page, stripes)
	for i := range t.stripes {
		list[i] = slices.Clone(t.stripes[i].pages)
	}
	return list
}

// records calls yield with every record of a page that is not dead, until it
// returns false.
func (p *page) records(yield func(r []byte) bool) {
	for off := uint64(0); off+recordHead <= p.used; {
		r := p.buf[off:p.used]
		size := recordSize(int(binary.LittleEndian.Uint16(r[12:])), int(r[14]&^recordDead))
		if size > len(r) {
			return // an impossible record: nothing after it can be told apart
		}
		if r[14]&recordDead == 0 && !yield(r[:size:size]) {
			return
		}
		off += uint64(size)
	}
}
