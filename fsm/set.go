package fsm

import (
	"bytes"
	"fmt"
	"math/bits"

	"github.com/rlstore/rlstore/api"
)

// set is an interned set of limits.
//
// A set that decodes but can't decide is kept with a reason in refusal: that of
// an unknown policy has no limits, and one that breaks a bound of tokenbucket.go
// is let through by no validation. Its operations fail while the replica lives
// on.
type set struct {
	// Fixed at creation; a capture reads them while Apply runs.
	id       uint32 // local to this machine: never part of a reply or a snapshot
	policy   string
	revision uint64
	names    []string
	limits   []limit
	encoded  []byte
	told     []byte // encoded, without what a reply leaves out
	minBurst int64  // the largest cost that can pass
	hash     uint64 // of policy, for a bucket's hash
	refusal  opError
	shadow   bool  // a take that is denied passes all the same
	off      bool  // a take passes, and nothing is charged
	calendar bool  // a limit goes by the time of day
	leaseTTL int64 // milliseconds that a lease lives at most, or 0: as long as a hold

	concurrency bool // some limit is of concurrency, so permits are what it gives

	refs int // buckets, remembered requests and live holds that refer to it

	// Of the reply being written, valid while mark is its serial number.
	mark  uint64
	index int
}

// newSet builds a set from what api.AppendSetInfo wrote; it copies encoded.
func newSet(encoded string) (*set, error) {
	own := []byte(encoded)
	info, rest, err := api.CutSetInfo(own)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 || !bytes.Equal(api.AppendSetInfo(nil, &info), own) {
		return nil, fmt.Errorf("it is not in its one canonical form")
	}
	s := &set{
		policy: info.Policy, revision: info.Revision, encoded: own, told: own, refusal: refusal(&info),
		shadow: info.Enforcement == api.Shadow, off: info.Enforcement == api.Off, leaseTTL: info.LeaseTTL,
	}
	z := newZone(info.Zone)
	if z != nil {
		info.Zone = nil
		s.told = api.AppendSetInfo(nil, &info)
	}
	s.hash = bits.RotateLeft64(api.Hash(info.Policy), 31) * 0x9e3779b97f4a7c15
	s.minBurst = api.MaxCost
	for _, l := range info.Limits {
		s.names = append(s.names, l.Name)
		lim := limit{rate: uint64(l.Rate), per: uint64(l.Per), burst: l.Burst, algorithm: l.Algorithm}
		if l.Algorithm == api.FixedWindow {
			lim.zone, s.calendar = z, true
		}
		s.limits = append(s.limits, lim)
		if l.Algorithm == api.Concurrency {
			s.concurrency = true
		} else {
			s.minBurst = min(s.minBurst, l.Burst)
		}
	}
	return s, nil
}

// refusal says why the set can't decide, if so.
func refusal(info *api.SetInfo) opError {
	if len(info.Limits) == 0 {
		return opError{api.UnknownPolicy, fmt.Sprintf("there is no policy %.140q", info.Policy)}
	}
	if why := broken(info); why != "" {
		return opError{api.InvalidRequest, why}
	}
	return opError{}
}

// broken says which bound the set breaks, if any.
func broken(info *api.SetInfo) string {
	if len(info.Limits) > maxLimits {
		return fmt.Sprintf("policy %q has %d limits, over %d", info.Policy, len(info.Limits), maxLimits)
	}
	for i, l := range info.Limits {
		month := l.Algorithm == api.FixedWindow && l.Per == 0
		switch {
		case l.Algorithm > api.Concurrency:
			return fmt.Sprintf("limit %q of policy %q has the unknown algorithm %d", l.Name, info.Policy, l.Algorithm)
		case l.Algorithm == api.Concurrency && l.Rate == 0 && l.Per == 0 && l.Burst >= 1 && l.Burst <= maxBurst:
		case l.Rate < 1 || l.Rate > maxRate, l.Burst < 1 || l.Burst > maxBurst, (l.Per < minPer || l.Per > maxPer) && !month,
			l.Algorithm != api.TokenBucket && l.Burst != l.Rate:
			return fmt.Sprintf("limit %q of policy %q is out of bounds: rate %d per %d ns, burst %d",
				l.Name, info.Policy, l.Rate, l.Per, l.Burst)
		}
		for _, other := range info.Limits[:i] {
			if other.Name == l.Name {
				return fmt.Sprintf("policy %q has two limits named %q", info.Policy, l.Name)
			}
		}
	}
	return ""
}

// named returns the index of the limit of this name, or -1.
func (s *set) named(name string) int {
	for i, n := range s.names {
		if n == name {
			return i
		}
	}
	return -1
}

// bucketHash returns the place of a bucket in the hash space that storage and
// sweep share: 40 bits, of which the top 8 are the stripe. key is api.Hash of
// the bucket's key. The mixing matters because a shard sees only the keys of
// its slots, whose hashes agree in their low bits.
func (s *set) bucketHash(key uint64) uint64 { return mix(key^s.hash) >> 24 }

// mix is the finalizer of MurmurHash3: a bijection, so it adds no collisions.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// sets interns sets by their encoding.
//
// Between two entries it holds exactly the sets with refs > 0.
type sets struct {
	byID     []*set // nil where an id is free
	byBytes  map[string]*set
	calendar int // sets that go by the time of day
	free     []uint32
	idle     []*set // may have no reference any more; looked at when the entry ends
}

// intern returns the set of this encoding, making it if need be. A new one
// stays until collect finds it without references.
func (t *sets) intern(encoded string) (*set, error) {
	if s := t.byBytes[encoded]; s != nil {
		return s, nil
	}
	s, err := newSet(encoded)
	if err != nil {
		return nil, err
	}
	if n := len(t.free); n > 0 {
		s.id, t.free = t.free[n-1], t.free[:n-1]
		t.byID[s.id] = s
	} else {
		s.id = uint32(len(t.byID))
		t.byID = append(t.byID, s)
	}
	t.byBytes[string(s.encoded)] = s
	if s.calendar {
		t.calendar++
	}
	t.idle = append(t.idle, s)
	return s, nil
}

// get returns the set of an id, or nil for an id that means nothing.
func (t *sets) get(id uint32) *set {
	if uint64(id) >= uint64(len(t.byID)) {
		return nil
	}
	return t.byID[id]
}

func (t *sets) unref(s *set) {
	if s.refs--; s.refs == 0 {
		t.idle = append(t.idle, s)
	}
}

// collect forgets the sets that nothing refers to.
func (t *sets) collect() {
	for _, s := range t.idle {
		if s.refs == 0 && t.byID[s.id] == s {
			delete(t.byBytes, string(s.encoded))
			if s.calendar {
				t.calendar--
			}
			t.byID[s.id] = nil
			t.free = append(t.free, s.id)
		}
	}
	clear(t.idle)
	t.idle = t.idle[:0]
}
