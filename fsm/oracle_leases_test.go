package fsm

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// What the oracle knows of leases, from the words of docs/consistency.md: it never
// forgets one that has expired, and finds each wait by trying.

type oracleLease struct {
	bucket  string // policy and key, as in oracle.buckets
	id      api.HoldID
	granted int64
	expires uint64
	free    bool
}

// out is the tokens out on lease of a bucket at a moment.
func (o *oracle) out(bucket string, at uint64) (leased int64) {
	for _, l := range o.leases {
		if l.bucket == bucket && l.expires > at && !l.free {
			leased += l.granted
		}
	}
	return leased
}

// expiries are the moments at which leases of a bucket expire, after from.
func (o *oracle) expiries(bucket string, from uint64) (list []uint64) {
	for _, l := range o.leases {
		if l.bucket == bucket && l.expires > from && !l.free {
			list = append(list, l.expires)
		}
	}
	slices.Sort(list)
	return list
}

// advance brings a limit of a bucket from one moment to another.
func (o *oracle) advance(m model, bucket string, from, to uint64) {
	for _, e := range o.expiries(bucket, from) {
		if e > to {
			break
		}
		m.advance(e, o.clock.wall(e))
		m.lease(o.out(bucket, e))
	}
	m.advance(to, o.clock.wall(to))
}

// correct is what a clock entry does: time until then was by the clock as it was.
func (o *oracle) correct(measured int64, now uint64, held bool) {
	for name, b := range o.buckets {
		if len(o.expiries(name, b.at)) > 0 {
			for _, m := range b.limits {
				o.advance(m, name, b.at, now)
			}
			b.at = now
		}
	}
	o.clock.correct(measured, now, held)
}

// foretold is the oracle as its clock would run on if nobody corrected it, nor had it
// stand still: so waits are told.
func (o *oracle) foretold(from uint64) *oracle {
	ahead := *o
	ahead.clock = clock{offset: o.clock.wall(from) - int64(from)}
	return &ahead
}

// again is when a take that is denied passes, that may wait for most nanoseconds and
// whose tokens are there after wait: the first moment, of those that can be, at which
// it does.
func (b *oracleBucket) again(wait *big.Int, cost, most int64) *big.Int {
	ahead := big.NewInt(most)
	if !wait.IsUint64() || wait.Uint64() > maxWall || !b.lends(cost) {
		return wait
	}
	if b.leased > 0 {
		if wait.Cmp(ahead) <= 0 {
			return wait
		}
		return ahead.Sub(wait, ahead)
	}
	tries := []uint64{wait.Uint64() - min(wait.Uint64(), uint64(most))}
	for _, l := range b.set.Limits {
		per := uint64(l.Per)
		if l.Algorithm != api.SlidingWindow || (b.at+wait.Uint64())/per == 0 {
			continue
		}
		if begins := ((b.at+wait.Uint64())/per - 1) * per; begins > b.at {
			tries = append(tries, begins-b.at)
		}
	}
	slices.Sort(tries)
	for _, after := range tries {
		if after == 0 {
			continue
		}
		then := &oracleBucket{o: b.o, name: b.name, at: b.at + after, set: b.set, limits: map[string]model{}}
		for name, m := range b.limits {
			then.limits[name] = m.clone()
			b.o.foretold(b.at).advance(then.limits[name], b.name, b.at, b.at+after)
		}
		waits := then.wait(cost)
		passes := waits.Cmp(big.NewInt(most)) <= 0
		for _, m := range then.limits {
			passes = passes && m.charge(cost, waits)
		}
		if passes {
			return new(big.Int).SetUint64(after)
		}
	}
	return wait
}

// limitWait is how long a take of cost has to wait for one limit.
func (b *oracleBucket) limitWait(limit string, cost int64) *big.Int {
	m := b.limits[limit]
	last := b.o.expiries(b.name, b.at)
	if cost == 0 || len(last) == 0 {
		return m.wait(cost)
	}
	passes := func(after uint64) bool {
		then := m.clone()
		b.o.foretold(b.at).advance(then, b.name, b.at, b.at+after)
		return then.left().Cmp(big.NewInt(cost)) >= 0
	}
	high := uint64(1)
	for !passes(high - 1) {
		if high *= 2; high > maxWall {
			return new(big.Int).SetUint64(never)
		}
	}
	low := uint64(0) // the answer is from low to high-1
	for low < high-1 {
		if mid := low + (high-1-low)/2; passes(mid) {
			high = mid + 1
		} else {
			low = mid + 1
		}
	}
	return new(big.Int).SetUint64(low)
}

// untilFresh is how long it takes one limit to be as nobody ever took from it.
func (b *oracleBucket) untilFresh(limit string) *big.Int {
	m := b.limits[limit]
	expiries := b.o.expiries(b.name, b.at)
	if len(expiries) == 0 {
		return m.untilFresh()
	}
	last := expiries[len(expiries)-1]
	m = m.clone()
	b.o.foretold(b.at).advance(m, b.name, b.at, last)
	until := m.untilFresh()
	if until.IsUint64() && until.Uint64() == never {
		return until
	}
	return until.Add(until, new(big.Int).SetUint64(last-b.at))
}

// lends says whether somebody may wait for tokens.
func (b *oracleBucket) lends(cost int64) bool {
	for _, l := range b.set.Limits {
		if b.leased > 0 && (l.Algorithm != api.TokenBucket || cost > l.Burst-b.leased) {
			return false
		}
	}
	return true
}

func (b *oracleBucket) available() int64 {
	least := int64(maxBurst)
	for _, m := range b.limits {
		if left := m.left(); left.IsInt64() {
			least = min(least, left.Int64())
		}
	}
	return least
}

func (o *oracle) lease(s *oracleSet, op api.Op, now uint64) string {
	b := o.view(s, op.Key, now)
	told := func(how string, granted, next int64) string {
		switch how {
		case "denied":
			return "denied " + b.text(next, b.longest(next))
		case "shadowed":
			return fmt.Sprintf("shadowed lease of %d ", granted) + b.text(next, b.longest(next))
		}
		return fmt.Sprintf("%s of %d ", how, granted) + b.text(next, -1)
	}
	need, want := op.Hold.Need, op.Cost
	for _, l := range o.leases {
		if l.id == op.Hold.ID && l.expires > now {
			if l.bucket != b.name {
				return "error request-id-reused"
			}
			return told("leased again", l.granted, 0)
		}
	}
	enforced := s.Enforcement != api.Off
	if enforced && need > s.MinBurst {
		return "exceeds"
	}
	l := oracleLease{bucket: b.name, id: op.Hold.ID, granted: want, expires: now + uint64(op.Hold.TTL)*1e6}
	if available := b.available(); !enforced || need > available {
		if s.Enforcement == api.Enforce {
			return told("denied", 0, need)
		}
		l.free = true
	} else {
		l.granted = max(need, min(want, available/int64(len(o.expiries(b.name, now))+2)))
	}
	if l.free {
		o.leases = append(o.leases, l)
		if enforced {
			return told("shadowed", l.granted, need)
		}
		return told("leased", l.granted, 0)
	}
	for _, m := range b.limits {
		m.charge(l.granted, new(big.Int))
	}
	o.leases = append(o.leases, l)
	o.put(b)
	b.leased += l.granted
	for _, m := range b.limits {
		m.lease(b.leased)
	}
	return told("leased", l.granted, 0)
}

func (o *oracle) settle(op api.Op, now uint64) string {
	at := slices.IndexFunc(o.leases, func(l oracleLease) bool { return l.id == op.Hold.ID && l.expires > now })
	if at < 0 {
		return "error not-found"
	}
	l := o.leases[at]
	if l.free {
		o.leases = slices.Delete(o.leases, at, at+1)
		return "settled 0-0+0"
	}
	stored := o.buckets[l.bucket]
	b := o.viewOf(stored.set, l.bucket, now)
	o.leases = slices.Delete(o.leases, at, at+1)
	b.leased -= l.granted
	back, more := max(0, l.granted-op.Cost), max(0, op.Cost-l.granted)
	for _, lim := range stored.set.Limits {
		credit := new(big.Int).Sub(b.limits[lim.Name].left(), big.NewInt(max(-lim.Burst, lim.Burst-maxBurst)))
		if credit.Sign() < 0 {
			credit.SetInt64(0)
		}
		more = min(more, credit.Int64())
	}
	for _, m := range b.limits {
		m.lease(b.leased)
		if back > 0 {
			m.unlease(back)
		} else {
			m.charge(more, new(big.Int))
		}
	}
	o.put(b)
	return fmt.Sprintf("settled %d-%d+%d", l.granted-back+more, back, more)
}

// sync charges what was spent unasked.
func (o *oracle) sync(s *oracleSet, op api.Op, now uint64) string {
	b := o.view(s, op.Key, now)
	if op.Cost > 0 && s.Enforcement != api.Off {
		for _, m := range b.limits {
			m.owe(op.Cost)
		}
		o.put(b)
	}
	return "state " + b.text(1, -1)
}

func (m *tokenModel) lease(n int64) int64 {
	before := floor(m.tokens)
	m.leased = n
	m.tokens = minRat(rat(m.l.Burst-n), m.tokens)
	return before.Sub(before, floor(m.tokens)).Int64()
}

func (m *tokenModel) unlease(n int64) { m.refund(n) }

func (m *tokenModel) owe(n int64) {
	deepest := new(big.Rat).SetInt(floor(m.tokens))
	deepest.Sub(m.tokens, deepest).Add(deepest, rat(m.l.Burst-maxBurst))
	if m.tokens = new(big.Rat).Sub(m.tokens, rat(n)); m.tokens.Cmp(deepest) < 0 {
		m.tokens = deepest
	}
}

func (m *fixedModel) lease(n int64) int64 {
	by := max(0, n-m.used)
	m.leased = n
	m.used += by
	return by
}

func (m *fixedModel) unlease(n int64) { m.used -= n }
func (m *fixedModel) owe(n int64)     { m.used = min(m.used+n, maxBurst) }

func (m *slidingModel) lease(n int64) int64 {
	window := m.now / m.per()
	by := max(0, n-m.used[window])
	m.leased = n
	m.used[window] += by
	return by
}

func (m *slidingModel) unlease(n int64) { m.used[m.now/m.per()] -= n }

func (m *slidingModel) owe(n int64) {
	window := m.now / m.per()
	m.used[window] = min(m.used[window]+n, maxBurst)
}
