package fsm

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// oracle is a second machine, written from the contract's words, and naively: it
// never drops a bucket.
type oracle struct {
	buckets map[string]*oracleBucket // by policy and key
	clock   clock
	leases  []oracleLease
}

type oracleBucket struct {
	o      *oracle
	name   string // policy and key
	at     uint64
	set    *oracleSet
	limits map[string]model // by the limit's name
	leased int64
}

// oracleSet is a set and the zone that its rules are of.
type oracleSet struct {
	*policy.Set
	loc *time.Location
}

func rat(v int64) *big.Rat { return new(big.Rat).SetInt64(v) }

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) } // Euclidean: the floor, as Denom > 0

func ceil(r *big.Rat) *big.Int {
	return new(big.Int).Neg(floor(new(big.Rat).Neg(r)))
}

func minRat(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

// view returns the bucket as it stands at now under set, without storing it.
func (o *oracle) view(s *oracleSet, key string, now uint64) *oracleBucket {
	return o.viewOf(s, s.Policy+"\x00"+key, now)
}

func (o *oracle) viewOf(s *oracleSet, name string, now uint64) *oracleBucket {
	wall := o.clock.wall(now)
	v := &oracleBucket{o: o, name: name, at: now, set: s, limits: map[string]model{}, leased: o.out(name, now)}
	for _, l := range s.Limits {
		v.limits[l.Name] = freshModel(l, s.loc, now, wall)
	}
	if b := o.buckets[name]; b != nil {
		for _, l := range b.set.Limits {
			old := b.limits[l.Name].clone()
			o.advance(old, name, b.at, now)
			for _, to := range s.Limits {
				if to.Name == l.Name {
					v.limits[l.Name] = editModel(old, to, s.loc, now, wall)
				}
			}
		}
	}
	for _, m := range v.limits {
		m.lease(v.leased)
	}
	return v
}

func (o *oracle) put(b *oracleBucket) { o.buckets[b.name] = b }

func (b *oracleBucket) wait(cost int64) *big.Int {
	longest := new(big.Int)
	for name := range b.limits {
		if w := b.limitWait(name, cost); w.Cmp(longest) > 0 {
			longest = w
		}
	}
	return longest
}

// apply returns what a result should say.
func (o *oracle) apply(s *oracleSet, op api.Op, now uint64) string {
	switch op.Kind {
	case api.Lease:
		return o.lease(s, op, now)
	case api.Settle:
		return o.settle(op, now)
	case api.Sync:
		return o.sync(s, op, now)
	}
	b := o.view(s, op.Key, now)
	before := o.view(s, op.Key, now)
	switch op.Kind {
	case api.Reset:
		delete(o.buckets, b.name)
		o.leases = slices.DeleteFunc(o.leases, func(l oracleLease) bool { return l.bucket == b.name })
		return "reset"
	case api.Peek:
		return "state " + b.text(1, -1)
	case api.Refund:
		given, changed := map[string]int64{}, false
		for name, m := range b.limits {
			given[name] = m.refund(op.Cost) - m.lease(b.leased)
			changed = changed || given[name] > 0
		}
		if changed { // one that gives nothing changes nothing, also not the numbers
			o.put(b)
		}
		return fmt.Sprintf("refunded %d ", given[b.fewest()]) + b.text(1, -1)
	}
	if s.Enforcement == api.Off {
		return "allowed " + b.text(0, -1)
	}
	for _, l := range s.Limits {
		switch {
		case op.Cost <= l.Burst:
		case s.Enforcement == api.Shadow:
			return "shadowed " + b.text(0, -1)
		default:
			return "exceeds"
		}
	}
	wait := b.wait(op.Cost)
	lent := wait.Cmp(big.NewInt(op.MaxWait*1e6)) <= 0 && (wait.Sign() == 0 || b.lends(op.Cost))
	for _, m := range b.limits {
		lent = lent && m.charge(op.Cost, wait)
	}
	if !lent {
		answer := "denied "
		if s.Enforcement == api.Shadow {
			answer = "shadowed "
		}
		return answer + before.denial(op.Cost, op.MaxWait*1e6)
	}
	o.put(b)
	if wait.Sign() > 0 {
		return fmt.Sprintf("waits %v ", oracleMicros(wait)) + b.text(0, -1)
	}
	return "allowed " + b.text(0, -1)
}

// fewest is the limit with the fewest whole tokens relative to its burst.
func (b *oracleBucket) fewest() string {
	var name string
	var least *big.Rat
	for _, l := range b.set.Limits {
		share := new(big.Rat).Quo(new(big.Rat).SetInt(b.limits[l.Name].left()), rat(l.Burst))
		if least == nil || share.Cmp(least) < 0 {
			name, least = l.Name, share
		}
	}
	return name
}

func (b *oracleBucket) longest(cost int64) int {
	k, longest := -1, new(big.Int)
	for i, l := range b.set.Limits {
		if w := b.limitWait(l.Name, cost); w.Cmp(longest) > 0 {
			k, longest = i, w
		}
	}
	return k
}

func (b *oracleBucket) text(next int64, bind int) string {
	return b.textWith(bind, func(limit string) *big.Int {
		if next == 0 {
			return new(big.Int)
		}
		return b.limitWait(limit, next)
	})
}

// denial is text to a take that may wait for most nanoseconds.
func (b *oracleBucket) denial(cost, most int64) string {
	bind := b.longest(cost)
	return b.textWith(bind, func(limit string) *big.Int {
		w := b.limitWait(limit, cost)
		switch {
		case most == 0 || w.IsUint64() && w.Uint64() == never:
			return w
		case bind >= 0 && b.set.Limits[bind].Name == limit:
			return b.again(w, cost, most)
		case w.Cmp(big.NewInt(most)) <= 0:
			return new(big.Int)
		}
		return w.Sub(w, big.NewInt(most))
	})
}

func (b *oracleBucket) textWith(bind int, retryAfter func(limit string) *big.Int) string {
	out := fmt.Sprintf("revision %d", b.set.Revision)
	for i, l := range b.set.Limits {
		m := b.limits[l.Name]
		left := m.left()
		if left.Sign() < 0 {
			left = new(big.Int)
		}
		mark := ""
		if i == bind || bind < 0 && l.Name == b.fewest() {
			mark = "*"
		}
		out += fmt.Sprintf("; %s%s %v %v %v", l.Name, mark, left, oracleMicros(retryAfter(l.Name)), oracleMicros(b.untilFresh(l.Name)))
	}
	return out
}

// oracleMicros rounds up, and stops at what 64 bits of nanoseconds hold.
func oracleMicros(ns *big.Int) *big.Int {
	if !ns.IsUint64() {
		ns.SetUint64(1<<64 - 1)
	}
	return ceil(new(big.Rat).SetFrac(ns, big.NewInt(1000)))
}

func resultText(r *api.Result, reply *api.Reply) string {
	var out string
	switch r.Status {
	case api.StatusError:
		switch r.Code {
		case api.CostExceedsBurst:
			return "exceeds"
		case api.NotFound, api.RequestIDReused:
			return "error " + string(r.Code)
		}
		return "error " + string(r.Code) + r.Detail
	case api.StatusReset:
		return "reset"
	case api.StatusSettled:
		return fmt.Sprintf("settled %d-%d+%d", r.Hold.Committed, r.Hold.Refunded, r.Hold.Charged)
	case api.StatusLeased:
		out = "leased"
		switch {
		case r.Duplicate:
			out = "leased again"
		case r.Shadowed:
			out = "shadowed lease"
		}
		out += fmt.Sprintf(" of %d ", r.Hold.Granted)
	case api.StatusRefunded:
		out = fmt.Sprintf("refunded %d ", r.Refunded)
	case api.StatusAllowed:
		out = "allowed "
		if r.Shadowed {
			out = "shadowed "
		}
		if r.Wait > 0 {
			out = fmt.Sprintf("waits %d ", r.Wait)
		}
	case api.StatusDenied:
		out = "denied "
	case api.StatusState:
		out = "state "
	}
	set := reply.Sets[r.Set]
	out += fmt.Sprintf("revision %d", set.Revision)
	for i, v := range r.Limits {
		mark := ""
		if i == r.Binding {
			mark = "*"
		}
		out += fmt.Sprintf("; %s%s %d %d %d", set.Limits[i].Name, mark, v.Remaining, v.RetryAfter, v.ResetAfter)
	}
	return out
}

// scale is how large the numbers of a history are: small ones meet often, and
// with large ones a debt spans few windows, which the oracle counts one by one.
type scale struct{ low, high int64 }

func (s scale) number(t *rapid.T, what string) int64 {
	return rapid.OneOf(rapid.Int64Range(s.low, s.high), rapid.Just(s.high)).Draw(t, what)
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"}

// zoneRulesFrom is when the policies of tests were written: rules are of 2025 to
// 2046.
var zoneRulesFrom = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// drawSet draws limits over their whole range, extremes included.
func drawSet(t *rapid.T, sc scale, zones []string, name string, revision uint64) *oracleSet {
	info := api.SetInfo{Policy: name, Revision: revision}
	zone := rapid.SampledFrom(zones).Draw(t, "zone")
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	if info.Zone, err = policy.ZoneRules(zone, zoneRulesFrom); err != nil {
		t.Fatal(err)
	}
	info.Enforcement = rapid.SampledFrom([]uint8{api.Enforce, api.Enforce, api.Enforce, api.Enforce, api.Shadow, api.Off}).Draw(t, "enforcement")
	for i := range rapid.IntRange(1, 4).Draw(t, "limits") {
		if i > 0 && rapid.Bool().Draw(t, "skip") {
			continue // so that names come and go
		}
		l := api.LimitInfo{
			Name: string(rune('a' + i)), Rate: sc.number(t, "rate"),
			Algorithm: rapid.SampledFrom([]uint8{api.TokenBucket, api.FixedWindow, api.SlidingWindow}).Draw(t, "algorithm"),
			Per:       rapid.OneOf(rapid.Int64Range(minPer, maxPer), rapid.SampledFrom([]int64{minPer, second, 7*second + 1, 86_400 * second, maxPer})).Draw(t, "per"),
		}
		switch l.Burst = l.Rate; {
		case l.Algorithm == api.TokenBucket:
			l.Burst = sc.number(t, "burst")
		case l.Algorithm == api.FixedWindow && len(info.Zone) > 0: // which shift by whole minutes
			l.Per = rapid.SampledFrom([]int64{0, 60 * second, 3600 * second, 7 * 3600 * second, 86_400 * second}).Draw(t, "window")
		case l.Algorithm == api.FixedWindow && rapid.Bool().Draw(t, "month"):
			l.Per = 0
		}
		info.Limits = append(info.Limits, l)
	}
	return &oracleSet{policy.NewSet(info), loc}
}

// TestEveryAnswerIsTheOracles compares whole answers over random histories of
// operations, edits, corrections of the clock and time. Rapid prints the seed of
// a failure.
func TestEveryAnswerIsTheOracles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		o := &oracle{buckets: map[string]*oracleBucket{}}
		sc := rapid.SampledFrom([]scale{{1, 20}, {1, 20}, {maxRate / 4, maxRate}}).Draw(t, "scale")
		kinds := []api.Kind{api.Take, api.Take, api.Take, api.Take, api.Peek, api.Refund, api.Reset, api.Sync}
		zones := zones
		if rapid.Bool().Draw(t, "leases") {
			kinds = append(kinds, api.Lease, api.Lease, api.Lease, api.Settle, api.Settle)
			zones = zones[:1] // in others the oracle looks for each wait minute by minute
		}
		revision := uint64(1)
		sets := map[string]*oracleSet{}
		for _, name := range []string{"p", "q"} {
			sets[name] = drawSet(t, sc, zones, name, revision)
		}
		var now uint64
		wall := rapid.Int64Range(zoneRulesFrom.UnixNano(), zoneRulesFrom.AddDate(10, 0, 0).UnixNano()).Draw(t, "wall")
		r.apply(EncodeClock(0, wall))
		o.clock.correct(wall, 0, false)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"p", "p", "q"}).Draw(t, "policy")
			switch rapid.IntRange(0, 19).Draw(t, "event") {
			case 0, 1:
				revision++
				sets[name] = drawSet(t, sc, zones, name, revision)
			case 2:
				shown := o.clock.wall(now) + rapid.Int64Range(-100*second, 100*second).Draw(t, "error")
				held := r.m.Stats().Calendar > 0
				r.apply(EncodeClock(now, shown))
				o.correct(shown-int64(now), now, held)
			}
			s := sets[name]
			l := s.Limits[rapid.IntRange(0, len(s.Limits)-1).Draw(t, "limit")]
			per := uint64(max(l.Per, second))
			dt := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 3*second),
				rapid.Uint64Range(0, per), rapid.Uint64Range(0, 2*per/uint64(l.Rate)), rapid.Uint64Range(0, 5*maxPer)).Draw(t, "dt")
			// The longest debt, of some 80 months, must not outlast the rules.
			if wall+int64(dt) < zoneRulesFrom.AddDate(12, 0, 0).UnixNano() {
				now += dt
				wall += int64(dt)
			}
			op := api.Op{
				Kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
				Key:  rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"),
			}
			if op.Kind.Charges() || op.Kind == api.Settle {
				op.Cost = rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(1, l.Burst), rapid.Just(s.MinBurst)).Draw(t, "cost")
			}
			if op.Kind == api.Take {
				op.MaxWait = rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, api.MaxWait), rapid.Int64Range(0, int64(per)/1_000_000%api.MaxWait)).Draw(t, "max wait")
			}
			if op.Kind == api.Sync {
				op.Cost *= rapid.Int64Range(0, 2).Draw(t, "spent")
				op.Cost = min(op.Cost, api.MaxCost)
			}
			if op.Kind == api.Lease || op.Kind == api.Settle {
				op.Hold = &api.Hold{ID: holdID(op.Key, rapid.ByteRange(0, 7).Draw(t, "id"))}
			}
			if op.Kind == api.Lease {
				op.Hold.Need = rapid.Int64Range(1, op.Cost).Draw(t, "need")
				op.Hold.TTL = min(api.MaxTTL, rapid.OneOf(rapid.Int64Range(1, 5000), rapid.Int64Range(1, 3*int64(per)/1_000_000)).Draw(t, "ttl"))
			}
			if op.Kind == api.Settle {
				op.Key = ""
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				restart(t, r)
			}
			var b api.Batch
			b.Add(op)
			results, reply := r.do(now, &b, s.Set)
			if got, want := resultText(&results[0], reply), o.apply(s, op, now); got != want {
				t.Fatalf("at %d, %v: %v %d of %s by\n%+v\ngot  %s\nwant %s", now, time.Unix(0, o.clock.wall(now)).UTC(), op.Kind, op.Cost, op.Key, s.SetInfo, got, want)
			}
		}
	})
}

// TestASaturatedBucketNeverDrifts takes one token whenever one is there, and
// now and then when none is, over a span of the rate's own size.
func TestASaturatedBucketNeverDrifts(t *testing.T) {
	for _, tt := range []struct {
		name             string
		rate, per, burst int64
	}{
		{"one a year", 1, 365 * 86_400 * second, 1},
		{"a hundred a second", 100, second, 200},
		{"three a second", 3, second, 1},
		{"seven in eleven seconds", 7, 11 * second, 2},
		{"a billion a second", 1_000_000_000, second, 1000},
		{"the most in a millisecond", maxRate, minPer, maxBurst},
		{"the most in 366 days", maxRate, maxPer, maxBurst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			s := testSet("p", 1, tt.rate, tt.per, tt.burst)
			taken, now := new(big.Int), uint64(0)
			spend := func() {
				left := r.one(now, s, api.Op{Kind: api.Peek, Key: "k"}).Limits[0].Remaining
				if left == 0 {
					return
				}
				if r.one(now, s, take("k", left)).Status != api.StatusAllowed {
					t.Fatalf("a take of the %d tokens left is denied", left)
				}
				taken.Add(taken, big.NewInt(left))
			}
			spend()
			step := uint64(tt.per)/uint64(tt.rate)/3 + 1
			for i := range min(2000, (1<<62)/step) {
				now += step + i%7
				spend()
				if r.one(now, s, take("k", 1)).Status != api.StatusDenied {
					t.Fatal("an empty bucket lets a take pass")
				}
			}
			want := new(big.Int).Mul(big.NewInt(tt.rate), new(big.Int).SetUint64(now))
			want.Div(want, big.NewInt(tt.per)).Add(want, big.NewInt(tt.burst))
			if taken.Cmp(want) != 0 {
				t.Fatalf("%v tokens passed in %d ns, want %v", taken, now, want)
			}
		})
	}
}
