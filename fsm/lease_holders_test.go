package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// holders spend one bucket from memory, hundreds of them, while others take from
// it through the log. Some crash: they spend what they have at the last moment,
// and never settle.
type holders struct {
	t    *testing.T
	r    *rig
	rand *rand.Rand
	s    *policy.Set
	now  uint64
	next uint64 // serial number of the next lease

	live []*holderLease

	// In tokens, since the beginning.
	charged, returned, spentAndSettled, expired int64
	before                                      uint64 // expired, as told by machines that this one was restored from

	admitted []spending
}

type holderLease struct {
	id             api.HoldID
	granted, spent int64
	expires        uint64
}

type spending struct {
	at     uint64
	tokens int64
}

func (h *holders) admit(tokens int64) {
	if tokens > 0 {
		h.admitted = append(h.admitted, spending{h.now, tokens})
	}
}

// spend lets a holder spend from memory.
func (h *holders) spend(l *holderLease, most int64) {
	n := min(most, l.granted-l.spent)
	l.spent += n
	h.admit(n)
}

func (h *holders) ask(want, need, ttlMS int64) {
	h.next++
	l := &holderLease{id: api.NewHoldID("k", [14]byte{1, byte(h.next), byte(h.next >> 8), byte(h.next >> 16)})}
	res := h.r.one(h.now, h.s, api.Op{Kind: api.Lease, Key: "k", Cost: want, Hold: &api.Hold{ID: l.id, TTL: ttlMS, Need: need}})
	if res.Status == api.StatusLeased {
		l.granted, l.expires = res.Hold.Granted, h.now+uint64(ttlMS)*1_000_000
		h.charged += l.granted
		h.live = append(h.live, l)
		if l.granted < need || l.granted > want {
			h.t.Fatalf("%d tokens to one who wants %d and needs %d", l.granted, want, need)
		}
	} else if res.Status != api.StatusDenied {
		h.t.Fatalf("%+v", res)
	}
}

func (h *holders) settle(i int) {
	l := h.live[i]
	res := h.r.one(h.now, h.s, api.Op{Kind: api.Settle, Cost: l.spent, Hold: &api.Hold{ID: l.id}})
	if res.Status != api.StatusSettled || res.Hold.Committed != l.spent || res.Hold.Refunded != l.granted-l.spent {
		h.t.Fatalf("a lease of %d, of which %d are spent: %+v, %+v", l.granted, l.spent, res, res.Hold)
	}
	h.spentAndSettled += l.spent
	h.returned += l.granted - l.spent
	h.live = slices.Delete(h.live, i, i+1)
}

// everybody spends at once what is leased, and takes what is left through the log.
func (h *holders) everybody(cost int64) {
	for _, l := range h.live {
		h.spend(l, l.granted)
	}
	for h.r.one(h.now, h.s, take("k", cost)).Status == api.StatusAllowed {
		h.admit(cost)
	}
}

// pass lets time pass. Who crashed spends all in the last nanosecond.
func (h *holders) pass(to uint64) {
	slices.SortFunc(h.live, func(a, b *holderLease) int { return int(int64(a.expires - b.expires)) })
	for len(h.live) > 0 && h.live[0].expires <= to {
		l := h.live[0]
		if h.rand.IntN(4) > 0 {
			h.now = l.expires - 1
			h.spend(l, l.granted)
		}
		h.expired += l.granted
		h.live = h.live[1:]
	}
	h.now = to
}

// conserved checks that every token charged for a lease is accounted for.
func (h *holders) conserved() {
	h.t.Helper()
	outstanding := int64(0)
	for _, l := range h.live {
		outstanding += l.granted
	}
	h.r.apply(EncodeTick(h.now)) // until then it does not know how late it is
	st := h.r.m.Stats()
	st.Expired += h.before
	if h.charged != h.spentAndSettled+h.returned+h.expired+outstanding || st.Leased+int64(st.Expired) != outstanding+h.expired {
		h.t.Fatalf("charged %d, spent %d, returned %d, expired %d, outstanding %d; the machine has %d outstanding and %d expired",
			h.charged, h.spentAndSettled, h.returned, h.expired, outstanding, st.Leased, st.Expired)
	}
}

// TestHoldersNeverExceedALimit has hundreds of holders come, spend, settle, idle
// and crash over hours of cluster time, now and then all of them spending at
// once. No token gets lost or doubled on the way, and what passes keeps to the
// limit over every interval, not only in the sum.
func TestHoldersNeverExceedALimit(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, l := range []api.LimitInfo{
		{Algorithm: api.TokenBucket, Rate: 49_000, Per: 7 * second, Burst: 20_000},
		{Algorithm: api.TokenBucket, Rate: 100, Per: second, Burst: 300},
		{Algorithm: api.FixedWindow, Rate: 20_000, Per: 10 * second, Burst: 20_000},
		{Algorithm: api.SlidingWindow, Rate: 20_000, Per: 10 * second, Burst: 20_000},
	} {
		t.Run(fmt.Sprintf("algorithm %d, burst %d", l.Algorithm, l.Burst), func(t *testing.T) {
			l.Name = "l"
			h := &holders{t: t, r: newRig(t), rand: rand.New(rand.NewPCG(seed, uint64(l.Burst))), s: limitSet(l)}
			most := 0
			for step := range 12_000 {
				h.pass(h.now + h.rand.Uint64N([]uint64{1, second / 1000, second / 100, second / 5}[h.rand.IntN(4)]))
				n := h.rand.IntN(100)
				switch {
				case n < 35:
					want := 1 + h.rand.Int64N(l.Burst/100)
					h.ask(want, 1+h.rand.Int64N(min(want, 3)), 1+h.rand.Int64N(60_000))
				case n < 60 && len(h.live) > 0:
					h.spend(h.live[h.rand.IntN(len(h.live))], 1+h.rand.Int64N(10))
				case n < 75 && len(h.live) > 0:
					h.settle(h.rand.IntN(len(h.live)))
				case n < 80 && len(h.live) > 0: // a renewal
					h.settle(h.rand.IntN(len(h.live)))
					h.ask(1+h.rand.Int64N(20), 1, 5000)
				case h.rand.IntN(50) == 0:
					h.everybody(l.Burst / 100)
				case n < 98:
					cost := 1 + h.rand.Int64N(l.Burst/100)
					if h.r.one(h.now, h.s, take("k", cost)).Status == api.StatusAllowed {
						h.admit(cost)
					}
				case n < 99:
					h.before += h.r.m.Stats().Expired
					restart(t, h.r)
				}
				most = max(most, len(h.live))
				if n%2 == 0 { // else the next operation meets leases that are overdue
					h.conserved()
				}
				if step == 6000 { // a long while in which nothing happens, and then all that the limit lets pass
					h.pass(h.now + 3600*second)
					for range 20 {
						h.ask(l.Burst/100, 1, 60_000)
					}
					h.everybody(l.Burst / 100)
				}
			}
			switch l.Algorithm {
			case api.TokenBucket:
				h.checkBucket(l)
			default:
				h.checkWindows(l)
			}
			t.Logf("%d leases, up to %d at a time; %d times tokens passed; charged %d, spent %d, returned %d, expired %d",
				h.next, most, len(h.admitted), h.charged, h.spentAndSettled, h.returned, h.expired)
			if most < 50 || h.returned == 0 || h.expired == 0 {
				t.Error("the history did not reach far")
			}
		})
	}
}

// checkBucket looks at every interval that begins and ends when tokens pass: they
// are at most the burst and what flows in, in units of 1/per tokens.
func (h *holders) checkBucket(l api.LimitInfo) {
	var sum, most int64 // passed so far; the most that did in any interval, less the flow
	deepest := int64(0) // of sum less the flow, before any admission
	for _, a := range h.admitted {
		flow := int64(a.at) * l.Rate
		if before := sum - flow; before < deepest || sum == 0 {
			deepest = before
		}
		sum += a.tokens * l.Per
		most = max(most, sum-flow-deepest)
	}
	if most > l.Burst*l.Per {
		h.t.Errorf("%d tokens passed beyond the flow, with a burst of %d", most/l.Per, l.Burst)
	}
	if most < l.Burst*l.Per*3/4 {
		h.t.Errorf("never more than %d tokens passed beyond the flow: the test shows little", most/l.Per)
	}
}

// checkWindows adds up what passed in each window.
func (h *holders) checkWindows(l api.LimitInfo) {
	passed := map[uint64]int64{}
	most := int64(0)
	for _, a := range h.admitted {
		w := a.at / uint64(l.Per)
		if passed[w] += a.tokens; passed[w] > l.Rate {
			h.t.Fatalf("%d tokens passed in the window that begins at %d ns", passed[w], w*uint64(l.Per))
		}
		most = max(most, passed[w])
	}
	if most < l.Rate*3/4 {
		h.t.Errorf("no window had more than %d of %d tokens: the test shows little", most, l.Rate)
	}
}
