package limiter

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
)

func TestLeadershipTroubleIsNotTheCallersBusiness(t *testing.T) {
	for _, tc := range []struct {
		name   string
		faults []fault
	}{
		{"not the leader after all", []fault{refusedNotLeader, refusedNotLeader}},
		{"sealed, and not the leader", []fault{sealedNotLeader}},
		{"a leader that cannot serve yet", []fault{refusedNoLeader, refusedNoLeader, refusedNoLeader}},
		{"a leader that hands over", []fault{refusedDraining, refusedNotLeader}},
		{"slots that arrive late", []fault{disownedSlots, disownedSlots}},
	} {
		for _, node := range []string{"n1", "n2"} { // the leader, and one that forwards
			t.Run(tc.name+" at "+node, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newFake(t)
					c.script(1, tc.faults...)
					reply, err := c.nodes[node].Do(bg, batchOf(take("api", keyIn(1, 0))), Options{})
					if err != nil {
						t.Fatal(err)
					}
					if _, all := results(t, reply); all[0].Status != api.StatusAllowed || all[0].Limits[0].Remaining != 99 {
						t.Errorf("%+v", all[0])
					}
					if n := c.applied(1); n != 1 {
						t.Errorf("it was charged %d times", n)
					}
				})
			})
		}
	}
}

func TestAStaleBeliefCostsAnotherTryAndNoSecondHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.nodes["n1"].believe[2] = "n3"
		if _, err := c.nodes["n1"].Do(bg, batchOf(take("api", keyIn(2, 0))), Options{}); err != nil {
			t.Fatal(err)
		}
		if submits, forwards := c.counts(); submits != 1 || forwards != 2 {
			t.Errorf("%d parts, %d hops; want 1 and 2, both from n1", submits, forwards)
		}
	})
}

func TestUnknownIsTriedAgainOnlyIfTheRepetitionIsRecognised(t *testing.T) {
	k := keyIn(1, 0)
	for _, tc := range []struct {
		name  string
		batch *api.Batch
		again bool
	}{
		{"take", batchOf(take("api", k)), false},
		{"take with a request id", batchOf(take("api", k).id("a")), true},
		{"refund", batchOf(take("api", k).as(api.Refund)), false},
		{"refund with a request id", batchOf(take("api", k).as(api.Refund).id("b")), true},
		{"peek", batchOf(take("api", k).as(api.Peek).cost(0)), true},
		{"reset", batchOf(take("api", k).as(api.Reset).cost(0)), false},
		{"lease", batchOf(take("api", k).lease()), false},
		{"lease in a session", session(batchOf(take("api", k).lease()), 1), true},
		{"one of two with an id", batchOf(take("api", k).id("c"), take("api", k)), false},
		{"take with an id and a peek", batchOf(take("api", k).id("d"), take("api", k).as(api.Peek).cost(0)), true},
		{"take beside a bad one", batchOf(take("api", k), take("nope", k)), false},
		{"take with a request id beside a bad one", batchOf(take("api", k).id("g"), take("nope", k)), true},
		{"session with a bad one", session(batchOf(take("api", k), take("nope", k)), 2), true},
		{"takes in a session", session(batchOf(take("api", k), take("api", k)), 1), true},
		{"atomic", atomically(batchOf(take("api", k), take("api", k))), false},
		{"atomic with ids", atomically(batchOf(take("api", k).id("e"), take("api", k).id("f"))), true},
	} {
		for _, lost := range []fault{unknownApplied, unknownLost} {
			for _, node := range []string{"n1", "n3"} {
				name := tc.name + ", applied, at " + node
				if lost == unknownLost {
					name = tc.name + ", lost, at " + node
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						once := newFake(t) // what it would be without a fault
						if _, err := once.nodes[node].Do(bg, tc.batch, Options{}); err != nil {
							t.Fatal(err)
						}
						c := newFake(t)
						c.script(1, lost)
						_, err := c.nodes[node].Do(bg, tc.batch, Options{})
						submits, _ := c.counts()
						if !tc.again {
							wantProblem(t, err, api.OutcomeUnknown)
							if submits != 1 {
								t.Errorf("it was sent %d times", submits)
							}
							return
						}
						if err != nil {
							t.Fatal(err)
						}
						if submits != 2 || c.applied(1) != once.applied(1) {
							t.Errorf("%d attempts charged %d operations; want 2 and %d", submits, c.applied(1), once.applied(1))
						}
					})
				})
			}
		}
	}
}

func TestAnAtomicBatchThatTheShardRefusesIsAnError(t *testing.T) {
	c := newFake(t)
	c.script(1, refusedByMachine)
	_, err := c.nodes["n2"].Do(bg, atomically(batchOf(take("api", keyIn(1, 0)), take("api", keyIn(1, 1)))), Options{})
	wantProblem(t, err, api.RequestIDReused)
	// Otherwise the errors are results.
	c.script(1, refusedByMachine)
	reply, err := c.nodes["n2"].Do(bg, batchOf(take("api", keyIn(1, 0))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Code != api.RequestIDReused {
		t.Errorf("%+v", all[0])
	}
}

func TestWhatWasOnceUnknownStaysUnknown(t *testing.T) {
	for name, faults := range map[string][]fault{
		"then overloaded":  {unknownApplied, refusedOverloaded},
		"then no leader":   append([]fault{unknownApplied}, repeat(refusedNoLeader, 1000)...),
		"then never taken": {unknownApplied, neverSealed},
		"then moved":       {unknownApplied, disownedSlots},
		"then a bug":       {unknownApplied, refusedInternal},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				c.script(1, faults...)
				_, err := c.nodes["n1"].Do(short(t), batchOf(take("api", keyIn(1, 0)).id("x")), Options{})
				wantProblem(t, err, api.OutcomeUnknown)
			})
		})
	}
}

// TestARefusalSaysNothingOfASendingBefore: what is known by its hold alone may have
// been done by the first sending, though the second is refused.
func TestARefusalSaysNothingOfASendingBefore(t *testing.T) {
	k := keyIn(1, 0)
	hold := &api.Hold{ID: api.NewHoldID(k, [14]byte{1}), TTL: 1000}
	held := func(o namedOp) namedOp { o.Hold = hold; return o }
	for name, tc := range map[string]struct {
		batch  *api.Batch
		hidden bool
	}{
		"a reservation":                   {batchOf(held(take("api", k).as(api.Reserve))), true},
		"a permit":                        {batchOf(held(take("api", k).as(api.Acquire))), true},
		"a renewal":                       {&api.Batch{N: 1, Ops: api.AppendOp(nil, api.Op{Kind: api.Renew, Hold: hold})}, true},
		"a reservation with a request id": {batchOf(held(take("api", k).as(api.Reserve).id("x"))), false},
		"a reservation in a session":      {session(batchOf(held(take("api", k).as(api.Reserve))), 1), false},
		"a take with a request id":        {batchOf(take("api", k).id("y")), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				c.script(1, unknownLost, refusedByMachine)
				reply, err := c.nodes["n1"].Do(bg, tc.batch, Options{})
				if tc.hidden {
					wantProblem(t, err, api.OutcomeUnknown)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, all := results(t, reply); all[0].Code != api.RequestIDReused {
					t.Errorf("%+v", all[0])
				}
			})
		})
	}
}

func repeat(f fault, n int) []fault {
	all := make([]fault, n)
	for i := range all {
		all[i] = f
	}
	return all
}

func TestOverloadAndBugsAreToldAtOnce(t *testing.T) {
	for f, code := range map[fault]api.Code{refusedOverloaded: api.Overloaded, refusedInternal: api.Internal} {
		c := newFake(t)
		c.script(1, f)
		_, err := c.nodes["n2"].Do(bg, batchOf(take("api", keyIn(1, 0)).id("x")), Options{})
		wantProblem(t, err, code)
		if submits, _ := c.counts(); submits != 1 {
			t.Errorf("%s: %d attempts", code, submits)
		}
	}
}

func TestAPartThatNobodyTookIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.script(1, neverSealed)
		_, err := c.nodes["n1"].Do(short(t), batchOf(take("api", keyIn(1, 0))), Options{})
		if p := wantProblem(t, err, api.Overloaded); p.RetryAfter == 0 {
			t.Error("it advises no wait")
		}
		if c.last.Seal() {
			t.Error("the log may still apply it")
		}
		// A log that refuses it now has nobody to tell, and harms nobody.
		c.last.Done(nil, api.NewProblem(api.Overloaded, "late"))
		if len(c.last.signal) != 0 {
			t.Error("Done reached a part that was withdrawn")
		}
	})
}

func TestAPartThatWasTakenIsUnknownAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.script(1, sealedForever)
		_, err := c.nodes["n1"].Do(short(t), batchOf(take("api", keyIn(1, 0))), Options{})
		wantProblem(t, err, api.OutcomeUnknown)
		c.last.Done(nil, nil) // the late answer blocks nobody
	})
}

func TestACancelledCallerIsNotWaitedFor(t *testing.T) {
	c := newFake(t)
	c.script(1, neverSealed)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	_, err := c.nodes["n1"].Do(ctx, batchOf(take("api", keyIn(1, 0))), Options{})
	wantProblem(t, err, api.Overloaded)
}

func TestAShardWithoutALeaderIsWaitedForWithinTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.setLeader(1, "")
		start := time.Now()
		_, err := c.nodes["n2"].Do(short(t), batchOf(take("api", keyIn(1, 0))), Options{})
		if p := wantProblem(t, err, api.NoLeader); p.RetryAfter == 0 {
			t.Error("it advises no wait")
		}
		if took := time.Since(start); took > 150*time.Millisecond-answerMargin || took == 0 {
			t.Errorf("it gave up after %v", took)
		}

		start = time.Now()
		_, err = c.nodes["n2"].Do(bg, batchOf(take("api", keyIn(1, 0))), Options{})
		wantProblem(t, err, api.NoLeader)
		if took := time.Since(start); took > DefaultPatience || took < DefaultPatience-lastWait-answerMargin {
			t.Errorf("without a deadline it gave up after %v", took)
		}

		go func() {
			time.Sleep(time.Second)
			c.setLeader(1, "n3")
		}()
		if _, err := c.nodes["n2"].Do(bg, batchOf(take("api", keyIn(1, 0))), Options{}); err != nil {
			t.Errorf("a leader was elected in time, and yet: %v", err)
		}
	})
}

func TestNoForwardSendsTheCallerToTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		n := c.nodes["n1"]
		no := Options{NoForward: true}
		start := time.Now()
		_, err := n.Do(bg, batchOf(take("api", keyIn(2, 0))), no)
		p := wantProblem(t, err, api.NotLeader)
		if p.Leader != "http://n2" || p.Shard == nil || *p.Shard != 2 || p.SlotMapVersion != 42 {
			t.Errorf("it does not tell where to go: %+v", p)
		}
		if p := n.NotLeader(keyIn(2, 0)); p.Leader != "http://n2" || p.Shard == nil || *p.Shard != 2 || p.SlotMapVersion != 42 {
			t.Errorf("nor when asked for the key alone: %+v", p)
		}
		c.setLeader(2, "")
		if p := n.NotLeader(keyIn(2, 0)); p.Code != api.NotLeader || p.Leader != "" || p.Shard == nil || *p.Shard != 2 {
			t.Errorf("without a leader: %+v", p)
		}
		_, err = n.Do(bg, batchOf(take("api", keyIn(2, 0))), no)
		wantProblem(t, err, api.NoLeader)
		if time.Since(start) != 0 {
			t.Error("it waited")
		}
		if _, err := n.Do(bg, batchOf(take("api", keyIn(1, 0))), no); err != nil {
			t.Errorf("as the leader: %v", err)
		}
		// Leadership goes while the part waits.
		c.script(1, refusedDraining)
		go func() {
			time.Sleep(time.Millisecond)
			c.setLeader(1, "n3")
		}()
		_, err = n.Do(bg, batchOf(take("api", keyIn(1, 0))), no)
		if p := wantProblem(t, err, api.NotLeader); p.Leader != "http://n3" {
			t.Errorf("after a hand-over: %+v", p)
		}
		if _, forwards := c.counts(); forwards != 0 {
			t.Error("it was forwarded")
		}
	})
}

func TestAFailedShardFailsItsOwnRequestsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.setLeader(2, "")
		c.script(3, sealedForever)
		reply, err := c.nodes["n3"].Do(short(t), batchOf(
			take("api", keyIn(1, 0)), take("api", keyIn(2, 0)), take("api", keyIn(3, 0)), take("api", keyIn(2, 1))), Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, all := results(t, reply)
		want := []api.Code{"", api.NoLeader, api.OutcomeUnknown, api.NoLeader}
		for i, res := range all {
			if res.Code != want[i] {
				t.Errorf("result %d: %q, want %q", i, res.Code, want[i])
			}
		}
		if all[0].Status != api.StatusAllowed {
			t.Errorf("%+v", all[0])
		}
	})
}

func TestSlotsThatMovedAreFollowed(t *testing.T) {
	for name, routes := range map[string]func(key string) uint32{
		"to one shard":    func(string) uint32 { return 3 },
		"to two shards":   func(key string) uint32 { return map[bool]uint32{true: 2, false: 3}[key == keyIn(1, 0)] },
		"only some slots": func(key string) uint32 { return map[bool]uint32{true: 1, false: 3}[key == keyIn(1, 0)] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				c.script(1, disownedSlots)
				move := func() {
					for _, n := range c.nodes {
						n.mu.Lock()
						n.routes = func(slot uint16) uint32 {
							if slot == api.Slot(keyIn(1, 0)) {
								return routes(keyIn(1, 0))
							}
							return routes("")
						}
						n.mu.Unlock()
					}
				}
				go func() {
					time.Sleep(time.Millisecond)
					move()
				}()
				reply, err := c.nodes["n1"].Do(bg, batchOf(take("api", keyIn(1, 0)), take("api", keyIn(1, 1))), Options{})
				if err != nil {
					t.Fatal(err)
				}
				_, all := results(t, reply)
				if all[0].Commit.Shard != routes(keyIn(1, 0)) || all[1].Commit.Shard != routes("") {
					t.Errorf("decided by shards %d and %d", all[0].Commit.Shard, all[1].Commit.Shard)
				}
			})
		})
	}
}

func TestAForwardedBatchIsNotTrusted(t *testing.T) {
	enc := func(b *api.Batch) []byte { return api.AppendBatch(nil, b) }
	good := take("api", keyIn(1, 0))
	inline := &api.Batch{Policies: []api.PolicyRef{{Inline: []byte(`[{"name":"x","rate":5,"per":"1s"}]`)}}}
	inline.Add(good.Op)
	for _, tc := range []struct {
		name  string
		node  string
		shard uint32
		body  []byte
		code  api.Code // of the batch
		item  api.Code // of its last operation
	}{
		{"right", "n1", 1, enc(batchOf(good, good)), "", ""},
		{"not the leader", "n2", 1, enc(batchOf(good)), api.NotLeader, ""},
		{"another shard's key", "n1", 1, enc(batchOf(good, take("api", keyIn(2, 0)))), api.NotLeader, ""},
		{"another shard's keys only", "n1", 1, enc(batchOf(take("api", keyIn(2, 0)))), api.NotLeader, ""},
		{"malformed", "n1", 1, []byte("hello"), api.InvalidRequest, ""},
		{"a bad key", "n1", 1, enc(batchOf(good, take("api", ""))), "", api.InvalidRequest},
		{"only a bad key", "n1", 1, enc(batchOf(take("api", ""))), "", api.InvalidRequest},
		{"an unknown policy", "n1", 1, enc(batchOf(good, take("nope", "k"))), "", api.UnknownPolicy},
		{"a cost over the burst", "n1", 1, enc(batchOf(good.cost(101))), "", api.CostExceedsBurst},
		{"atomic with a bad key", "n1", 1, enc(atomically(batchOf(good, take("api", "")))), api.InvalidRequest, ""},
		{"limits without leave", "n1", 1, enc(inline), "", api.InvalidRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newFake(t)
			n := c.nodes[tc.node]
			n.allowInline = false
			c.setLeader(2, "n1") // so that only n1's own check keeps shard 2's keys out of this batch
			reply, err := n.Forwarded(bg, tc.shard, tc.body)
			if _, forwards := c.counts(); forwards != 0 {
				t.Error("a second hop")
			}
			if tc.code != "" {
				wantProblem(t, err, tc.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, all := results(t, reply)
			if got := all[len(all)-1].Code; got != tc.item {
				t.Errorf("the last operation: %q, want %q", got, tc.item)
			}
		})
	}
}

// A node that has just started may lack a policy that exists: it waits until it
// has caught up, or says that nothing was applied, but never "unknown policy".
func TestAStartingNodeDeniesNoPolicy(t *testing.T) {
	c := newFake(t)
	n := c.nodes["n1"]
	n.starting.Store(true)
	late := take("late", keyIn(1, 0))
	isNoLeader := func(what string, err error) {
		t.Helper()
		if p := api.AsProblem(err); err == nil || p.Code != api.NoLeader || p.Outcome != api.NotApplied {
			t.Errorf("%s: %v; want no-leader, not applied", what, err)
		}
	}
	_, err := n.Do(bg, batchOf(late), Options{NoForward: true})
	isNoLeader("a caller that forwards itself", err)
	_, err = n.Forwarded(bg, 1, api.AppendBatch(nil, batchOf(late)))
	isNoLeader("a peer", err)
	ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	_, err = n.Do(ctx, batchOf(late), Options{})
	isNoLeader("a caller without patience", err)

	done := make(chan error, 1)
	go func() {
		_, err := n.Do(bg, batchOf(take("api", keyIn(1, 0))), Options{})
		done <- err
	}()
	n.starting.Store(false)
	if err := <-done; err != nil {
		t.Errorf("a caller with patience: %v", err)
	}
}

// A node that was removed hears of no policy any more: it decides nothing and says
// so at once.
func TestARemovedNodeDecidesNothing(t *testing.T) {
	n := newFake(t).nodes["n1"]
	n.removed.Store(true)
	b := batchOf(take("api", keyIn(1, 0)))
	_, asked := n.Do(bg, b, Options{})
	_, forwarded := n.Forwarded(bg, 1, api.AppendBatch(nil, b))
	for what, err := range map[string]error{"a caller": asked, "a peer": forwarded} {
		if p := api.AsProblem(err); err == nil || p.Code != api.Draining || p.Outcome != api.NotApplied {
			t.Errorf("%s: %v; want draining, not applied", what, err)
		}
	}
}
