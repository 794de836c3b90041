package fsm

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// holdSet is a policy with limits that nothing flows into while a test lasts: a
// token bucket of this burst, and a concurrency limit unless slots is 0.
func holdSet(name string, revision uint64, burst, slots int64) *policy.Set {
	info := api.SetInfo{Policy: name, Revision: revision, Limits: []api.LimitInfo{{Name: "a", Rate: 1, Per: maxPer, Burst: burst}}}
	if slots > 0 {
		info.Limits = append(info.Limits, api.LimitInfo{Name: "c", Algorithm: api.Concurrency, Burst: slots})
	}
	return policy.NewSet(info)
}

func holdID(key string, n byte) api.HoldID { return api.NewHoldID(key, [14]byte{n}) }

func reserve(key string, n byte, cost, ttlMS int64) api.Op {
	return api.Op{Kind: api.Reserve, Key: key, Cost: cost, Hold: &api.Hold{ID: holdID(key, n), TTL: ttlMS}}
}

func acquire(key string, n byte, ttlMS int64) api.Op {
	return api.Op{Kind: api.Acquire, Key: key, Cost: 1, Hold: &api.Hold{ID: holdID(key, n), TTL: ttlMS}}
}

func onHold(k api.Kind, key string, n byte, cost int64) api.Op {
	return api.Op{Kind: k, Cost: cost, Hold: &api.Hold{ID: holdID(key, n), TTL: map[bool]int64{true: cost}[k == api.Renew]}}
}

// modelHold and modelEnd are a hold as the model keeps it.
type modelHold struct {
	policy, key    string
	id             api.HoldID
	permit, cancel bool
	cost           int64
	expires        uint64
}

type modelEnd struct {
	modelHold
	by    api.Kind
	asked int64
	out   api.HoldOutcome
	at    uint64
}

// holdModel is a second machine for holds, written from the words of [hold],
// with lists that are searched from end to end.
type holdModel struct {
	now    uint64
	sets   map[string]*policy.Set
	tokens map[bucketName]int64 // spent
	live   []modelHold
	ended  []modelEnd
}

func (m *holdModel) permits(p, key string) (n int64) {
	for _, h := range m.live {
		if h.permit && h.policy == p && h.key == key && h.expires > m.now {
			n++
		}
	}
	return n
}

func (m *holdModel) end(i int, by api.Kind, asked int64) modelEnd {
	h := m.live[i]
	m.live = slices.Delete(m.live, i, i+1)
	e := modelEnd{modelHold: h, by: by, asked: asked, at: m.now}
	if !h.permit {
		name, burst := bucketName{h.policy, h.key}, m.sets[h.policy].Limits[0].Burst
		e.out.Committed = h.cost
		if asked < h.cost {
			e.out.Refunded = min(h.cost-asked, m.tokens[name])
		} else {
			e.out.Charged = max(0, min(asked-h.cost, 2*burst-m.tokens[name]))
		}
		e.out.Committed += e.out.Charged - e.out.Refunded
		m.tokens[name] = max(0, m.tokens[name]+e.out.Charged-e.out.Refunded)
	}
	m.ended = append(m.ended, e)
	return e
}

func (m *holdModel) expire(i int) {
	switch h := m.live[i]; {
	case h.permit:
		m.end(i, api.Release, 0)
	case h.cancel:
		m.end(i, api.Cancel, 0)
	default:
		m.end(i, api.Settle, h.cost)
	}
}

// entry is the beginning of an entry of one operation.
func (m *holdModel) entry(now uint64) {
	m.now = now
	slices.SortFunc(m.live, func(a, b modelHold) int {
		return cmp.Or(cmp.Compare(a.expires, b.expires), bytes.Compare(a.id[:], b.id[:]))
	})
	for range sweepAlways + 2 {
		if len(m.live) > 0 && m.live[0].expires <= now {
			m.expire(0)
		}
	}
}

func (m *holdModel) find(id api.HoldID) (live int, end *modelEnd) {
	live = slices.IndexFunc(m.live, func(h modelHold) bool { return h.id == id })
	for i := range m.ended {
		if e := &m.ended[i]; e.id == id && m.now-e.at < SettledWindow {
			end = e // the last one
		}
	}
	return live, end
}

func (m *holdModel) apply(s *policy.Set, op api.Op) string {
	name := bucketName{s.Policy, op.Key}
	burst, slots := s.Limits[0].Burst, int64(0)
	if len(s.Limits) > 1 {
		slots = s.Limits[1].Burst
	}
	left := func() string {
		if slots > 0 {
			return fmt.Sprintf(" %d %d", max(0, burst-m.tokens[name]), max(0, slots-m.permits(s.Policy, op.Key)))
		}
		return fmt.Sprintf(" %d", max(0, burst-m.tokens[name]))
	}
	switch op.Kind {
	case api.Take:
		switch {
		case slots > 0:
			return "error permit-required"
		case op.Cost > burst:
			return "error cost-exceeds-burst"
		case op.Cost > burst-m.tokens[name]:
			return "denied" + left()
		}
		m.tokens[name] += op.Cost
		return "allowed" + left()
	case api.Refund:
		m.tokens[name] = max(0, m.tokens[name]-op.Cost)
		return "refunded" + left()
	case api.Reset:
		delete(m.tokens, name)
		m.live = slices.DeleteFunc(m.live, func(h modelHold) bool { return h.policy == s.Policy && h.key == op.Key })
		return "reset"
	}
	at, e := m.find(op.Hold.ID)
	if op.Kind.MakesHold() {
		permit := op.Kind == api.Acquire
		same := func(h modelHold) bool {
			return h.permit == permit && h.policy == s.Policy && h.key == op.Key && h.cost == op.Cost
		}
		switch {
		case at >= 0 && !same(m.live[at]), at < 0 && e != nil && !same(e.modelHold):
			return "error request-id-reused"
		case at >= 0, e != nil:
			return "held again" + left()
		case !permit && slots > 0:
			return "error permit-required"
		case permit && slots == 0:
			return "error invalid-request"
		case op.Cost > burst:
			return "error cost-exceeds-burst"
		case op.Cost > burst-m.tokens[name], permit && m.permits(s.Policy, op.Key) >= slots:
			return "denied" + left()
		}
		m.tokens[name] += op.Cost
		m.live = append(m.live, modelHold{s.Policy, op.Key, op.Hold.ID, permit, op.Hold.CancelOnExpiry, op.Cost, m.now + uint64(op.Hold.TTL)*1_000_000})
		return "held" + left()
	}
	permit := op.Kind == api.Renew || op.Kind == api.Release
	if at >= 0 && m.live[at].expires <= m.now {
		m.expire(at)
		at, e = m.find(op.Hold.ID)
	}
	text := func(e *modelEnd, again string) string {
		if permit {
			return "released" + again
		}
		return fmt.Sprintf("settled%s %d-%d+%d", again, e.out.Committed, e.out.Refunded, e.out.Charged)
	}
	switch {
	case at >= 0 && m.live[at].permit != permit, at < 0 && (e == nil || e.permit != permit):
		return "error not-found"
	case at >= 0 && op.Kind == api.Renew:
		m.live[at].expires = m.now + uint64(op.Hold.TTL)*1_000_000
		return "renewed"
	case at >= 0:
		done := m.end(at, op.Kind, op.Cost)
		return text(&done, "")
	case e.by != op.Kind, op.Kind == api.Settle && e.asked != op.Cost:
		return "error already-settled"
	}
	return text(e, " again")
}

func holdText(r *api.Result) string {
	if r.Status == api.StatusError {
		return "error " + string(r.Code)
	}
	out := map[api.Status]string{api.StatusDenied: "denied", api.StatusAllowed: "allowed", api.StatusRefunded: "refunded",
		api.StatusReset: "reset", api.StatusHeld: "held", api.StatusSettled: "settled", api.StatusReleased: "released", api.StatusRenewed: "renewed",
		api.StatusState: "state", api.StatusLeased: "leased"}[r.Status]
	if r.Duplicate {
		out += " again"
	}
	for _, v := range r.Limits {
		out += fmt.Sprint(" ", v.Remaining)
	}
	if r.Status == api.StatusLeased {
		out += fmt.Sprintf(" of %d", r.Hold.Granted)
	}
	if r.Status == api.StatusSettled {
		out += fmt.Sprintf(" %d-%d+%d", r.Hold.Committed, r.Hold.Refunded, r.Hold.Charged)
	}
	return out
}

// TestHoldsAreTheModels compares answers over random histories, in which the
// machine is replaced by a restored one now and then. Rapid prints the seed of a
// failure.
func TestHoldsAreTheModels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		m := &holdModel{sets: map[string]*policy.Set{}, tokens: map[bucketName]int64{}}
		revision := uint64(1)
		m.sets["r"], m.sets["p"] = holdSet("r", 1, 20, 0), holdSet("p", 1, 30, 3)
		var now uint64
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 3*second), rapid.Uint64Range(0, 400*second)).Draw(t, "dt")
			s := m.sets[rapid.SampledFrom([]string{"r", "p"}).Draw(t, "policy")]
			if rapid.IntRange(0, 15).Draw(t, "edit") == 0 { // of the slots only: edits of tokens have their own test
				revision++
				s = holdSet("p", revision, 30, rapid.Int64Range(1, 5).Draw(t, "slots"))
				m.sets["p"] = s
			}
			op := api.Op{
				Kind: rapid.SampledFrom([]api.Kind{api.Take, api.Refund, api.Reset, api.Reserve, api.Reserve, api.Reserve, api.Settle, api.Settle,
					api.Cancel, api.Acquire, api.Acquire, api.Acquire, api.Acquire, api.Renew, api.Release, api.Release}).Draw(t, "kind"),
			}
			key := rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key")
			if op.Kind == api.Take || op.Kind == api.Refund || op.Kind.MakesHold() {
				op.Cost = rapid.Int64Range(1, 8).Draw(t, "cost")
			}
			if op.Kind == api.Settle {
				op.Cost = rapid.OneOf(rapid.Int64Range(0, 9), rapid.Int64Range(0, 60)).Draw(t, "settle")
			}
			if !op.Kind.OnHold() {
				op.Key = key
			}
			if op.Kind >= api.Reserve {
				op.Hold = &api.Hold{ID: holdID(key, rapid.ByteRange(0, 9).Draw(t, "id"))}
				if op.Kind.MakesHold() || op.Kind == api.Renew {
					op.Hold.TTL = rapid.Int64Range(1, 5000).Draw(t, "ttl")
				}
				op.Hold.CancelOnExpiry = op.Kind == api.Reserve && rapid.Bool().Draw(t, "cancel")
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				restart(t, r)
			}
			m.entry(now)
			var b api.Batch
			b.Add(op)
			results, _ := r.do(now, &b, s)
			if got, want := holdText(&results[0]), m.apply(s, op); got != want {
				t.Fatalf("at %d: %v %d of %q under %s@%d %+v\ngot  %s\nwant %s", now, op.Kind, op.Cost, op.Key, s.Policy, s.Revision, op.Hold, got, want)
			}
		}
	})
}

// restart replaces the machine by one restored from its snapshot.
func restart(t failer, r *rig) {
	t.Helper()
	c := r.m.Capture()
	defer c.Release()
	var file, again bytes.Buffer
	if _, err := c.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	m := NewBuckets(testShard)
	if err := m.Restore(bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	d := m.Capture()
	defer d.Release()
	if _, err := d.WriteTo(&again); err != nil || !bytes.Equal(file.Bytes(), again.Bytes()) {
		t.Fatal("the restored machine's snapshot differs", err)
	}
	r.m = m
}

func want(t *testing.T, what string, r api.Result, text string) {
	t.Helper()
	if got := holdText(&r); got != text {
		t.Errorf("%s: %s, want %s", what, got, text)
	}
}

func TestAWindowGetsBackOnlyWhatWasChargedToIt(t *testing.T) {
	for _, tt := range []struct {
		name      string
		algorithm uint8
		remaining [3]int64 // after the cancel in the same window, in the next, in the one after that
		settled   [3]string
	}{
		{"fixed", api.FixedWindow, [3]int64{9, 9, 9}, [3]string{"0-6+0", "6-0+0", "6-0+0"}},
		// In the next one, the window before counts in full at its very start.
		{"sliding", api.SlidingWindow, [3]int64{9, 9, 9}, [3]string{"0-6+0", "0-6+0", "6-0+0"}},
	} {
		for later, remaining := range tt.remaining {
			t.Run(fmt.Sprint(tt.name, later), func(t *testing.T) {
				r := newRig(t)
				s := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: []api.LimitInfo{{Name: "w", Algorithm: tt.algorithm, Rate: 10, Per: 60 * second, Burst: 10}}})
				want(t, "reserve", r.one(0, s, reserve("k", 1, 6, 1_000_000)), "held 4")
				now := uint64(later) * 60 * second
				left := r.one(now, s, api.Op{Kind: api.Peek, Key: "k"}).Limits[0].Remaining
				want(t, "take", r.one(now, s, take("k", 1)), fmt.Sprint("allowed ", left-1))
				want(t, "cancel", r.one(now, s, onHold(api.Cancel, "k", 1, 0)), "settled "+tt.settled[later])
				if got := r.one(now, s, api.Op{Kind: api.Peek, Key: "k"}); got.Limits[0].Remaining != remaining {
					t.Errorf("%d are left, want %d: of the take nothing came back", got.Limits[0].Remaining, remaining)
				}
			})
		}
	}
}

// TestAFullBucketGetsNothingBack, and the settlement says so; nor more than it has
// room for.
func TestAFullBucketGetsNothingBack(t *testing.T) {
	r := newRig(t)
	s := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: []api.LimitInfo{{Name: "b", Rate: 1, Per: second, Burst: 10}}})
	want(t, "reserve", r.one(0, s, reserve("k", 1, 6, 1_000_000)), "held 4")
	want(t, "reserve", r.one(0, s, reserve("k", 2, 4, 1_000_000)), "held 0")
	want(t, "commit", r.one(8*second, s, onHold(api.Settle, "k", 1, 1)), "settled 4-2+0")
	want(t, "cancel", r.one(8*second, s, onHold(api.Cancel, "k", 2, 0)), "settled 4-0+0")
	want(t, "cancel", r.one(8*second, s, onHold(api.Cancel, "k", 2, 0)), "settled again 4-0+0")
}

func TestALimitThatBecameAnotherGetsNothingBack(t *testing.T) {
	r := newRig(t)
	before := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: []api.LimitInfo{{Name: "w", Algorithm: api.SlidingWindow, Rate: 10, Per: 60 * second, Burst: 10}}})
	after := policy.NewSet(api.SetInfo{Policy: "p", Revision: 2, Limits: []api.LimitInfo{{Name: "w", Algorithm: api.SlidingWindow, Rate: 10, Per: 90 * second, Burst: 10}, {Name: "new", Rate: 1, Per: maxPer, Burst: 5}}})
	want(t, "reserve", r.one(0, before, reserve("k", 1, 6, 1_000_000)), "held 4")
	want(t, "take", r.one(second, after, take("k", 2)), "allowed 2 3")
	want(t, "cancel", r.one(2*second, after, onHold(api.Cancel, "k", 1, 0)), "settled 6-0+0")
	want(t, "peek", r.one(2*second, after, take("k", 2)), "allowed 0 1")
}

func TestACommitChargesIntoDebtDownToOneBurst(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    api.LimitInfo
	}{
		{"token bucket", api.LimitInfo{Rate: 1, Per: maxPer, Burst: 10}},
		{"fixed window", api.LimitInfo{Algorithm: api.FixedWindow, Rate: 10, Per: maxPer, Burst: 10}},
		{"sliding window", api.LimitInfo{Algorithm: api.SlidingWindow, Rate: 10, Per: maxPer, Burst: 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.l.Name = "l"
			// The limit with the least credit decides for all.
			s := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: []api.LimitInfo{tt.l, {Name: "wide", Rate: 1, Per: maxPer, Burst: 1000}}})
			want(t, "reserve", r.one(0, s, reserve("k", 1, 4, 1_000_000)), "held 6 996")
			want(t, "commit", r.one(0, s, onHold(api.Settle, "k", 1, 100)), "settled 20-0+16")
			want(t, "peek", r.one(0, s, api.Op{Kind: api.Refund, Key: "k", Cost: 12}), "refunded 2 992")
		})
	}
	t.Run("the largest burst", func(t *testing.T) { // a level can't hold a debt of a whole burst
		r := newRig(t)
		s := holdSet("p", 1, maxBurst, 0)
		want(t, "reserve", r.one(0, s, reserve("k", 1, maxBurst-5, 1_000_000)), "held 5")
		want(t, "commit", r.one(0, s, onHold(api.Settle, "k", 1, api.MaxCost)), fmt.Sprintf("settled %d-0+5", maxBurst))
		want(t, "reserve", r.one(0, s, reserve("k", 2, 1, 1_000_000)), "denied 0")
	})
}

func TestTheRetryAfterOfAPermitIsTheExpiryThatFreesASlot(t *testing.T) {
	r := newRig(t)
	s := holdSet("p", 1, 100, 3)
	for i, ttl := range []int64{5000, 1000, 3000} {
		want(t, "acquire", r.one(0, s, acquire("k", byte(i), ttl)), fmt.Sprintf("held %d %d", 99-i, 2-i))
	}
	denied := r.one(500_000_000, s, acquire("k", 9, 1000))
	if v := denied.Limits[1]; denied.Status != api.StatusDenied || denied.Binding != 1 || v.RetryAfter != 500_000 || v.ResetAfter != 4_500_000 {
		t.Errorf("%+v", denied)
	}
	// With fewer slots it takes two expiries more.
	denied = r.one(500_000_000, holdSet("p", 2, 100, 1), acquire("k", 9, 1000))
	if v := denied.Limits[1]; v.Remaining != 0 || v.RetryAfter != 4_500_000 {
		t.Errorf("%+v", denied)
	}
	denied = r.one(4_999_999_999, holdSet("p", 2, 100, 1), acquire("k", 9, 1000))
	if denied.Status != api.StatusDenied || denied.Limits[1].RetryAfter != 1 {
		t.Errorf("%+v", denied)
	}
	want(t, "acquire", r.one(5*second, holdSet("p", 2, 100, 1), acquire("k", 9, 1000)), "held 96 0")
}

func TestAPermitCountsWhereTheLimitIsOfConcurrencyNow(t *testing.T) {
	r := newRig(t)
	set := func(revision uint64, limits ...api.LimitInfo) *policy.Set {
		return policy.NewSet(api.SetInfo{Policy: "p", Revision: revision, Limits: limits})
	}
	slots := func(name string, n int64) api.LimitInfo {
		return api.LimitInfo{Name: name, Algorithm: api.Concurrency, Burst: n}
	}
	bucket := func(name string, n int64) api.LimitInfo {
		return api.LimitInfo{Name: name, Rate: 1, Per: maxPer, Burst: n}
	}
	s := set(1, slots("c", 3))
	want(t, "first", r.one(0, s, acquire("k", 1, 60_000)), "held 2")
	want(t, "second", r.one(0, s, acquire("k", 2, 60_000)), "held 1")
	// A limit that is new counts the permits that there are.
	s = set(2, slots("c", 3), slots("d", 2))
	want(t, "third", r.one(0, s, acquire("k", 3, 60_000)), "denied 1 0")
	// A limit that was of concurrency has consumed what was held.
	s = set(3, bucket("c", 10), slots("d", 4))
	want(t, "fourth", r.one(0, s, acquire("k", 4, 60_000)), "held 7 1")
	// And what was consumed of a bucket is no permit.
	s = set(4, slots("c", 4), slots("d", 4))
	want(t, "fifth", r.one(0, s, acquire("k", 5, 60_000)), "held 0 0")
	// Without such a limit there are no permits to be had, and those that there
	// are can still be renewed and released.
	s = set(5, bucket("b", 10))
	want(t, "sixth", r.one(0, s, acquire("k", 6, 60_000)), "error invalid-request")
	want(t, "renew", r.one(0, s, onHold(api.Renew, "k", 1, 60_000)), "renewed")
	want(t, "release", r.one(0, s, onHold(api.Release, "k", 2, 0)), "released")
	want(t, "take", r.one(0, s, take("k", 1)), "allowed 9")
	s = set(6, slots("c", 4))
	want(t, "seventh", r.one(0, s, acquire("k", 7, 60_000)), "held 0")
	// A bucket with permits is not swept, so an older revision does not decide.
	for range 20 {
		r.apply(EncodeTick(second))
	}
	want(t, "eighth, by a router that is behind", r.one(second, set(1, slots("c", 300)), acquire("k", 8, 60_000)), "denied 0")
}

// TestARepetitionIsRecognisedWhateverBecameOfThePolicy: what made a hold makes no
// second one, and is no error, when an edit has come in between.
func TestARepetitionIsRecognisedWhateverBecameOfThePolicy(t *testing.T) {
	r := newRig(t)
	want(t, "reserve", r.one(0, holdSet("p", 1, 100, 0), reserve("k", 1, 10, 60_000)), "held 90")
	want(t, "again, where permits are needed", r.one(0, holdSet("p", 2, 100, 1), reserve("k", 1, 10, 60_000)), "held again 90 1")
	want(t, "acquire", r.one(0, holdSet("p", 2, 100, 1), acquire("k", 2, 60_000)), "held 89 0")
	want(t, "again, where there are none", r.one(0, holdSet("p", 3, 100, 0), acquire("k", 2, 60_000)), "held again 89")
	want(t, "another one", r.one(0, holdSet("p", 3, 100, 0), acquire("k", 3, 60_000)), "error invalid-request")
}

func TestWhatIsNotEnforcedHoldsNothing(t *testing.T) {
	r := newRig(t)
	set := func(revision uint64, enforcement uint8, slots int64) *policy.Set {
		info := holdSet("p", revision, 5, slots).SetInfo
		info.Enforcement = enforcement
		return policy.NewSet(info)
	}
	s := set(1, api.Shadow, 1)
	want(t, "within the limit", r.one(0, s, acquire("k", 1, 60_000)), "held 4 0")
	beyond := r.one(0, s, acquire("k", 2, 60_000))
	want(t, "beyond it", beyond, "held 4 0")
	if !beyond.Shadowed || beyond.Limits[1].RetryAfter != 60_000_000 {
		t.Errorf("%+v", beyond)
	}
	want(t, "release", r.one(0, s, onHold(api.Release, "k", 2, 0)), "released")
	want(t, "still none", r.one(0, set(2, api.Enforce, 1), acquire("k", 3, 60_000)), "denied 4 0")
	want(t, "off", r.one(0, set(3, api.Off, 1), acquire("k", 4, 60_000)), "held 4 0")
	want(t, "renew", r.one(0, s, onHold(api.Renew, "k", 4, 70_000)), "renewed")
	want(t, "release", r.one(0, s, onHold(api.Release, "k", 4, 0)), "released")

	s = policy.NewSet(api.SetInfo{Policy: "r", Revision: 1, Enforcement: api.Shadow, Limits: holdSet("r", 1, 5, 0).Limits})
	want(t, "reserve", r.one(0, s, reserve("k", 11, 4, 60_000)), "held 1")
	want(t, "beyond", r.one(0, s, reserve("k", 12, 4, 60_000)), "held 1")
	want(t, "commit", r.one(0, s, onHold(api.Settle, "k", 12, 5)), "settled 0-0+0")
	want(t, "again", r.one(0, s, onHold(api.Settle, "k", 12, 5)), "settled again 0-0+0")
	want(t, "what was charged", r.one(0, s, onHold(api.Cancel, "k", 11, 0)), "settled 0-4+0")
	want(t, "all is there", r.one(0, s, take("k", 5)), "allowed 0")
}

func TestTheMemoryForHoldsIsBounded(t *testing.T) {
	r := newRig(t)
	r.m.holds.max, r.m.holds.maxEnds = 3, 2
	s := holdSet("r", 1, 100, 0)
	for i := range byte(3) {
		want(t, "reserve", r.one(0, s, reserve("k", i, 1, 60_000)), fmt.Sprint("held ", 99-i))
	}
	if full := r.one(0, s, reserve("k", 3, 1, 60_000)); full.Code != api.Overloaded {
		t.Errorf("%+v", full)
	}
	for i := range byte(3) {
		want(t, "commit", r.one(0, s, onHold(api.Settle, "k", i, 1)), "settled 1-0+0")
	}
	want(t, "the oldest end", r.one(0, s, onHold(api.Settle, "k", 0, 1)), "error not-found")
	want(t, "the next one", r.one(0, s, onHold(api.Settle, "k", 1, 1)), "settled again 1-0+0")
	want(t, "the next one, later", r.one(SettledWindow, s, onHold(api.Settle, "k", 1, 1)), "error not-found")
	if st := r.m.Stats(); st.Holds != 0 || st.Settled != 0 {
		t.Errorf("%+v", st)
	}
	if len(r.m.holds.byBucket) != 0 || len(r.m.holds.due) != 0 || len(r.m.holds.ends.byID) != 0 {
		t.Error("something is left behind")
	}
}

// Many expire at once, and few entries come: each settles some, and permits that
// are overdue do not count all the same.
func TestOverdueHoldsAreSettledAsEntriesCome(t *testing.T) {
	r := newRig(t)
	s, p := holdSet("r", 1, 1000, 0), holdSet("p", 1, 1000, 100)
	for i := range byte(100) {
		op := reserve("k", i, 1, 1000)
		op.Hold.CancelOnExpiry = true
		r.one(0, s, op)
		r.one(0, p, acquire("l", i, 1000))
	}
	if st := r.m.Stats(); st.Holds != 200 || st.Sets != 2 {
		t.Fatalf("%+v", st)
	}
	want(t, "one more", r.one(second-1, p, acquire("l", 100, 1000)), "denied 900 0")
	want(t, "one more", r.one(second, p, acquire("l", 100, 1000)), "held 899 99")
	if st := r.m.Stats(); st.Holds != 201-sweepAlways-2 {
		t.Errorf("%d holds are left after one operation", st.Holds)
	}
	want(t, "one that is overdue", r.one(second, s, onHold(api.Settle, "k", 99, 1)), "error already-settled")
	r.apply(EncodeTick(second))
	if st := r.m.Stats(); st.Holds != 1 || st.Settled != 200 {
		t.Errorf("%+v", st)
	}
	want(t, "all came back", r.one(second, s, take("k", 1000)), "allowed 0")
}
