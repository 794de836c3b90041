package lease

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// quiet is a table whose asks go nowhere.
func quiet(max int) (*Table, *[]*Ask) {
	var asks []*Ask
	return NewTable(Config{
		Max: max, Random: rand.Uint64, Wake: func(int64) {},
		Send: func(a *Ask) { asks = append(asks, a) },
	}), &asks
}

// TestEntriesAreFoundWhileTheTableChanges: readers without a lock find what stays,
// while other entries come and go and the chains grow.
func TestEntriesAreFoundWhileTheTableChanges(t *testing.T) {
	table, _ := quiet(0)
	set := softSet(1000, 1000)
	const stay = 100
	name := func(i int) string { return fmt.Sprint("stays:", i) }
	for i := range stay {
		table.Put(1, "p", name(i), &set, nil)
	}
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for i := range stay {
					e := table.Get("p", name(i))
					if e == nil { // it stood on an entry that moved
						e = table.Put(2, "p", name(i), &set, nil)
					}
					if e.Key() != name(i) || e.Take(2, 1).Verdict == Store {
						t.Errorf("found %q instead of %q", e.Key(), name(i))
						return
					}
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for i := range 2000 {
				e := table.Put(2, "p", fmt.Sprint(w, i), &set, nil)
				if i%2 == 0 {
					e.mu.Lock()
					e.end(2)
					e.unlock()
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if n := table.Len(); n != stay+2000 {
		t.Errorf("%d entries", n)
	}
	for w := range 2 {
		for i := range 2000 {
			if found := table.Get("p", fmt.Sprint(w, i)) != nil; found != (i%2 == 1) {
				t.Fatalf("entry %d of writer %d is found: %v", i, w, found)
			}
		}
	}
}

func TestAFullTableTakesNoMore(t *testing.T) {
	table, _ := quiet(2)
	set := softSet(10, 10)
	for i, want := range []bool{true, true, false} {
		if got := table.Put(1, "p", fmt.Sprint(i), &set, nil) != nil; got != want {
			t.Errorf("entry %d is made: %v", i, got)
		}
	}
	// When the idle have left there is room again.
	for now := int64(1); table.Len() > 0; now += second / 10 {
		table.Tick(now)
		if now > 60*second {
			t.Fatal("idle entries stay")
		}
	}
	if table.Put(61*second, "p", "2", &set, nil) == nil {
		t.Error("an empty table is full")
	}
	table.Close(62 * second)
	if table.Len() != 0 || table.Put(63*second, "p", "3", &set, nil) != nil {
		t.Error("a closed table takes entries")
	}
}

// TestWhatIsNotSpentFromMemory: strict policies, and those that are tried out.
func TestWhatIsNotSpentFromMemory(t *testing.T) {
	table, _ := quiet(0)
	for name, change := range map[string]func(*api.SetInfo){
		"strict": func(s *api.SetInfo) { s.Mode = api.Strict },
		"shadow": func(s *api.SetInfo) { s.Enforcement = api.Shadow },
		"off":    func(s *api.SetInfo) { s.Enforcement = api.Off },
		"empty":  func(s *api.SetInfo) { s.Limits = nil },
	} {
		set := leasedSet(10, 10)
		change(&set)
		if table.Put(1, "p", name, &set, nil) != nil {
			t.Errorf("%s: there is an entry", name)
		}
	}
	set := leasedSet(10, 10)
	set.Mode, set.Unavailable = api.Strict, api.FailLocal
	e := table.Put(1, "p", "local", &set, nil)
	if e == nil || e.Take(2, 1).Verdict != Store {
		t.Fatal("a strict policy with the rule local is the store's while there is one")
	}
	for i := range 12 {
		if out := e.TakeLocal(2, 1); (out.Verdict == Allowed) != (i < 10) {
			t.Errorf("local take %d: %+v", i, out)
		}
	}
	if !e.RefundLocal(3, 2) || e.TakeLocal(3, 2).Verdict != Allowed {
		t.Error("a local refund is lost")
	}
	// What the store says counts more.
	e.Learn(4, &set, &api.Result{Status: api.StatusAllowed, Limits: []api.LimitValues{{Remaining: 3, ResetAfter: 700_000}}})
	if out := e.TakeLocal(4, 4); out.Verdict != Denied || out.Left != 3 || out.RetryAfter != second/10 {
		t.Errorf("%+v", out)
	}
}

// lease gives a waiting entry what it asks for, or less.
func grant(t *testing.T, set *api.SetInfo, a *Ask, now, most int64) (granted int64) {
	t.Helper()
	for i := range a.Ops {
		op := &a.Ops[i]
		res := &api.Result{Status: api.StatusSettled, Hold: &api.HoldOutcome{}}
		if op.Kind == api.Lease {
			granted = max(op.Hold.Need, min(op.Cost, most))
			res = &api.Result{
				Status: api.StatusLeased, Limits: []api.LimitValues{{Remaining: 50, ResetAfter: 1000}},
				Hold: &api.HoldOutcome{ID: op.Hold.ID, Granted: granted},
			}
		}
		a.Result(i, set, res)
	}
	a.End(now, nil)
	return granted
}

// TestALeaseFromBeginningToEnd follows one: asked for, spent, renewed ahead of need,
// settled, given back when idle.
func TestALeaseFromBeginningToEnd(t *testing.T) {
	table, asks := quiet(0)
	next := func() *Ask {
		t.Helper()
		if len(*asks) == 0 {
			t.Fatal("nothing is asked")
		}
		a := (*asks)[0]
		*asks = (*asks)[1:]
		return a
	}
	set := leasedSet(1000, 1000) // which live for 2 seconds
	e := table.Put(1, "p", "k", &set, nil)
	out := e.Take(second/100, 1)
	if out.Verdict != Wait || e.Take(second/100, 1).Wait != out.Wait {
		t.Fatalf("those who wait do not wait for one ask: %+v", out)
	}
	a := next()
	select {
	case <-out.Wait.Done():
		t.Fatal("there is no answer yet")
	default:
	}
	if n := grant(t, &set, a, second/100, 8); n != 8 || len(a.Ops) != 1 || a.Ops[0].Hold.TTL != 2000 {
		t.Fatalf("asked %+v, granted %d", a.Ops, n)
	}
	<-out.Wait.Done()
	for i := range 6 {
		if out := e.Take(second/50, 1); out.Verdict != Allowed || out.Left != 50+7-int64(i) {
			t.Fatalf("take %d: %+v", i, out)
		}
	}
	if len(*asks) != 0 {
		t.Fatal("it asks too early")
	}
	if !e.Refund(second/50, 1) || e.Refund(second/50, 100) {
		t.Error("a refund goes back, and no more than was spent")
	}
	for range 2 { // and now it runs low
		e.Take(second/50, 1)
	}
	a = next()
	if len(a.Ops) != 1 || a.Ops[0].Cost < 8 || a.Ops[0].Hold.Need != 1 {
		t.Errorf("asked %+v", a.Ops)
	}
	grant(t, &set, a, second/40, 100)
	settle := next()
	if len(settle.Ops) != 1 || settle.Ops[0].Kind != api.Settle || settle.Ops[0].Cost != 7 {
		t.Errorf("7 of 8 were spent: %+v", settle.Ops)
	}
	settle.End(second/40, errLost) // it is told again
	if e.Take(second/40, 1).Verdict != Allowed {
		t.Error("the new lease is not spent")
	}
	for now := second / 2; len(*asks) == 0; now += second / 2 {
		table.Tick(now)
	}
	a = next()
	for len(a.Ops) == 1 && a.Ops[0].Kind == api.Settle && a.Ops[0].Cost == 7 { // the one that was lost
		a.End(second, errLost)
		for now := second; len(*asks) == 0; now += second / 2 {
			table.Tick(now)
		}
		a = next()
	}
	if out := e.Take(3*second, 1); out.Verdict == Allowed {
		t.Errorf("a lease that was given back is spent: %+v", out)
	}
}

// TestALateLeaseIsNotSpent: time counts from before the lease was asked for.
func TestALateLeaseIsNotSpent(t *testing.T) {
	for _, late := range []bool{false, true} {
		table, asks := quiet(0)
		set := leasedSet(1000, 1000)
		e := table.Put(1, "p", "k", &set, nil)
		e.Take(2, 1)
		at := 2 * second * 63 / 64
		if late {
			at += 10
		}
		grant(t, &set, (*asks)[0], at, 100)
		if got := e.Take(at, 1).Verdict == Allowed; got == late {
			t.Errorf("late %v, and it is spent: %v", late, got)
		}
		if late && (len(*asks) < 2 || (*asks)[1].Ops[0].Kind != api.Settle || (*asks)[1].Ops[0].Cost != 0) {
			t.Error("nothing was spent of it, and so it is settled")
		}
	}
}

// TestADenialIsRemembered: until the store's retry time, by takes that are no
// smaller, and for a second at most.
func TestADenialIsRemembered(t *testing.T) {
	table, asks := quiet(0)
	set := leasedSet(10, 10)
	deny := func(now int64, retry uint64) {
		t.Helper()
		a := (*asks)[len(*asks)-1]
		a.Result(len(a.Ops)-1, &set, &api.Result{Status: api.StatusDenied, Limits: []api.LimitValues{{RetryAfter: retry, ResetAfter: retry}}})
		a.End(now, nil)
	}
	e := table.Put(1, "p", "k", &set, nil)
	e.Take(10, 5)
	deny(20, 300_000)
	if out := e.Take(second/10, 5); out.Verdict != Denied || out.RetryAfter != 300_000_000+20-second/10 {
		t.Errorf("%+v", out)
	}
	if out := e.Take(second/10, 2); out.Verdict != Wait {
		t.Errorf("a smaller take may pass: %+v", out)
	}
	deny(second/10, 5_000_000)
	if out := e.Take(second, 2); out.Verdict != Denied || out.RetryAfter != 5*second+second/10-second {
		t.Errorf("%+v", out)
	}
	if out := e.Take(second+second/10, 2); out.Verdict != Wait {
		t.Errorf("after a second it is asked again: %+v", out)
	}
	deny(second+second/10, 5_000_000)
	e.Forgive()
	if out := e.Take(second+second/10, 2); out.Verdict != Wait {
		t.Errorf("after a refund it is asked again: %+v", out)
	}
}

// TestAnotherModeEndsAnEntry: and gives back what it holds.
func TestAnotherModeEndsAnEntry(t *testing.T) {
	table, asks := quiet(0)
	set := leasedSet(1000, 1000)
	e := table.Put(1, "p", "k", &set, nil)
	e.Take(2, 1)
	grant(t, &set, (*asks)[0], 3, 100)
	e.Take(4, 1)
	strict := set
	strict.Mode = api.Strict
	e.Learn(5, &strict, &api.Result{Status: api.StatusAllowed, Limits: make([]api.LimitValues, 1)})
	if out := e.Take(6, 1); out.Verdict != Store {
		t.Errorf("%+v", out)
	}
	table.Tick(7)
	last := (*asks)[len(*asks)-1]
	if table.Len() != 0 || last.Ops[0].Kind != api.Settle || last.Ops[0].Cost != 1 {
		t.Errorf("%d entries; asked %+v", table.Len(), last.Ops)
	}
}
