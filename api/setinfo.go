package api

import (
	"encoding/binary"
	"fmt"
)

// The algorithms of limits, as numbers in [LimitInfo.Algorithm].
const (
	TokenBucket   uint8 = 0
	FixedWindow   uint8 = 1
	SlidingWindow uint8 = 2
	Concurrency   uint8 = 3
)

// The enforcements of policies, as numbers in [SetInfo.Enforcement].
const (
	Enforce uint8 = 0
	Shadow  uint8 = 1 // decided, but a denial lets pass
	Off     uint8 = 2 // not decided at all
)

// The modes of policies, as numbers in [SetInfo.Mode]. A key of a policy of mode
// auto is strict or leased.
const (
	Strict uint8 = 0 // every take is decided in the log
	Leased uint8 = 1 // takes are spent from tokens that were charged before
	Soft   uint8 = 2 // takes are spent locally, and charged afterwards
)

// What decides takes when the store can't, as numbers in [SetInfo.Unavailable].
const (
	FailClosed uint8 = 0 // they fail
	FailOpen   uint8 = 1 // they pass
	FailLocal  uint8 = 2 // a local bucket decides
)

// Who decided, as numbers in [SetInfo.Source].
const (
	FromStore uint8 = 0
	FromLease uint8 = 1
	FromSoft  uint8 = 2
	FromOpen  uint8 = 3 // the store was unavailable, and the policy says open
	FromLocal uint8 = 4 // the store was unavailable, and the policy says local
)

var (
	modeNames   = [...]string{"strict", "leased", "soft"}
	sourceNames = [...]string{SourceStore, "lease", "soft", "open", "local"}
)

// Sources as decisions name them, but for those of [SetInfo.Source].
const (
	SourceStore = "store" // of all but takes
	SourceOff   = "off"   // of a decision that nobody made, the policy's enforcement being off
)

// LimitInfo is the part of a limit that does not change from result to result.
type LimitInfo struct {
	Name      string
	Algorithm uint8
	Rate      int64 // tokens each Per; 0 of a concurrency limit
	Per       int64 // nanoseconds; of a fixed window 0 is a month; 0 of a concurrency limit
	Burst     int64 // the most that passes at once: of windows Rate, of a concurrency limit its max
}

// SetInfo is the limits that results refer to.
type SetInfo struct {
	Policy      string
	Revision    uint64
	Limits      []LimitInfo
	Enforcement uint8
	Zone        []ZoneShift // what fixed windows are aligned to; none is UTC

	Mode        uint8 // Strict, Leased or Soft
	Unavailable uint8 // FailClosed, FailOpen or FailLocal

	// Milliseconds.
	LeaseTTL       int64 // of Leased
	SyncInterval   int64 // of Soft
	UnavailableFor int64 // of FailOpen and FailLocal; 0 is for as long as it lasts

	Source uint8 // who decided; in replies only
}

// Tightest is the limit with the smallest burst, beyond which no cost ever passes; -1 if
// there is none. Permits take one slot of a concurrency limit, whatever their cost.
func (s *SetInfo) Tightest() (limit int) {
	limit = -1
	for i := range s.Limits {
		if l := &s.Limits[i]; l.Algorithm != Concurrency && (limit < 0 || l.Burst < s.Limits[limit].Burst) {
			limit = i
		}
	}
	return limit
}

// ModeName is the mode as decisions name it.
func (s *SetInfo) ModeName() string { return modeNames[s.Mode] }

// SourceName is the source of a take's decision as it is named there.
func (s *SetInfo) SourceName() string {
	if s.Enforcement == Off {
		return SourceOff
	}
	return sourceNames[s.Source]
}

// ZoneShift is a change of a time zone's offset: the Unix time in seconds from
// which on it holds, and the offset in seconds east of UTC. In a list, the first
// one begins at 0 and holds for all times before the second, also for those
// before 0; and the last one holds for ever.
type ZoneShift [2]int64

// At is the Unix time of the shift, in seconds.
func (z ZoneShift) At() int64 { return z[0] }

// Offset is the seconds that local time is ahead of UTC from then on.
func (z ZoneShift) Offset() int64 { return z[1] }

// Bounds of a list of shifts.
const (
	MaxZoneShifts = 128
	maxZoneAt     = 1 << 33   // in the year 2242: as nanoseconds it fits 64 bits
	maxZoneOffset = 26 * 3600 // more than any zone has had
)

// CheckZone says what is wrong with a list of shifts, or returns nil.
func CheckZone(zone []ZoneShift) error {
	if len(zone) > MaxZoneShifts {
		return fmt.Errorf("%d shifts of a time zone, over %d", len(zone), MaxZoneShifts)
	}
	for i, z := range zone {
		if i == 0 && z.At() != 0 || i > 0 && (z.At() <= zone[i-1].At() || z.At() > maxZoneAt) ||
			z.Offset() < -maxZoneOffset || z.Offset() > maxZoneOffset {
			return fmt.Errorf("shift %d of a time zone is %v", i, z)
		}
	}
	return nil
}

// Limits are encoded so:
//
//	uvarint length, policy; uvarint revision
//	uvarint the number of limits, at most 64, plus 128 times the flags:
//	        1 shadow, 2 off, 4 a zone follows the limits, 8 modes follow
//	        the limits and the zone, 16 a source follows at the end
//	each limit: uvarint length, name; u8 algorithm: 0 token bucket, 1 fixed
//	        window, 2 sliding window, 3 concurrency; uvarint rate;
//	        uvarint per (ns; of a fixed window 0 is a month); uvarint burst
//	zone:   uvarint number of shifts, 1 to 128; each: uvarint seconds since the
//	        one before, of the first 0; varint offset in seconds
//	modes:  u8 bits 0-3 mode: 0 strict, 1 leased, 2 soft; bits 4-7 what decides
//	        when the store can't: 0 nobody, 1 it is allowed, 2 a local bucket;
//	        not both 0; then in milliseconds, each at most 2^40:
//	        leased: uvarint how long a lease may live, from 1
//	        soft: uvarint the interval of syncs, from 1
//	        if bits 4-7 are not 0: uvarint how long that holds, 0 is for ever
//	source: u8 who decided: 1 a lease, 2 a soft bucket, 3 nobody: it is
//	        allowed, 4 a local bucket
//
// A zone is in log entries only: no reply has it. A source is in replies only.
const (
	maxReplyLimit = 64

	setCount  = 1<<7 - 1
	setShadow = 1 << 7
	setOff    = 1 << 8
	setZone   = 1 << 9
	setModes  = 1 << 10
	setSource = 1 << 11

	maxSetMillis = 1 << 40
)

// AppendSetInfo appends the encoding of limits.
func AppendSetInfo(dst []byte, s *SetInfo) []byte {
	dst = AppendString(dst, s.Policy)
	dst = binary.AppendUvarint(dst, s.Revision)
	n := uint64(len(s.Limits))
	switch s.Enforcement {
	case Shadow:
		n |= setShadow
	case Off:
		n |= setOff
	}
	if len(s.Zone) > 0 {
		n |= setZone
	}
	if s.Mode != Strict || s.Unavailable != FailClosed {
		n |= setModes
	}
	if s.Source != FromStore {
		n |= setSource
	}
	dst = binary.AppendUvarint(dst, n)
	for i := range s.Limits {
		l := &s.Limits[i]
		dst = AppendString(dst, l.Name)
		dst = append(dst, l.Algorithm)
		dst = binary.AppendUvarint(dst, uint64(l.Rate))
		dst = binary.AppendUvarint(dst, uint64(l.Per))
		dst = binary.AppendUvarint(dst, uint64(l.Burst))
	}
	if len(s.Zone) > 0 {
		dst = appendZone(dst, s.Zone)
	}
	if n&setModes != 0 {
		dst = appendModes(dst, s)
	}
	if n&setSource != 0 {
		dst = append(dst, s.Source)
	}
	return dst
}

func appendModes(dst []byte, s *SetInfo) []byte {
	dst = append(dst, s.Mode|s.Unavailable<<4)
	switch s.Mode {
	case Leased:
		dst = binary.AppendUvarint(dst, uint64(s.LeaseTTL))
	case Soft:
		dst = binary.AppendUvarint(dst, uint64(s.SyncInterval))
	}
	if s.Unavailable != FailClosed {
		dst = binary.AppendUvarint(dst, uint64(s.UnavailableFor))
	}
	return dst
}

func appendZone(dst []byte, zone []ZoneShift) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(zone)))
	before := int64(0)
	for _, z := range zone {
		dst = binary.AppendUvarint(dst, uint64(z.At()-before))
		dst = binary.AppendVarint(dst, z.Offset())
		before = z.At()
	}
	return dst
}

// CutSetInfo reads what [AppendSetInfo] wrote off the front of b, aliasing b.
func CutSetInfo(b []byte) (s SetInfo, rest []byte, err error) {
	if s.Policy, b, err = CutString(b); err != nil {
		return s, nil, err
	}
	if s.Revision, b, err = CutUvarint(b); err != nil {
		return s, nil, err
	}
	var n uint64
	if n, b, err = CutUvarint(b); err != nil {
		return s, nil, err
	}
	flags := n &^ setCount
	switch flags &^ (setZone | setModes | setSource) {
	case 0:
	case setShadow:
		s.Enforcement = Shadow
	case setOff:
		s.Enforcement = Off
	default:
		return s, nil, fmt.Errorf("limits with unknown flags %#x", flags)
	}
	if n &= setCount; n > maxReplyLimit {
		return s, nil, fmt.Errorf("%d limits", n)
	}
	s.Limits = make([]LimitInfo, n)
	for i := range s.Limits {
		l := &s.Limits[i]
		if l.Name, b, err = CutString(b); err != nil {
			return s, nil, err
		}
		if len(b) == 0 {
			return s, nil, errShort
		}
		l.Algorithm, b = b[0], b[1:]
		for _, p := range []*int64{&l.Rate, &l.Per, &l.Burst} {
			var v uint64
			if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
				return s, nil, errShort
			}
			*p = int64(v)
		}
	}
	if flags&setZone != 0 {
		if s.Zone, b, err = cutZone(b); err != nil {
			return s, nil, err
		}
	}
	if flags&setModes != 0 {
		if b, err = cutModes(b, &s); err != nil {
			return s, nil, err
		}
	}
	if flags&setSource != 0 {
		if len(b) == 0 || b[0] == FromStore || b[0] > FromLocal {
			return s, nil, errShort
		}
		s.Source, b = b[0], b[1:]
	}
	return s, b, nil
}

func cutModes(b []byte, s *SetInfo) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, errShort
	}
	s.Mode, s.Unavailable, b = b[0]&0x0f, b[0]>>4, b[1:]
	if s.Mode > Soft || s.Unavailable > FailLocal || s.Mode == Strict && s.Unavailable == FailClosed {
		return nil, fmt.Errorf("mode %d, and %d when the store is unavailable", s.Mode, s.Unavailable)
	}
	millis := func(least uint64) (v int64) {
		var n uint64
		if err == nil {
			n, b, err = CutUvarint(b)
		}
		if err == nil && (n < least || n > maxSetMillis) {
			err = fmt.Errorf("a time of %d ms", n)
		}
		return int64(n)
	}
	switch s.Mode {
	case Leased:
		s.LeaseTTL = millis(1)
	case Soft:
		s.SyncInterval = millis(1)
	}
	if s.Unavailable != FailClosed {
		s.UnavailableFor = millis(0)
	}
	return b, err
}

func cutZone(b []byte) (zone []ZoneShift, rest []byte, err error) {
	n, b, err := CutUvarint(b)
	if err != nil || n == 0 || n > MaxZoneShifts {
		return nil, nil, errShort
	}
	zone = make([]ZoneShift, n)
	at := int64(0)
	for i := range zone {
		since, rest, err := CutUvarint(b)
		if err != nil || since > maxZoneAt {
			return nil, nil, errShort
		}
		at += int64(since)
		offset, k := binary.Varint(rest)
		if k <= 0 {
			return nil, nil, errShort
		}
		zone[i], b = ZoneShift{at, offset}, rest[k:]
	}
	return zone, b, CheckZone(zone)
}
