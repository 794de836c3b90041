package fsm

import (
	"fmt"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// oracle is a second machine, written from the contract's words with rationals
// of any size, and naively: it never drops a bucket.
type oracle struct {
	buckets map[string]*oracleBucket // by policy and key
}

type oracleBucket struct {
	set    *policy.Set
	at     uint64
	tokens map[string]*big.Rat // by the limit's name
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
func (o *oracle) view(s *policy.Set, key string, now uint64) *oracleBucket {
	v := &oracleBucket{set: s, at: now, tokens: map[string]*big.Rat{}}
	for _, l := range s.Limits {
		v.tokens[l.Name] = rat(l.Burst)
	}
	b := o.buckets[s.Policy+"\x00"+key]
	if b == nil {
		return v
	}
	for _, l := range b.set.Limits {
		flow := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(l.Rate), new(big.Int).SetUint64(now-b.at)), big.NewInt(l.Per))
		old := minRat(rat(l.Burst), flow.Add(flow, b.tokens[l.Name]))
		for _, to := range s.Limits {
			if to.Name != l.Name {
				continue
			}
			consumed := new(big.Rat).Sub(rat(l.Burst), old)
			left := new(big.Rat).Sub(rat(to.Burst), consumed)
			// Only multiples of 1/per exist: what is between is lost.
			units := floor(new(big.Rat).Mul(left, rat(to.Per)))
			v.tokens[l.Name] = new(big.Rat).SetFrac(units, big.NewInt(to.Per))
		}
	}
	return v
}

func (o *oracle) put(b *oracleBucket, key string) { o.buckets[b.set.Policy+"\x00"+key] = b }

// wait is the number of nanoseconds until the limit has n tokens.
func (b *oracleBucket) wait(l api.LimitInfo, n int64) *big.Int {
	lack := new(big.Rat).Sub(rat(n), b.tokens[l.Name])
	if lack.Sign() <= 0 {
		return new(big.Int)
	}
	return ceil(lack.Mul(lack, big.NewRat(l.Per, l.Rate)))
}

func (b *oracleBucket) passes(cost int64) bool {
	for _, l := range b.set.Limits {
		if b.wait(l, cost).Sign() != 0 {
			return false
		}
	}
	return true
}

func (b *oracleBucket) add(n int64) {
	for _, l := range b.set.Limits {
		b.tokens[l.Name] = minRat(rat(l.Burst), new(big.Rat).Add(b.tokens[l.Name], rat(n)))
	}
}

// apply returns what a result should say.
func (o *oracle) apply(s *policy.Set, op api.Op, now uint64) string {
	b := o.view(s, op.Key, now)
	before := o.view(s, op.Key, now)
	switch op.Kind {
	case api.Reset:
		delete(o.buckets, s.Policy+"\x00"+op.Key)
		return "reset"
	case api.Peek:
		return "state " + b.text(1, -1)
	case api.Refund:
		b.add(op.Cost)
		given := new(big.Rat)
		bind := b.fewest()
		given.Sub(floorRat(b.tokens[bind]), floorRat(before.tokens[bind]))
		for _, l := range s.Limits { // one that gives nothing changes nothing, also not the numbers
			if before.tokens[l.Name].Cmp(rat(l.Burst)) < 0 {
				o.put(b, op.Key)
			}
		}
		return fmt.Sprintf("refunded %s ", given.RatString()) + b.text(1, -1)
	}
	for _, l := range s.Limits {
		if op.Cost > l.Burst {
			return "exceeds"
		}
	}
	if !b.passes(op.Cost) {
		return "denied " + b.text(op.Cost, b.longest(op.Cost))
	}
	for _, l := range s.Limits {
		b.tokens[l.Name] = new(big.Rat).Sub(b.tokens[l.Name], rat(op.Cost))
	}
	o.put(b, op.Key)
	return "allowed " + b.text(0, -1)
}

func floorRat(r *big.Rat) *big.Rat { return new(big.Rat).SetInt(floor(r)) }

// fewest is the limit with the fewest whole tokens relative to its burst.
func (b *oracleBucket) fewest() string {
	var name string
	var least *big.Rat
	for _, l := range b.set.Limits {
		share := new(big.Rat).Quo(floorRat(b.tokens[l.Name]), rat(l.Burst))
		if least == nil || share.Cmp(least) < 0 {
			name, least = l.Name, share
		}
	}
	return name
}

func (b *oracleBucket) longest(cost int64) int {
	k := 0
	for i, l := range b.set.Limits {
		if b.wait(l, cost).Cmp(b.wait(b.set.Limits[k], cost)) > 0 {
			k = i
		}
	}
	return k
}

func (b *oracleBucket) text(next int64, bind int) string {
	out := fmt.Sprintf("revision %d", b.set.Revision)
	for i, l := range b.set.Limits {
		left := floor(b.tokens[l.Name])
		if left.Sign() < 0 {
			left.SetInt64(0)
		}
		mark := ""
		if i == bind || bind < 0 && l.Name == b.fewest() {
			mark = "*"
		}
		out += fmt.Sprintf("; %s%s %v %v %v", l.Name, mark, left, oracleMicros(b.wait(l, next)), oracleMicros(b.wait(l, l.Burst)))
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
		if r.Code == api.CostExceedsBurst {
			return "exceeds"
		}
		return "error " + string(r.Code) + r.Detail
	case api.StatusReset:
		return "reset"
	case api.StatusRefunded:
		out = fmt.Sprintf("refunded %d ", r.Refunded)
	case api.StatusAllowed:
		out = "allowed "
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

// drawSet draws limits over their whole range, extremes included.
func drawSet(t *rapid.T, name string, revision uint64) *policy.Set {
	info := api.SetInfo{Policy: name, Revision: revision}
	number := func(what string) int64 {
		return rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, maxRate), rapid.Just(int64(maxRate))).Draw(t, what)
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "limits") {
		if i > 0 && rapid.Bool().Draw(t, "skip") {
			continue // so that names come and go
		}
		info.Limits = append(info.Limits, api.LimitInfo{
			Name: string(rune('a' + i)), Rate: number("rate"), Burst: number("burst"),
			Per: rapid.OneOf(rapid.Int64Range(minPer, maxPer), rapid.SampledFrom([]int64{minPer, second, 7*second + 1, 86_400 * second, maxPer})).Draw(t, "per"),
		})
	}
	return policy.NewSet(info)
}

// TestEveryAnswerIsTheOracles compares whole answers over random histories of
// operations, edits and time. Rapid prints the seed of a failure.
func TestEveryAnswerIsTheOracles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		o := &oracle{buckets: map[string]*oracleBucket{}}
		revision := uint64(1)
		sets := map[string]*policy.Set{}
		for _, name := range []string{"p", "q"} {
			sets[name] = drawSet(t, name, revision)
		}
		var now uint64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"p", "p", "q"}).Draw(t, "policy")
			if rapid.IntRange(0, 9).Draw(t, "edit") == 0 {
				revision++
				sets[name] = drawSet(t, name, revision)
			}
			s := sets[name]
			l := s.Limits[rapid.IntRange(0, len(s.Limits)-1).Draw(t, "limit")]
			now += rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 3*second),
				rapid.Uint64Range(0, uint64(l.Per)), rapid.Uint64Range(0, 2*uint64(l.Per/l.Rate)), rapid.Uint64Range(0, 1<<58)).Draw(t, "dt")
			if now > 1<<62 {
				now = 1 << 62
			}
			op := api.Op{
				Kind: rapid.SampledFrom([]api.Kind{api.Take, api.Take, api.Take, api.Peek, api.Refund, api.Reset}).Draw(t, "kind"),
				Key:  rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"),
			}
			if op.Kind == api.Take || op.Kind == api.Refund {
				op.Cost = rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(1, l.Burst), rapid.Just(s.MinBurst)).Draw(t, "cost")
			}
			var b api.Batch
			b.Add(op)
			results, reply := r.do(now, &b, s)
			if got, want := resultText(&results[0], reply), o.apply(s, op, now); got != want {
				t.Fatalf("at %d: %v %d of %s by\n%+v\ngot  %s\nwant %s", now, op.Kind, op.Cost, op.Key, s.SetInfo, got, want)
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
