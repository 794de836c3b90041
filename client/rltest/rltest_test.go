package rltest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const policies = `
name: api
limits: [{name: burst, rate: 10, per: 1s}]
---
name: day
time_zone: Europe/Berlin
limits: [{name: daily, algorithm: fixed_window, rate: 2, per: 24h}]
`

func take(t *testing.T, c *client.Client, policy, key string, cost int64) client.Decision {
	t.Helper()
	d, err := c.Take(t.Context(), policy, key, cost)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTimeStandsStillUntilATestMovesIt(t *testing.T) {
	s := rltest.New(t, policies)
	c := s.Client()
	if d := take(t, c, "api", "k", 10); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("%+v", d)
	}
	if d := take(t, c, "api", "k", 3); d.Allowed || d.RetryAfter != 300*time.Millisecond {
		t.Fatalf("%+v", d)
	}
	s.Advance(300*time.Millisecond - 1)
	if d := take(t, c, "api", "k", 3); d.Allowed {
		t.Fatalf("%+v", d)
	}
	s.Advance(1)
	if d := take(t, c, "api", "k", 3); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("%+v", d)
	}
}

func TestCalendarWindowsGoByTheStoresWallClock(t *testing.T) {
	// Half an hour before the midnight of Berlin.
	s := rltest.New(t, policies, rltest.At(time.Date(2026, 7, 1, 21, 30, 0, 0, time.UTC)))
	c := s.Client()
	if d := take(t, c, "day", "k", 2); !d.Allowed {
		t.Fatalf("%+v", d)
	}
	if d := take(t, c, "day", "k", 1); d.Allowed || d.RetryAfter != 30*time.Minute {
		t.Fatalf("%+v", d)
	}
	s.Advance(30 * time.Minute)
	if d := take(t, c, "day", "k", 1); !d.Allowed {
		t.Fatalf("%+v", d)
	}
	if want := time.Date(2026, 7, 1, 22, 0, 0, 0, time.UTC); !s.Now().Equal(want) {
		t.Errorf("it is %v, want %v", s.Now(), want)
	}
}

func TestARunningStoreKeepsTheTimeOfABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rltest.New(t, policies, rltest.Running())
		c := s.Client()
		l := c.Limiter("api", "k")
		start := time.Now()
		for range 30 {
			if err := l.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		// Ten at once, then ten a second; Wait comes up to an eighth late each time.
		if took := time.Since(start); took < 2*time.Second || took > 2500*time.Millisecond {
			t.Errorf("30 tokens took %v", took)
		}
	})
}

func TestTheRateOfAMonthIsThatOfAMeanOne(t *testing.T) {
	s := rltest.New(t, "name: m\nlimits: [{algorithm: fixed_window, rate: 2629746, per: month}]")
	if got := s.Client().Limiter("m", "k").Limit(); got != 1 {
		t.Errorf("2,629,746 a month are %v a second, want 1", got)
	}
}

func TestAnOutageHasTheOutcomeThatItClaims(t *testing.T) {
	for _, tc := range []struct {
		outage rltest.Outage
		want   error
		left   int64
	}{{rltest.NoLeader, client.ErrUnavailable, 9}, {rltest.NoAnswer, client.ErrOutcomeUnknown, 8}} {
		synctest.Test(t, func(t *testing.T) {
			s := rltest.New(t, policies)
			c := s.Client(client.WithTimeout(50 * time.Millisecond))
			take(t, c, "api", "k", 1)
			s.SetOutage(tc.outage)
			if _, err := c.Take(t.Context(), "api", "k", 1); !errors.Is(err, tc.want) {
				t.Errorf("outage %d: %v, want %v", tc.outage, err, tc.want)
			}
			s.SetOutage(rltest.Healthy)
			state, err := s.Client().Peek(t.Context(), "api", "k")
			if err != nil || state.Remaining != tc.left {
				t.Errorf("outage %d: %d left, want %d; %v", tc.outage, state.Remaining, tc.left, err)
			}
		})
	}
}

func TestALostAnswerIsChargedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rltest.New(t, policies)
		c := s.Client()
		take(t, c, "api", "k", 1)
		s.SetOutage(rltest.NoAnswer)
		var all sync.WaitGroup
		all.Go(func() {
			d, err := c.Take(t.Context(), "api", "k", 1)
			if err != nil || d.Remaining != 8 {
				t.Errorf("%+v, %v", d, err)
			}
		})
		time.Sleep(time.Second) // of the bubble: while the client repeats itself
		s.SetOutage(rltest.Healthy)
		all.Wait()
		if d := take(t, c, "api", "k", 1); d.Remaining != 7 {
			t.Errorf("%d left, want 7", d.Remaining)
		}
	})
}

func TestTheCatalogIsThere(t *testing.T) {
	s := rltest.New(t, "")
	c := s.Client()
	if _, err := c.Take(t.Context(), "api", "k", 1); !errors.Is(err, client.ErrUnknownPolicy) {
		t.Fatal(err)
	}
	p := api.Policy{Name: "api", Limits: []api.Limit{{Rate: 1, Per: api.Duration(time.Second)}}}
	if _, err := c.PutPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutOverride(t.Context(), "api", api.Override{
		Key: "vip", Limits: []api.Limit{{Rate: 5, Per: api.Duration(time.Second)}}, TTL: api.Duration(time.Hour), Reason: "a customer",
	}); err != nil {
		t.Fatal(err)
	}
	if d := take(t, c, "api", "vip", 1); d.Limit != 5 {
		t.Errorf("limit %d, want that of the override", d.Limit)
	}
	s.Advance(time.Hour)
	if d := take(t, c, "api", "vip", 1); d.Limit != 1 {
		t.Errorf("limit %d after the override's time", d.Limit)
	}
	if d, err := c.Take(t.Context(), "", "k", 1, client.Inline(api.Limit{Rate: 3, Per: api.Duration(time.Second)})); err != nil || d.Limit != 3 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestWhatLiesInSeveralShardsIsNotAtomic(t *testing.T) {
	c := rltest.New(t, policies).Client()
	var apart []client.Request
	for _, k := range strings.Split("abcdefgh", "") {
		apart = append(apart, client.Request{Policy: "api", Key: k})
	}
	if _, err := c.TakeBatch(t.Context(), apart, client.Atomic()); !errors.Is(err, client.ErrCrossShard) {
		t.Errorf("%v, want that it crosses shards", err)
	}
	rs, err := c.TakeBatch(t.Context(), apart)
	if err != nil || len(rs) != len(apart) || rs[7].Err != nil || !rs[7].Allowed {
		t.Errorf("%+v, %v", rs, err)
	}
}

func TestAnyHTTPClientMayUseIt(t *testing.T) {
	s := rltest.New(t, policies)
	h := &http.Client{Transport: s}
	resp, err := h.Post("http://any/v1/take", api.MediaJSON, strings.NewReader(`{"policy":"api","key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(body), `{"allowed":true,`) {
		t.Errorf("%s, %v", body, err)
	}
	if got := resp.Header.Values("RateLimit"); len(got) != 1 || got[0] != `"burst";r=9;t=1` {
		t.Errorf("RateLimit: %q", got)
	}
}

func TestWrongPoliciesAreRefused(t *testing.T) {
	_, err := rltest.Open("name: api\nlimits: [{rate: 0, per: 1s}]\n")
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != api.InvalidPolicy {
		t.Errorf("%v", err)
	}
}

func TestAContextThatEndedIsSeen(t *testing.T) {
	c := rltest.New(t, policies).Client()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Take(ctx, "api", "k", 1); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
