package policy

import (
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Set is the resolved limits of one policy at one revision: plain numbers, all
// that a shard's state machine needs to decide a take. A Set is immutable, and
// shared by all takes that resolve to it.
type Set struct {
	api.SetInfo

	// Encoded is api.AppendSetInfo of the above: what log entries and replies
	// hold, and by which equal sets are recognised.
	Encoded []byte
	// MinBurst is the largest cost that can ever pass: the smallest burst.
	MinBurst int64
	// Overrides is asked for the set of each key; nil if the policy has none. It is
	// no part of what the numbers are.
	Overrides Overrides

	// Hot is, of a policy of mode auto, the set that hot keys have instead, in mode
	// leased; and HotKeys are those that the policy names. Else nil.
	Hot     *Set
	HotKeys map[string]bool
}

// NewSet completes a set from its numbers.
func NewSet(info api.SetInfo) *Set {
	s := &Set{SetInfo: info, Encoded: api.AppendSetInfo(nil, &info)}
	if len(info.Limits) > 0 {
		s.MinBurst = api.MaxCost
	}
	if i := info.Tightest(); i >= 0 {
		s.MinBurst = min(s.MinBurst, info.Limits[i].Burst)
	}
	return s
}

// Unknown is the set of a policy that the catalog does not hold. It has no
// limits, and an operation under it fails with [api.UnknownPolicy]; but before,
// the state machine gives a repeated request its first answer, which it may have
// got while there was such a policy.
func Unknown(name string) *Set { return NewSet(api.SetInfo{Policy: name}) }

// Resolve turns a valid, normalized policy into its set.
func Resolve(p *api.Policy) *Set {
	info := api.SetInfo{
		Policy: p.Name, Revision: p.Revision,
		Enforcement: uint8(max(0, slices.Index(enforcements, p.Enforcement))),
	}
	for _, l := range p.Limits {
		n := api.LimitInfo{
			Name: l.Name, Algorithm: uint8(max(0, slices.Index(algorithms, l.Algorithm))),
			Rate: l.Rate, Per: int64(time.Duration(l.Per)), Burst: l.Burst,
		}
		switch n.Algorithm {
		case api.FixedWindow:
			n.Burst, info.Zone = l.Rate, p.ZoneRules
			if l.Per == api.Month {
				n.Per = 0
			}
		case api.SlidingWindow:
			n.Burst = l.Rate
		case api.Concurrency:
			n.Burst = l.Max
		}
		info.Limits = append(info.Limits, n)
	}
	resolveModes(p, &info)
	s := NewSet(info)
	if p.Mode == Auto {
		s.heat(p)
	}
	return s
}

// heat adds what hot keys have.
func (s *Set) heat(p *api.Policy) {
	q := *p
	q.Mode = leased
	s.Hot = Resolve(&q)
	if s.Hot.Mode != api.Leased {
		s.Hot = nil
		return
	}
	s.HotKeys = make(map[string]bool, len(p.HotKeys))
	for _, k := range p.HotKeys {
		s.HotKeys[k] = true
	}
}
