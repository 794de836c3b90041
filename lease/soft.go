package lease

import "github.com/rlstore/rlstore/api"

// The soft mode: a bucket of this process decides, and now and then what it has
// spent is charged in the store, which answers how the bucket of all stands.

// The store charges what was spent since the last sync at once. If its bucket was
// full until then, what would have flowed in meanwhile is lost: what flows in during
// an interval, once each time that a full bucket is emptied. It would be lost over and
// over again if more flowed in than the burst, so an interval is no longer than half
// the burst takes to flow in.

// interval is the nanoseconds between two syncs. e.mu is held.
func (e *Entry) interval() int64 {
	d := e.told.Set.SyncInterval * 1_000_000
	for i := range e.told.Set.Limits {
		if l := &e.told.Set.Limits[i]; !isWindow(l) {
			d = min(d, max(shortestSync, l.Burst*perToken(l)/2))
		}
	}
	return d
}

// shortestSync bounds how often a small bucket syncs. One that fills in less than two
// of these loses something each time.
const shortestSync = 10_000_000

// quietSyncs is how many of the policy's intervals without a take end an entry, if
// its bucket is full by then: one that begins anew is. Else it rests until it is, or
// somebody comes.
const quietSyncs = 10

// lookSoft asks for a sync if somebody came since the last one, and returns when
// to look again, or 0. e.mu is held.
func (e *Entry) lookSoft(now int64) int64 {
	if now < e.lookAt { // this is of before somebody ended its rest
		return 0
	}
	e.lookAt = now + e.interval()
	if e.asking != nil { // and what it took with it may come back
		e.lookAt = now + e.interval()/4
		return e.lookAt
	}
	quiet := now-e.usedAt >= quietSyncs*e.told.Set.SyncInterval*1_000_000
	e.resting.Store(quiet) // before the look, so that who comes after it ends the rest
	spent, used := e.soft.takeSpent(now)
	switch {
	case used:
		e.resting.Store(false)
		e.usedAt = now
		e.sync(now, spent)
	case quiet:
		full := e.soft.fullAt(now)
		if full <= now {
			e.end(now)
			return 0
		}
		// As long again as nobody came, so that few looks wait that a take made needless.
		e.lookAt = max(e.lookAt, min(full, now+(now-e.usedAt)))
	}
	return e.lookAt
}

// takeSoft is a take that the front could not decide.
func (e *Entry) takeSoft(now, cost int64) Outcome {
	out := e.soft.take(now, cost)
	if e.resting.Load() && e.resting.CompareAndSwap(true, false) {
		e.mu.Lock()
		e.lookAt = now + e.interval()
		at := e.lookAt
		e.mu.Unlock()
		e.t.lookAt(e, at)
	}
	return out
}

// sync charges what was spent. e.mu is held.
func (e *Entry) sync(now, spent int64) {
	a := e.newAsk(now, nil)
	// One operation charges no more than a take may cost.
	for {
		n := min(spent, api.MaxCost)
		a.Ops = append(a.Ops, api.Op{Kind: api.Sync, Key: e.key, Cost: n, Instance: e.t.cfg.Instance})
		if spent -= n; spent == 0 {
			break
		}
	}
	a.main = len(a.Ops) - 1
	e.asking = a
	e.out = append(e.out, a)
}

// synced takes in the answer to a. e.mu is held.
func (e *Entry) synced(now int64, a *Ask) {
	var kept int64
	for i := range a.Ops {
		if !a.known[i] {
			kept += a.Ops[i].Cost
		}
	}
	e.soft.keepSpent(kept)
	switch {
	case a.told == nil && !a.refused:
	case a.refused || !keeps(a.told.Set) || a.told.Set.Mode != e.mode:
		e.end(now)
	default:
		e.hear(now, a.told)
		if !e.gone {
			e.soft.tell(now, a.made, a.told)
		}
	}
}

// endSoft charges what is left to be charged. e.mu is held.
func (e *Entry) endSoft(now int64) {
	if spent := e.soft.end(now); spent > 0 && e.asking == nil {
		e.sync(now, spent)
	}
}
