package lease

import "github.com/rlstore/rlstore/api"

// Ask is something to be asked of the store: operations on one key. They are
// carried in this order, in one batch, or in several behind each other; the
// policy of those that have one is the entry's.
//
// Whoever carries them calls Result for each that was answered, and then End,
// once, whatever came of the others.
type Ask struct {
	Ops []api.Op

	e       *Entry
	made    int64
	main    int      // the index of the lease or of the last sync; -1 if there is none
	need    int64    // of a lease
	endings []ending // which the first Ops tell of
	done    chan struct{}

	// What was answered.
	known   []bool // of each operation: it was decided, or refused for good
	told    *Told  // by main
	granted int64
	refused bool  // main was refused for good
	err     error // why main was not answered
}

// newAsk begins an ask that tells of endings. e.mu is held.
func (e *Entry) newAsk(now int64, endings []ending) *Ask {
	a := &Ask{e: e, made: now, main: -1, endings: endings, done: make(chan struct{})}
	for i := range endings {
		a.Ops = append(a.Ops, api.Op{Kind: api.Settle, Cost: endings[i].spent, Hold: &api.Hold{ID: endings[i].id}})
	}
	return a
}

// Entry is the entry that asks.
func (a *Ask) Entry() *Entry { return a.e }

// Done is closed when the ask has ended. Then those who waited for it call Take
// again, unless there is an [Ask.Err].
func (a *Ask) Done() <-chan struct{} { return a.done }

// Err tells, after Done, why what was waited for was not answered; nil if it was.
func (a *Ask) Err() error { return a.err }

// Result takes in the result of operation i: one that was decided, or refused in
// a way that would not change if it were tried again. set is the result's, nil of
// one without. Both are copied where they are kept. Calls must not overlap.
func (a *Ask) Result(i int, set *api.SetInfo, res *api.Result) {
	if a.known == nil {
		a.known = make([]bool, len(a.Ops))
	}
	a.known[i] = true
	switch {
	case a.Ops[i].Kind == api.Settle:
		if res.Hold != nil {
			a.e.t.stats.returned.Add(res.Hold.Refunded)
		}
	case res.Status == api.StatusError || set == nil || len(set.Limits) == 0:
		a.refused = true
	default:
		a.told = a.e.t.tellOf(set, res)
		if res.Status == api.StatusLeased && res.Hold != nil {
			a.granted = res.Hold.Granted
		}
	}
}

// End ends the ask. Operations without a result count as not answered, for the
// reason why, which is not nil then: they may have been applied, or not.
func (a *Ask) End(now int64, why error) {
	e := a.e
	if a.known == nil {
		a.known = make([]bool, len(a.Ops))
	}
	if a.main >= 0 && !a.known[a.main] {
		a.err = why
	}
	e.mu.Lock()
	for i, d := range a.endings {
		if !a.known[i] {
			e.lease.ended = append(e.lease.ended, d)
		}
	}
	switch {
	case a.main < 0:
		e.flying--
	case a.Ops[a.main].Kind == api.Sync:
		e.asking = nil
		e.synced(now, a)
	default:
		e.asking = nil
		e.leased(now, a)
	}
	e.unlock()
	close(a.done)
}
