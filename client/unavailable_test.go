package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

const rules = `
name: closed
limits: [{rate: 10, per: 1s}]
---
name: open
limits: [{rate: 10, per: 1s}]
on_unavailable: open
---
name: local
limits: [{rate: 10, per: 1s}]
on_unavailable: local
---
name: leased
limits: [{rate: 100, per: 1s}]
mode: leased
on_unavailable: local
---
name: soft
limits: [{rate: 100, per: 1s}]
mode: soft
`

// TestTheBreakerBoundsTheCostOfAnOutage: the first call waits its timeout, the
// others are told at once; and when the store is back, they find out by themselves.
func TestTheBreakerBoundsTheCostOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, rules, rltest.Running())
		defer store.Close()
		c := store.Client(client.WithTimeout(2 * time.Second))
		if _, err := c.Take(t.Context(), "closed", "k", 1); err != nil {
			t.Fatal(err)
		}
		store.SetOutage(rltest.NoLeader)
		began := time.Now()
		for i := range 1000 {
			_, err := c.Take(t.Context(), "closed", "k", 1)
			if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) {
				t.Fatalf("take %d: %v", i, err)
			}
			if d := time.Since(began); d > 2*time.Second+time.Millisecond {
				t.Fatalf("take %d was answered after %v", i, d)
			}
		}
		time.Sleep(20 * time.Second) // nobody asks
		store.SetOutage(rltest.Healthy)
		back := time.Now()
		poll(t, "the store", func() bool {
			_, err := c.Take(t.Context(), "closed", "k", 1)
			return err == nil
		})
		if d := time.Since(back); d > 3*time.Second {
			t.Errorf("it took %v to find it", d)
		}
	})
}

// TestACancelledTakeIsNotDecidedByTheRule: who gives up gets the error of his context.
func TestACancelledTakeIsNotDecidedByTheRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, rules, rltest.Running())
		defer store.Close()
		c := store.Client()
		if _, err := c.Take(t.Context(), "open", "k", 1); err != nil {
			t.Fatal(err)
		}
		store.SetOutage(rltest.NoLeader)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		if d, err := c.Take(ctx, "open", "k", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %+v, %v", d, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if d, err := c.Take(ctx, "open", "k", 1); err != nil || d.Source != "open" {
			t.Errorf("out of time: %+v, %v", d, err)
		}
	})
}

// TestRulesWithoutTheStore: what decides, for keys that were seen and for others, and
// of which operations.
func TestRulesWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, rules, rltest.Running())
		defer store.Close()
		c := store.Client(client.WithTimeout(time.Second))
		for _, p := range []string{"open", "local", "leased", "soft"} {
			for range 4 {
				if _, err := c.Take(t.Context(), p, "seen", 1); err != nil {
					t.Fatal(err)
				}
			}
		}
		store.SetOutage(rltest.NoLeader)
		for _, key := range []string{"seen", "new"} {
			for policy, want := range map[string]string{"open": "open", "local": "local", "leased": "local", "soft": "soft"} {
				for range 2 {
					d, err := c.Take(t.Context(), policy, key, 1)
					if err != nil || !d.Allowed || d.Source != want && d.Source != "lease" {
						t.Errorf("policy %s, key %s: %+v, %v", policy, key, d, err)
					}
					if d.Source == "local" && d.Commit.Index != 0 {
						t.Errorf("policy %s: %+v is in no log", policy, d.Commit)
					}
				}
			}
			if _, err := c.Take(t.Context(), "closed", key, 1); !errors.Is(err, client.ErrUnavailable) {
				t.Errorf("closed: %v", err)
			}
		}
		results, err := c.TakeBatch(t.Context(), []client.Request{
			{Policy: "open", Key: "a"}, {Policy: "closed", Key: "b"}, {Policy: "local", Key: "new"}, {Policy: "soft", Key: "c"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"open", "", "local", "soft"} {
			if results[i].Source != want || (results[i].Err == nil) != (want != "") {
				t.Errorf("request %d: %+v", i, results[i])
			}
		}
		// What nobody charged is given back to nobody, and at once.
		if err := c.Refund(t.Context(), results[0].Decision); err != nil {
			t.Error(err)
		}
		if err := c.Refund(t.Context(), results[2].Decision); err != nil {
			t.Error(err)
		}
		if err := c.Reset(t.Context(), "open", "a"); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("rules are for takes only, but a reset has %v", err)
		}
		if results, err := c.TakeBatch(t.Context(), []client.Request{{Policy: "open", Key: "a"}}, client.Atomic()); err == nil && results[0].Err == nil {
			t.Errorf("rules are not for atomic batches: %+v", results[0])
		}
	})
}

// TestANodeWithoutALeaderTellsTheRules: it knows those of policies that the client has
// not seen, and a client that begins in an outage goes by them.
func TestANodeWithoutALeaderTellsTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := func(policy string, revision uint64, rule uint8) api.SetInfo {
			return api.SetInfo{Policy: policy, Revision: revision, Unavailable: rule,
				Limits: []api.LimitInfo{{Name: "only", Rate: 1, Per: int64(time.Hour), Burst: 2}}}
		}
		told := []api.SetInfo{set("local", 7, api.FailLocal), set("closed", 8, api.FailClosed), set("local", 6, api.FailOpen), set("closed", 5, api.FailOpen)}
		f := newBubbleFake(3, 1)
		f.inject(func(int, *api.Batch) *fault {
			p := api.NewProblem(api.NoLeader, "nobody leads")
			for i := range told { // the older ones are those of a node that lags
				p.Policies = api.AppendSetInfo(p.Policies, &told[i])
			}
			p.Policies = append(p.Policies, "and what is no policy"...)
			return &fault{problem: p}
		})
		c := f.client(t, client.WithTimeout(time.Second), client.WithUnavailable(client.Open))
		defer c.Close()
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		for i, allowed := range []bool{true, true, false} {
			d, err := c.Take(long, "local", "k", 1)
			if err != nil || d.Source != "local" || d.Allowed != allowed || d.PolicyRevision != 7 {
				t.Errorf("take %d: %+v, %v", i, d, err)
			}
		}
		if d := time.Since(began); d > 1100*time.Millisecond { // the breaker answers the others
			t.Errorf("they took %v, with a timeout of a second", d)
		}
		if d, err := c.Take(t.Context(), "closed", "k", 1); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("closed: %+v, %v", d, err)
		}
		if d, err := c.Take(t.Context(), "never told", "k", 1); err != nil || d.Source != "open" {
			t.Errorf("never told: %+v, %v", d, err)
		}
	})
}

// TestASeenPolicyThatIsClosedStaysClosed: WithUnavailable is for the others.
func TestASeenPolicyThatIsClosedStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, rules, rltest.Running())
		defer store.Close()
		c := store.Client(client.WithTimeout(time.Second), client.WithUnavailable(client.Open))
		if _, err := c.Take(t.Context(), "closed", "k", 1); err != nil {
			t.Fatal(err)
		}
		store.SetOutage(rltest.NoLeader)
		if d, err := c.Take(t.Context(), "closed", "k", 1); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// TestRuleOfPoliciesThatWereNeverSeen: with no answer ever, only WithUnavailable can
// say what holds, and only the first calls wait.
func TestRuleOfPoliciesThatWereNeverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, rules, rltest.Running())
		defer store.Close()
		store.SetOutage(rltest.NoLeader)
		for rule, want := range map[client.Rule]string{client.Closed: "", client.Open: "open", client.Local: ""} {
			c := store.Client(client.WithTimeout(time.Second), client.WithUnavailable(rule))
			began := time.Now()
			for range 100 {
				d, err := c.Take(t.Context(), "local", "k", 1)
				if d.Source != want || (err == nil) != (want != "") {
					t.Fatalf("rule %v: %+v, %v", rule, d, err)
				}
			}
			if d := time.Since(began); d > 1100*time.Millisecond {
				t.Errorf("a hundred calls took %v", d)
			}
		}
	})
}
