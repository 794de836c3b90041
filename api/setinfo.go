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
//	        1 shadow, 2 off, 4 a zone follows the limits
//	each limit: uvarint length, name; u8 algorithm: 0 token bucket, 1 fixed
//	        window, 2 sliding window, 3 concurrency; uvarint rate;
//	        uvarint per (ns; of a fixed window 0 is a month); uvarint burst
//	zone:   uvarint number of shifts, 1 to 128; each: uvarint seconds since the
//	        one before, of the first 0; varint offset in seconds
//
// A zone is in log entries only: no reply has it.
const (
	maxReplyLimit = 64

	setCount  = 1<<7 - 1
	setShadow = 1 << 7
	setOff    = 1 << 8
	setZone   = 1 << 9
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
	switch flags &^ setZone {
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
	return s, b, nil
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
