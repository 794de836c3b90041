package lease

import (
	"sync"
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
)

// Verdict says what becomes of a take.
type Verdict uint8

// The verdicts.
const (
	Store   Verdict = iota // it is the store's to decide: send it there
	Allowed                // it was spent
	Denied                 // it was not
	Wait                   // call Take again once Outcome.Wait has ended
	Failed                 // the store was asked, and did not answer: the failure rule decides
)

// Outcome is what becomes of a take.
type Outcome struct {
	Verdict Verdict

	// Of an Allowed or a Denied one. Times are nanoseconds from now on.
	Binding    int   // the limit that binds, an index into Told.Set.Limits
	Left       int64 // whole tokens that the bucket has left, as far as it is known here
	RetryAfter int64 // 0 of an Allowed one
	ResetAfter int64
	Told       *Told

	Wait *Ask // of Wait
}

// Told is what the store said last. It is never changed.
type Told struct {
	Set     *api.SetInfo
	Values  []api.LimitValues // one a limit
	Binding int
	Commit  api.Commit // of the lease, or of the last sync; zero before the first
	Note    any        // what [Config.Note] made of it

	minBurst int64
}

// Entry is one key of one policy. It is safe for concurrent use.
type Entry struct {
	policy, key string
	hash        uint64
	next        atomic.Pointer[Entry] // in the table's chain
	t           *Table
	mode        uint8 // of the policy, and never changed: an entry of another mode replaces this one

	front         // of the lease, or of the soft bucket
	spare front   // of the rule local
	soft  *bucket // of mode soft, else nil; never changed
	// resting says that a soft bucket is looked at late, for nobody comes.
	resting atomic.Bool

	mu     sync.Mutex
	stale  bool // to be ended: nothing is spent here any more
	gone   bool // ended, and out of the table
	told   *Told
	usedAt int64   // when somebody came last, as far as it was noticed
	lookAt int64   // of mode soft: when to look next
	asking *Ask    // for a lease or a sync, on its way
	flying int     // other asks on their way
	out    []*Ask  // to be sent as the lock is given back
	lease  holder  // of mode leased
	local  *bucket // of the rule local; nil until it is needed
}

// Policy is the entry's policy.
func (e *Entry) Policy() string { return e.policy }

// Key is the entry's key.
func (e *Entry) Key() string { return e.key }

// Mode is the mode of the entry's policy.
func (e *Entry) Mode() uint8 { return e.mode }

// Take decides a take of cost tokens, at least 1, from memory if it can. Of all
// outcomes only Allowed has spent.
func (e *Entry) Take(now, cost int64) Outcome {
	if p := e.pot.Load(); p != nil && now < p.until {
		if left, ok := p.spend(cost); ok {
			if left < p.low && !p.asked.Load() {
				e.runsLow(now, p)
			}
			return p.allowed(now, left)
		}
	}
	if d := e.denied(now, cost); d != nil {
		return d.outcome(now, cost)
	}
	switch e.mode {
	case api.Soft:
		return e.takeSoft(now, cost)
	case api.Leased:
		return e.takeLeased(now, cost)
	}
	return Outcome{}
}

// TakeLocal decides a take by a bucket of this process alone: the rule local. It
// begins as the store told last, else full. What it spends is never charged.
func (e *Entry) TakeLocal(now, cost int64) Outcome {
	e.mu.Lock()
	if e.local == nil {
		e.local = newBucket(&e.spare, e.told, now)
	}
	b := e.local
	e.usedAt = now
	e.mu.Unlock()
	if out, ok := e.spare.take(now, cost); ok {
		return out
	}
	return b.take(now, cost)
}

// Refund gives back tokens that were spent here, into the lease or the soft
// bucket. It is false if they cannot go there any more: then a refund is the
// store's.
func (e *Entry) Refund(now, tokens int64) bool {
	switch e.mode {
	case api.Soft:
		return e.soft.refund(now, tokens)
	case api.Leased:
		p := e.pot.Load()
		return p != nil && now < p.until && p.put(tokens)
	}
	return false
}

// RefundLocal gives back tokens that [Entry.TakeLocal] spent.
func (e *Entry) RefundLocal(now, tokens int64) bool {
	e.mu.Lock()
	b := e.local
	e.mu.Unlock()
	return b != nil && b.refund(now, tokens)
}

// Learn takes in what the store answered to an operation on the key that is not
// an [Ask]. An entry whose policy has another mode by now, or none, ends with the
// next [Table.Tick]. set and res are copied where they are kept. Nothing is sent
// from here.
func (e *Entry) Learn(now int64, set *api.SetInfo, res *api.Result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.usedAt = now
	switch {
	case e.gone || e.stale:
	case !keeps(set) || set.Mode != e.mode:
		e.stale = true
		e.close(now)
		e.denial.Store(nil)
		e.t.lookAt(e, now)
	case e.mode == api.Strict:
		e.hear(now, e.t.tellOf(set, res))
	}
}

// Forgive forgets a denial, because this process itself has given tokens back in
// the store: it is called after a refund and a reset. Others who do so are seen
// later; see the package's comment.
func (e *Entry) Forgive() { e.denial.Store(nil) }

// hear keeps what the store said. e.mu is held.
func (e *Entry) hear(now int64, told *Told) {
	e.told = told
	if told.Set.Unavailable != api.FailLocal {
		return
	}
	if e.local == nil {
		e.local = newBucket(&e.spare, told, now)
	}
	e.local.takeSpent(now) // that is nobody's to charge
	e.local.tell(now, now, told)
}

// end takes the entry out of service, and gives back what it holds. e.mu is held.
func (e *Entry) end(now int64) {
	if e.gone {
		return
	}
	e.stale, e.gone = true, true
	switch e.mode {
	case api.Leased:
		e.endLease(now)
	case api.Soft:
		e.endSoft(now)
	}
	e.t.remove(e)
}

// look does what time brings about, and returns when to look again, or 0.
func (e *Entry) look(now int64) int64 {
	e.mu.Lock()
	defer e.unlock()
	switch {
	case e.gone:
		return 0
	case e.stale:
		e.end(now)
		return 0
	case e.mode == api.Leased:
		return e.lookLeased(now)
	case e.mode == api.Soft:
		return e.lookSoft(now)
	case now-e.usedAt >= localLife && (e.local == nil || e.local.full(now)):
		e.end(now)
		return 0
	}
	return now + localLife
}

// unlock gives the lock back, and sends what there is to be sent.
func (e *Entry) unlock() {
	out := e.out
	e.out = nil
	e.mu.Unlock()
	for _, a := range out {
		e.t.cfg.Send(a)
	}
}
