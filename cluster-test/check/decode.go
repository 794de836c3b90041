package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/rlstore/rlstore/api"
)

// This file reads log entries from their description alone: the header in
// fsm/header.go, the bodies in fsm/entry.go, the operations in api/batch.go and
// the sets of limits in api/reply.go. It shares no code with the decoders that
// it is to judge.

// The kinds of entries.
const (
	entryTakes  = 1
	entryOwn    = 2
	entryTick   = 3
	entryClock  = 4
	entryInit   = 64
	entryPut    = 65
	entryDelete = 66
	entryRemove = 67 // of a member

	entryPutOverride    = 68
	entryDeleteOverride = 69
	entryExpire         = 70 // of overrides
	entryEnforcement    = 71
)

// kinds are the names of operations, by their number in the log.
var kinds = [...]string{take, peek, refund, reset, reserve, commit, cancel, acquire, renew, release, leases, syncs}

// They are the same in a history. The oracle leaves reservations and permits alone,
// wherever they stand: whoever makes them checks that they add up, under policies of
// their own.
const (
	take    = "take"
	peek    = "peek"
	refund  = "refund"
	reset   = "reset"
	reserve = "reserve"
	commit  = "commit" // of a reservation or a lease
	cancel  = "cancel"
	acquire = "acquire"
	renew   = "renew"
	release = "release"
	leases  = "lease"
	syncs   = "sync"
)

const (
	maxBatch  = 10_000 // operations of a group
	slotCount = 4096
)

// logEntry is a decoded entry. Which of the last fields is set follows from the
// kind; body is that of a catalog's entry.
type logEntry struct {
	kind   byte
	stamp  uint64
	groups []logGroup
	own    ownRanges
	offset int64 // of the leader's wall clock
	body   []byte
}

// logGroup is what one caller sent as one batch to one shard.
type logGroup struct {
	atomic bool
	// session is set if seq is above 0.
	session    [16]byte
	seq, acked uint64
	ops        []logOp
}

type logOp struct {
	kind      string
	set       *numbers
	cost      int64
	maxWait   int64 // milliseconds that a take may wait
	key       string
	requestID string
	hold      [16]byte // of a lease and of what is about a hold, else 0
	ttl       int64    // milliseconds, of what makes a hold
	need      int64    // of a lease
	rule      byte     // on expiry, of a reservation
	instance  uint64   // of a sync
}

// makes says whether the operation makes a hold, and acts whether it is about one
// that there is.
func (op *logOp) makes() bool {
	return op.kind == reserve || op.kind == acquire || op.kind == leases
}

func (op *logOp) acts() bool {
	return op.kind == commit || op.kind == cancel || op.kind == renew || op.kind == release
}

// ownRanges is the body of an entry of ownership.
type ownRanges struct {
	version uint64
	ranges  []slotRange
}

type slotRange struct {
	from, to uint16
	shard    uint32
}

// cutter reads fields off the front of b. After the first that does not fit,
// bad is set and everything read is 0.
type cutter struct {
	b   []byte
	bad bool
}

// bytes cuts n bytes off, or none if there are not so many.
func (c *cutter) bytes(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cutter) fixed(n uint64) uint64 {
	var v uint64
	for i, x := range c.bytes(n) {
		v |= uint64(x) << (8 * i)
	}
	return v
}

func (c *cutter) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.b, c.bad = nil, true
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cutter) text() string { return string(c.bytes(c.uvarint())) }

// positive reads a number that must fit an int64.
func (c *cutter) positive() int64 {
	v := c.uvarint()
	if v > 1<<62 {
		c.b, c.bad = nil, true
		return 0
	}
	return int64(v)
}

var (
	errCut        = errors.New("it ends too early, or a number is out of range")
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
	errTrailing   = errors.New("bytes follow its end")
	errHasNoGroup = errors.New("it has no groups")
)

// decode reads one entry. sets holds the sets met so far, by their bytes.
func decode(data []byte, sets map[string]*numbers) (*logEntry, error) {
	c := cutter{b: data}
	version, kind := c.fixed(1), byte(c.fixed(1))
	reserved, sum := c.fixed(2), uint32(c.fixed(4))
	stamp := c.fixed(8)
	switch {
	case c.bad:
		return nil, fmt.Errorf("it has %d bytes, fewer than the header", len(data))
	case version != 1:
		return nil, fmt.Errorf("its version is %d", version)
	case reserved != 0:
		return nil, fmt.Errorf("its reserved bytes are %#x", reserved)
	}
	without := append(append(make([]byte, 0, len(data)), data[:4]...), data[8:]...)
	if got := crc32.Checksum(without, castagnoli); got != sum {
		return nil, fmt.Errorf("its checksum is %08x, its bytes give %08x", sum, got)
	}
	e := &logEntry{kind: kind, stamp: stamp}
	var err error
	switch kind {
	case entryTakes:
		e.groups, err = decodeTakes(&c, sets)
	case entryOwn:
		e.own, err = decodeOwn(&c)
	case entryTick:
	case entryClock:
		e.offset = int64(c.fixed(8))
		if e.offset <= -maxWall || e.offset >= maxWall {
			return nil, errCut
		}
	case entryInit, entryPut, entryDelete, entryRemove,
		entryPutOverride, entryDeleteOverride, entryExpire, entryEnforcement:
		e.body, c.b = c.b, nil
	default:
		return nil, fmt.Errorf("its kind is %d", kind)
	}
	switch {
	case err != nil:
		return nil, err
	case c.bad:
		return nil, errCut
	case len(c.b) > 0:
		return nil, errTrailing
	}
	return e, nil
}

func decodeTakes(c *cutter, sets map[string]*numbers) ([]logGroup, error) {
	count := c.uvarint()
	if count > uint64(len(c.b)) {
		return nil, errCut
	}
	table := make([]*numbers, 0, count)
	for range count {
		raw := c.bytes(c.uvarint())
		set := sets[string(raw)]
		if set == nil {
			var err error
			if set, err = decodeSet(raw); err != nil {
				return nil, fmt.Errorf("set %d: %w", len(table), err)
			}
			sets[string(raw)] = set
		}
		table = append(table, set)
	}
	var groups []logGroup
	for len(c.b) > 0 {
		g, err := decodeGroup(c, table)
		if err != nil {
			return nil, fmt.Errorf("group %d: %w", len(groups), err)
		}
		groups = append(groups, g)
	}
	if len(groups) == 0 && !c.bad {
		return nil, errHasNoGroup
	}
	return groups, nil
}

func decodeGroup(c *cutter, table []*numbers) (g logGroup, err error) {
	flags := c.fixed(1)
	g.atomic = flags&1 != 0
	if flags > 3 {
		return g, fmt.Errorf("its flags are %#x", flags)
	}
	if flags&2 != 0 {
		copy(g.session[:], c.bytes(16))
		g.seq, g.acked = c.uvarint(), c.uvarint()
		if g.acked >= g.seq {
			return g, fmt.Errorf("its number in the session is %d, with %d acknowledged", g.seq, g.acked)
		}
	}
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		return g, errCut
	}
	sets := make([]*numbers, n)
	for i := range sets {
		at := c.uvarint()
		if at >= uint64(len(table)) {
			return g, fmt.Errorf("it names set %d of %d", at, len(table))
		}
		sets[i] = table[at]
	}
	count := c.uvarint()
	if count < 1 || count > maxBatch {
		return g, fmt.Errorf("it has %d operations", count)
	}
	body := cutter{b: c.bytes(c.uvarint())}
	for len(body.b) > 0 && uint64(len(g.ops)) < count {
		op, err := decodeOp(&body, sets)
		if err != nil {
			return g, fmt.Errorf("operation %d: %w", len(g.ops), err)
		}
		g.ops = append(g.ops, op)
	}
	if c.bad || uint64(len(g.ops)) != count || len(body.b) != 0 {
		return g, errCut
	}
	return g, nil
}

func decodeOp(c *cutter, sets []*numbers) (op logOp, err error) {
	head := c.fixed(1)
	kind := head & 0x0f
	if head&0x80 != 0 || kind >= uint64(len(kinds)) || head&0x40 != 0 && kinds[kind] != peek || head&0x20 != 0 && kinds[kind] != take {
		return op, fmt.Errorf("its first byte is %#x", head)
	}
	if op.kind = kinds[kind]; op.acts() {
		return decodeActs(c, head, op.kind)
	}
	at := c.uvarint()
	if at >= uint64(len(sets)) {
		return op, fmt.Errorf("it names policy %d of %d", at, len(sets))
	}
	op.set = sets[at]
	if op.kind != peek && op.kind != reset || head&0x40 != 0 {
		op.cost = c.positive()
	}
	if head&0x20 != 0 {
		if op.maxWait = c.positive(); op.maxWait == 0 {
			return op, errCut
		}
	}
	op.key = c.text()
	if head&0x10 != 0 {
		if op.requestID = c.text(); op.requestID == "" {
			return op, errCut
		}
	}
	if op.makes() {
		copy(op.hold[:], c.bytes(16))
		op.ttl = c.positive()
	}
	switch op.kind {
	case reserve:
		op.rule = byte(c.fixed(1))
		c.bad = c.bad || op.rule > 1
	case leases:
		op.need = c.positive()
	case syncs:
		op.instance = c.fixed(8)
	}
	if c.bad {
		return op, errCut
	}
	return op, nil
}

// nobody is the set of an operation that names none.
var nobody = &numbers{}

// decodeActs reads an operation on a hold that there is.
func decodeActs(c *cutter, head uint64, kind string) (op logOp, err error) {
	op = logOp{kind: kind, set: nobody}
	if head&^0x0f != 0 {
		return op, fmt.Errorf("its first byte is %#x", head)
	}
	if op.kind == commit {
		op.cost = c.positive()
	}
	copy(op.hold[:], c.bytes(16))
	if op.kind == renew {
		op.ttl = c.positive()
	}
	if c.bad {
		return op, errCut
	}
	return op, nil
}

func decodeOwn(c *cutter) (o ownRanges, err error) {
	o.version = c.uvarint()
	for range min(c.uvarint(), slotCount+1) {
		r := slotRange{from: uint16(c.fixed(2)), to: uint16(c.fixed(2)), shard: uint32(c.fixed(4))}
		if r.from > r.to || r.to >= slotCount {
			return o, fmt.Errorf("it has the slots %d to %d", r.from, r.to)
		}
		o.ranges = append(o.ranges, r)
	}
	return o, nil
}

// decodeSet reads a set of limits.
func decodeSet(raw []byte) (*numbers, error) {
	c := cutter{b: raw}
	s := &numbers{policy: c.text(), revision: c.uvarint()}
	n := c.uvarint()
	flags := n >> 7
	if n &= 0x7f; n > 64 || flags > 15 || flags&3 == 3 {
		return nil, fmt.Errorf("it has %d limits and the flags %#x", n, flags)
	}
	s.shadow, s.off = flags&1 != 0, flags&2 != 0
	for range n {
		l := limit{name: c.text(), algorithm: byte(c.fixed(1)), rate: c.positive(), per: c.positive(), burst: c.positive()}
		s.limits = append(s.limits, l)
	}
	if flags&4 != 0 {
		zone, err := decodeZone(&c)
		if err != nil {
			return nil, err
		}
		for i := range s.limits {
			if l := &s.limits[i]; l.algorithm == api.FixedWindow {
				l.zone = zone
			}
		}
	}
	if flags&8 != 0 {
		decodeModes(&c, s)
	}
	switch {
	case c.bad:
		return nil, errCut
	case len(c.b) > 0:
		return nil, errTrailing
	}
	s.complete()
	return s, nil
}

// decodeModes reads the trade-offs of a set, which change nothing for a take that
// is in the log.
func decodeModes(c *cutter, s *numbers) {
	both := c.fixed(1)
	mode, unavailable := both&0x0f, both>>4
	if both == 0 || mode > 2 || unavailable > 2 {
		c.bad = true
	}
	if s.mode = uint8(mode); mode > 0 {
		ms := c.positive()
		c.bad = c.bad || ms == 0
		if mode == 1 {
			s.leaseTTL = ms
		}
	}
	if unavailable > 0 {
		c.positive()
	}
}

// decodeZone reads the shifts of a time zone.
func decodeZone(c *cutter) (zone []api.ZoneShift, err error) {
	n, at := c.uvarint(), int64(0)
	if n < 1 || n > api.MaxZoneShifts {
		return nil, fmt.Errorf("its time zone has %d shifts", n)
	}
	for range n {
		at += int64(c.uvarint() & (1<<40 - 1))
		offset, k := binary.Varint(c.b)
		if k <= 0 {
			return nil, errCut
		}
		c.bytes(uint64(k))
		zone = append(zone, api.ZoneShift{at, offset})
	}
	return zone, api.CheckZone(zone)
}
