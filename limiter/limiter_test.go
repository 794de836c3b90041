package limiter

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

var bg = context.Background()

func TestABatchOfOneShardTravelsAsItCame(t *testing.T) {
	c := newFake(t)
	k := keyIn(1, 0)
	b := batchOf(take("api", k), take("two", k).cost(2), take("api", k).as(api.Peek).cost(0))
	before := append([]byte(nil), b.Ops...)
	pl, err := c.nodes["n1"].plan(bg, b, true)
	if err != nil || !pl.whole() || pl.works[0].batch != b {
		t.Fatalf("the batch was taken apart: %+v, %v", pl, err)
	}
	reply, err := c.nodes["n1"].Do(bg, b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Ops, before) {
		t.Error("the operations were changed")
	}
	r, all := results(t, reply)
	if r.Commit.Shard != 1 || r.Commit.Index != 1 || len(all) != 3 || all[0].OwnCommit {
		t.Errorf("the reply is not that of the log: %+v", r)
	}
	if all[0].Limits[0].Remaining != 99 || all[1].Limits[1].Remaining != 18 || all[2].Limits[0].Remaining != 99 {
		t.Errorf("wrong decisions: %+v", all)
	}
	if _, forwards := c.counts(); forwards != 0 {
		t.Error("it was forwarded though this node leads the shard")
	}
}

func TestResultsKeepTheOrderOfRequestsOverShards(t *testing.T) {
	c := newFake(t)
	var ops []namedOp
	for i := range 300 {
		p := []string{"api", "two", "small"}[i%3]
		ops = append(ops, take(p, keyIn(uint32(i*7%3)+1, i%50)))
	}
	reply, err := c.nodes["n2"].Do(bg, batchOf(ops...), Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, all := results(t, reply)
	if len(all) != len(ops) || len(r.Sets) != 3 {
		t.Fatalf("%d results, %d sets", len(all), len(r.Sets))
	}
	next := map[uint32]uint32{}
	for i, res := range all {
		shard := uint32(i*7%3) + 1
		if res.Status != api.StatusAllowed || !res.OwnCommit || res.Commit.Shard != shard || res.Commit.Index != 1 {
			t.Fatalf("result %d: %+v; want one of shard %d", i, res, shard)
		}
		if res.Commit.Offset != next[shard] {
			t.Fatalf("result %d: offset %d in shard %d; want %d", i, res.Commit.Offset, shard, next[shard])
		}
		next[shard]++
		if got := r.Sets[res.Set].Policy; got != ops[i].policy {
			t.Fatalf("result %d refers to policy %q; want %q", i, got, ops[i].policy)
		}
	}
	if submits, forwards := c.counts(); submits != 3 || forwards != 2 {
		t.Errorf("%d parts, %d of them forwarded; want 3 and 2", submits, forwards)
	}
}

func TestABadOperationLeavesItsNeighboursAlone(t *testing.T) {
	good := take("api", keyIn(1, 0))
	for _, bad := range []struct {
		name string
		op   namedOp
		code api.Code
		says string
	}{
		{"no such policy", take("nope", "k"), api.UnknownPolicy, `"nope"`},
		{"empty key", take("api", ""), api.InvalidRequest, "0 bytes"},
		{"long key", take("api", strings.Repeat("x", 513)), api.InvalidRequest, "513 bytes"},
		{"control character", take("api", "a\nb"), api.InvalidRequest, "control character"},
		{"broken UTF-8", take("api", "a\xff"), api.InvalidRequest, "UTF-8"},
		{"cost 0", take("api", "k").cost(0), api.InvalidRequest, "cost is 0"},
		{"cost over the bound", take("api", "k").cost(1 << 31), api.InvalidRequest, "2147483648"},
		{"cost over the burst", take("api", "k").cost(101), api.CostExceedsBurst, "burst of the policy 100"},
		{"cost over the smallest burst", take("two", "k").cost(21), api.CostExceedsBurst, "20"},
		{"long request id", take("api", "k").id(strings.Repeat("i", 65)), api.InvalidRequest, "request_id"},
		{"peek with a request id", take("api", "k").as(api.Peek).id("x"), api.InvalidRequest, "takes no request_id"},
		{"reset with a request id", take("api", "k").as(api.Reset).id("x"), api.InvalidRequest, "takes no request_id"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			c := newFake(t)
			n := c.nodes["n3"]
			reply, err := n.Do(bg, batchOf(good, bad.op, take("two", keyIn(2, 0)), bad.op, good), Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, all := results(t, reply)
			for i, res := range all {
				switch {
				case i == 1 || i == 3:
					if res.Status != api.StatusError || res.Code != bad.code || !strings.Contains(res.Detail, bad.says) {
						t.Errorf("result %d: %s %q", i, res.Code, res.Detail)
					}
				case res.Status != api.StatusAllowed:
					t.Errorf("result %d: %+v", i, res)
				}
			}
			// Alone, it never reaches a log.
			submits, _ := c.counts()
			reply, err = n.Do(bg, batchOf(bad.op), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, all := results(t, reply); len(all) != 1 || all[0].Code != bad.code {
				t.Errorf("alone: %+v", all)
			}
			if now, _ := c.counts(); now != submits {
				t.Error("it reached a log")
			}
			// In an atomic batch it refuses all.
			_, err = n.Do(bg, atomically(batchOf(good, bad.op)), Options{})
			if p := wantProblem(t, err, bad.code); !strings.Contains(p.Detail, "request 1: ") {
				t.Errorf("the detail does not name the operation: %q", p.Detail)
			}
			if now, _ := c.counts(); now != submits {
				t.Error("the atomic batch reached a log")
			}
		})
	}
}

func TestARefundMayExceedTheBurst(t *testing.T) {
	// Of a take under an older revision with a larger one.
	c := newFake(t)
	reply, err := c.nodes["n1"].Do(bg, batchOf(take("small", "k").as(api.Refund).cost(50)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Status != api.StatusRefunded {
		t.Errorf("%+v", all[0])
	}
}

func TestAPolicyThatNobodyUsesMayBeUnknown(t *testing.T) {
	c := newFake(t)
	b := batchOf(take("api", keyIn(1, 0)))
	b.Ref("nope")
	reply, err := c.nodes["n1"].Do(bg, b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Status != api.StatusAllowed {
		t.Errorf("%+v", all[0])
	}
}

func TestAnAtomicBatchStaysWithinOneShard(t *testing.T) {
	c := newFake(t)
	a, b := keyIn(1, 0), keyIn(3, 0)
	_, err := c.nodes["n1"].Do(bg, atomically(batchOf(take("api", a), take("api", b))), Options{})
	p := wantProblem(t, err, api.CrossShard)
	for _, s := range []string{a, b, "shard 1", "shard 3", "{tag}"} {
		if !strings.Contains(p.Detail, s) {
			t.Errorf("the detail %q does not name %s", p.Detail, s)
		}
	}
	reply, err := c.nodes["n1"].Do(bg, atomically(batchOf(take("api", "a{t}"), take("two", "b{t}"))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); len(all) != 2 || all[1].Status != api.StatusAllowed {
		t.Errorf("%+v", all)
	}
	_, err = c.nodes["n1"].Do(bg, atomically(batchOf(take("api", a), take("api", a).as(api.Peek).cost(0))), Options{})
	wantProblem(t, err, api.InvalidRequest)
}

func TestASessionsBatchStaysWithinOneShard(t *testing.T) {
	c := newFake(t)
	_, err := c.nodes["n1"].Do(bg, session(batchOf(take("api", keyIn(1, 0)), take("api", keyIn(2, 0))), 1), Options{})
	wantProblem(t, err, api.CrossShard)
	if submits, _ := c.counts(); submits != 0 {
		t.Error("a part of it reached a log")
	}
}

func TestASessionsBatchWithABadOperationIsStillExactlyOnce(t *testing.T) {
	c := newFake(t)
	for try := range 2 {
		b := session(batchOf(take("api", keyIn(1, 0)), take("nope", keyIn(1, 1)), take("api", keyIn(1, 0))), 1)
		reply, err := c.nodes["n2"].Do(bg, b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, all := results(t, reply)
		if all[2].Limits[0].Remaining != 98 || all[1].Code != api.UnknownPolicy || r.Replayed != (try == 1) {
			t.Errorf("try %d: %+v, replayed %v", try, all, r.Replayed)
		}
	}
	// The number again, for another batch: the stored answer does not fit.
	_, err := c.nodes["n2"].Do(bg, session(batchOf(take("api", keyIn(1, 0))), 1), Options{})
	wantProblem(t, err, api.OutcomeUnknown)
}

// A repetition gets its first answer though the policy was edited or deleted in
// between: only the log knows that it is one. What never was in the log is
// refused as ever.
func TestARepetitionOutlivesItsPolicy(t *testing.T) {
	for _, edit := range []struct {
		name string
		do   func(n *fakeNode)
		code api.Code // of a new take of the same cost
	}{
		{"edited", func(n *fakeNode) {
			n.sets["api"] = policy.NewSet(api.SetInfo{Policy: "api", Revision: 9, Limits: []api.LimitInfo{{Name: "l", Rate: 1, Per: 1e9, Burst: 3}}})
		}, api.CostExceedsBurst},
		{"deleted", func(n *fakeNode) { delete(n.sets, "api") }, api.UnknownPolicy},
	} {
		t.Run(edit.name, func(t *testing.T) {
			c := newFake(t)
			n := c.nodes["n1"]
			single := func() *api.Batch { return batchOf(take("api", keyIn(1, 0)).cost(5).id("r")) }
			whole := func() *api.Batch {
				return session(batchOf(take("api", keyIn(1, 1)).cost(5), take("api", keyIn(1, 2))), 1)
			}
			for _, b := range []*api.Batch{single(), whole()} {
				if _, err := n.Do(bg, b, Options{}); err != nil {
					t.Fatal(err)
				}
			}
			n.mu.Lock()
			edit.do(n)
			n.mu.Unlock()

			reply, err := n.Do(bg, single(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, all := results(t, reply); all[0].Status != api.StatusAllowed || !all[0].Duplicate {
				t.Errorf("the same request id: %+v", all[0])
			}
			if reply, err = n.Do(bg, whole(), Options{}); err != nil {
				t.Fatal(err)
			}
			if r, all := results(t, reply); !r.Replayed || all[0].Status != api.StatusAllowed || all[1].Status != api.StatusAllowed {
				t.Errorf("the same session number: %+v, replayed %v", all, r.Replayed)
			}
			for name, op := range map[string]namedOp{
				"without an id": take("api", keyIn(1, 0)).cost(5), "with a new id": take("api", keyIn(1, 0)).cost(5).id("new"),
			} {
				if reply, err = n.Do(bg, batchOf(op), Options{}); err != nil {
					t.Fatal(err)
				}
				if _, all := results(t, reply); all[0].Code != edit.code {
					t.Errorf("%s: %+v; want %s", name, all[0], edit.code)
				}
			}
		})
	}
}

func TestAReusedRequestIDIsRefusedAlsoAcrossShards(t *testing.T) {
	first := take("api", keyIn(1, 0)).id("x")
	for _, tc := range []struct {
		name string
		op   namedOp
		ok   bool
	}{
		{"the same", first, true},
		{"another key in another shard", take("api", keyIn(2, 0)).id("x"), false},
		{"another policy", take("two", keyIn(1, 0)).id("x"), false},
		{"another cost", first.cost(2), false},
		{"another kind", first.as(api.Refund), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newFake(t)
			n := c.nodes["n1"]
			if _, err := n.Do(bg, batchOf(first), Options{}); err != nil {
				t.Fatal(err)
			}
			reply, err := n.Do(bg, batchOf(tc.op), Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, all := results(t, reply)
			if tc.ok && !all[0].Duplicate || !tc.ok && all[0].Code != api.RequestIDReused {
				t.Errorf("%+v", all[0])
			}
		})
	}
}

// TestARefusedTakeLeavesItsIDFree: nothing was applied, so the id may be used for
// what is mended.
func TestARefusedTakeLeavesItsIDFree(t *testing.T) {
	for name, tc := range map[string]struct {
		fault fault
		batch func(op namedOp) *api.Batch
	}{
		"no turn in time":           {neverSealed, func(op namedOp) *api.Batch { return batchOf(op) }},
		"it could never pass":       {0, func(op namedOp) *api.Batch { op.Cost = 1 << 20; return batchOf(op) }},
		"beside one that is wrong":  {0, func(op namedOp) *api.Batch { return atomically(batchOf(op, take("none", "k"))) }},
		"a batch over two shards":   {0, func(op namedOp) *api.Batch { return atomically(batchOf(op, take("api", keyIn(2, 0)))) }},
		"among others that go well": {0, func(op namedOp) *api.Batch { op.Cost = 1 << 20; return batchOf(take("api", keyIn(1, 1)), op) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				n := c.nodes["n1"]
				if tc.fault != 0 {
					c.script(1, tc.fault)
				}
				first := take("api", keyIn(1, 0)).id("x")
				reply, err := n.Do(short(t), tc.batch(first), Options{})
				if err == nil {
					_, all := results(t, reply)
					if last := all[len(all)-1]; last.Status != api.StatusError {
						t.Fatalf("it was not refused: %+v", last)
					}
				}
				mended := take("api", keyIn(1, 0)).id("x")
				mended.Cost = 2
				if reply, err = n.Do(bg, batchOf(mended), Options{}); err != nil {
					t.Fatal(err)
				}
				if _, all := results(t, reply); all[0].Status != api.StatusAllowed {
					t.Errorf("mended, under the same id: %+v", all[0])
				}
			})
		})
	}
}

func TestTheGuardRemembersAtLeastItsSize(t *testing.T) {
	g := newGuard(10)
	op := func(id string, cost int64) *api.Op { return &api.Op{Key: "k", Cost: cost, RequestID: id} }
	check := func(op *api.Op) *api.Problem { _, p := g.check(nil, 0, op, "api"); return p }
	ids := strings.Split("abcdefghijklmnopqrstuvwxyz", "")
	for i, id := range ids {
		if p := check(op(id, 1)); p != nil {
			t.Fatal(p)
		}
		for _, recent := range ids[max(0, i-9) : i+1] {
			v, ok := g.ids.young[recent]
			if !ok {
				v, ok = g.ids.old[recent]
			}
			if !ok || v != g.fingerprint(op(recent, 1), "api") {
				t.Fatalf("after %s, %s is forgotten", id, recent)
			}
		}
		if n := len(g.ids.young) + len(g.ids.old); n > 20 {
			t.Fatalf("%d ids are held", n)
		}
	}
	if p := check(op("z", 2)); p == nil || p.Code != api.RequestIDReused {
		t.Errorf("reuse: %v", p)
	}
	if p := check(op("a", 2)); p != nil {
		t.Errorf("an id long forgotten is refused: %v", p)
	}
}

func TestLimitsInARequestNeedTheServersLeave(t *testing.T) {
	c := newFake(t)
	b := func(limits string) *api.Batch {
		b := &api.Batch{Policies: []api.PolicyRef{{Inline: []byte(limits)}}}
		b.Add(api.Op{Kind: api.Take, Cost: 1, Key: keyIn(2, 0)})
		return b
	}
	const limits = `[{"name":"burst","rate":5,"per":"1s"}]`
	for range 2 { // parsed, then from the cache; forwarded both times
		reply, err := c.nodes["n1"].Do(bg, b(limits), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r, all := results(t, reply); all[0].Status != api.StatusAllowed || r.Sets[0].Limits[0].Burst != 5 {
			t.Errorf("%+v", all[0])
		}
	}
	if _, ok := c.nodes["n1"].inline.get(limits); !ok {
		t.Error("the limits are not in the cache")
	}
	reply, err := c.nodes["n1"].Do(bg, b(`[{"rate":-1}]`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Code != api.InvalidPolicy {
		t.Errorf("wrong limits: %+v", all[0])
	}
	n := c.nodes["n1"]
	strict := New(Config{Catalog: n, Log: n})
	reply, err = strict.Do(bg, b(limits), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Code != api.InvalidRequest || !strings.Contains(all[0].Detail, "not allowed") {
		t.Errorf("without leave: %+v", all[0])
	}
}
