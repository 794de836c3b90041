package lease

import (
	"sync"

	"github.com/rlstore/rlstore/api"
)

// bucket is the limits of a policy for one key, kept in this process: the
// bucket of soft mode, and that of the rule local.
//
// Takes meet its front. Now and then, and when the pot there is dry, whoever
// comes along moves what was spent into the levels, lets them refill, and puts
// all that is there into a new pot. What flows in counts as if it came before
// what was spent meanwhile, so a pot admits nothing that the levels would not.
type bucket struct {
	front *front

	mu    sync.Mutex
	told  *Told
	at    int64   // the time that lim is of
	lim   []level // of told.Set.Limits; what is in the pot is in here too
	spent int64   // tokens spent that no sync has taken with it
	used  bool    // somebody came since the last sync
	ended bool    // nothing is spent here any more
}

// potLife bounds how long what flows in may count as having come first.
const potLife = 10_000_000 // 10 ms

// newBucket returns a full bucket.
func newBucket(f *front, told *Told, now int64) *bucket {
	b := &bucket{front: f, told: told, at: now, lim: make([]level, len(told.Set.Limits))}
	for i := range b.lim {
		b.lim[i] = level{tokens: told.Set.Limits[i].Burst}
	}
	return b
}

// take is for what the front could not decide.
func (b *bucket) take(now, cost int64) Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	if out, ok := b.front.take(now, cost); ok { // somebody was here before
		return out
	}
	if b.ended || cost > b.told.minBurst {
		return Outcome{} // which refuses it in its own words
	}
	b.used = true
	b.collect(now)
	b.offer(now)
	if out, ok := b.front.take(now, cost); ok {
		return out
	}
	return b.deny(now, cost).outcome(now, cost)
}

// collect moves what was spent from the pot into the levels, as of now. b.mu is
// held.
func (b *bucket) collect(now int64) {
	now = max(now, b.at)
	var spent int64
	if p := b.front.pot.Swap(nil); p != nil {
		spent = p.close()
	}
	for i := range b.lim {
		l := &b.told.Set.Limits[i]
		b.lim[i].advance(l, b.at, now)
		b.lim[i].charge(l, now, spent)
	}
	b.at = now
	b.front.denial.Store(nil) // it holds for the pot that was
	b.spent += spent
	b.used = b.used || spent > 0
}

// offer puts what is there into a new pot, after collect.
func (b *bucket) offer(now int64) {
	least, until := int64(api.MaxCost), now+potLife
	p := &pot{told: b.told}
	for i := range b.lim {
		v := &b.lim[i]
		least = min(least, v.tokens)
		if v.end != 0 {
			until = min(until, v.end)
		}
		if b.tighter(i, p.binding) {
			p.binding = i
		}
	}
	if least <= 0 {
		return
	}
	l, v := &b.told.Set.Limits[p.binding], &b.lim[p.binding]
	p.granted, p.until = least, until
	p.beside = v.tokens - least
	if isWindow(l) {
		p.resetAt = v.end
		if v.end == 0 {
			p.resetAt = now + period(l)
		}
	} else {
		p.resetAt = now + v.wait(l, now, l.Burst)
		p.perToken = perToken(l)
	}
	p.tokens.Store(least)
	b.front.pot.Store(p)
}

// perToken is the nanoseconds in which a token comes, rounded up; 0 of a window,
// where they come together.
func perToken(l *api.LimitInfo) int64 {
	if isWindow(l) {
		return 0
	}
	return min((l.Per+l.Rate-1)/l.Rate, forever/l.Burst)
}

// tighter tells whether limit i has fewer tokens than limit j, each relative to
// its burst.
func (b *bucket) tighter(i, j int) bool {
	l := b.told.Set.Limits
	return b.lim[i].tokens*l[j].Burst < b.lim[j].tokens*l[i].Burst
}

// deny remembers that a take of cost does not pass now.
func (b *bucket) deny(now, cost int64) *denial {
	d := &denial{cost: cost, exact: true, pot: b.front.pot.Load(), told: b.told}
	longest := int64(-1)
	for i := range b.lim {
		l, v := &b.told.Set.Limits[i], &b.lim[i]
		if w := v.wait(l, now, cost); w > longest {
			longest, d.binding = w, i
			d.left, d.resetAt = max(0, v.tokens), now+v.wait(l, now, l.Burst)
		}
	}
	d.retryAt = now + longest
	// No longer than a pot, so that the next sync hears of those who come.
	d.until = min(d.retryAt, now+potLife)
	b.front.denial.Store(d)
	return d
}

// full tells whether the bucket is as one that nobody took from.
func (b *bucket) full(now int64) bool { return b.fullAt(now) <= now }

// fullAt is when the bucket will be as one that nobody took from, if nobody does.
func (b *bucket) fullAt(now int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(now)
	at := now
	for i := range b.lim {
		if l, v := &b.told.Set.Limits[i], &b.lim[i]; v.tokens < l.Burst {
			at = max(at, now+max(1, v.wait(l, now, l.Burst)))
		}
	}
	return at
}

// tell takes over what the store says of the bucket: how it stood at some time from
// asked to now. What was spent here and not yet charged there is taken off.
//
// So the bucket has what was told at least, and at most what may have flowed in
// since it was asked for as well. What is reckoned here stands if it lies between:
// where nobody else spends, it is exact, however slow the answers are.
func (b *bucket) tell(now, asked int64, told *Told) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(now)
	anew := len(b.lim) != len(told.Set.Limits) || b.told.Set.Revision != told.Set.Revision
	if anew {
		b.lim = make([]level, len(told.Set.Limits))
	}
	b.told = told
	for i := range b.lim {
		l, here := &told.Set.Limits[i], b.lim[i]
		v := &b.lim[i]
		v.told(l, now, told.Values[i])
		v.charge(l, now, b.spent)
		if anew || isWindow(l) || !v.less(here) {
			continue
		}
		least := *v
		if v.refill(l, uint64(max(0, now-asked))); here.less(*v) {
			*v = here
		}
		if v.less(least) {
			*v = least
		}
	}
}

// refund gives back what was spent here and not yet charged in the store.
func (b *bucket) refund(now, tokens int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(now)
	if b.spent < tokens {
		return false
	}
	b.spent -= tokens
	for i := range b.lim {
		b.lim[i].refund(&b.told.Set.Limits[i], tokens)
	}
	return true
}

// takeSpent hands over what was spent, to be charged in the store, and tells
// whether somebody came since the last time.
func (b *bucket) takeSpent(now int64) (spent int64, used bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(now)
	spent, used = b.spent, b.used
	b.spent, b.used = 0, false
	return spent, used
}

// end is takeSpent, for the last time.
func (b *bucket) end(now int64) (spent int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(now)
	spent, b.spent, b.ended = b.spent, 0, true
	return spent
}

// keepSpent takes back what takeSpent gave: it was not charged.
func (b *bucket) keepSpent(tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent += tokens
	b.used = b.used || tokens > 0
}
