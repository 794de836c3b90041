package policy

import (
	"math"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func resolved(t *testing.T, doc string) *Set {
	t.Helper()
	p, errs := Parse([]byte(doc), "")
	if len(errs) > 0 {
		t.Fatal(lines(errs))
	}
	return Resolve(&p)
}

func TestModesAreResolvedToNumbers(t *testing.T) {
	const limits = "name: a\nlimits: [{rate: 5, per: 1m}]\n"
	type numbers struct {
		mode, unavailable uint8
		ttl, sync, atMost int64
		hot               bool
	}
	for doc, want := range map[string]numbers{
		limits: {},
		limits + "mode: leased\non_unavailable: open":                                              {mode: api.Leased, ttl: 5000, unavailable: api.FailOpen},
		limits + "mode: soft\nsync_interval: 250ms\non_unavailable: local\non_unavailable_for: 1m": {mode: api.Soft, sync: 250, unavailable: api.FailLocal, atMost: 60000},
		limits + "mode: auto\nlease_ttl: 2s\nhot_keys: [x]":                                        {hot: true},
	} {
		s := resolved(t, doc)
		got := numbers{s.Mode, s.Unavailable, s.LeaseTTL, s.SyncInterval, s.UnavailableFor, s.Hot != nil}
		if got != want {
			t.Errorf("%s\nis %+v, not %+v", doc, got, want)
		}
		if want.hot && (s.Hot.Mode != api.Leased || s.Hot.LeaseTTL != 2000 || !s.HotKeys["x"] || s.HotKeys["y"]) {
			t.Errorf("hot keys have %+v; named are %v", s.Hot.SetInfo, s.HotKeys)
		}
	}
}

// What a policy does not use costs its sets no byte.
func TestStrictAndClosedIsEncodedAsBefore(t *testing.T) {
	s := resolved(t, "name: a\nlimits: [{rate: 5, per: 1ms}]")
	if want := "\x01a\x00\x01\x07default\x00\x05\xc0\x84\x3d\x05"; string(s.Encoded) != want {
		t.Errorf("encoded as %q", s.Encoded)
	}
}

func TestAnOverrideThatLimitsConcurrencyIsDecidedByTheStoreAlone(t *testing.T) {
	for _, mode := range []string{"leased", "soft", "auto"} {
		p, errs := Parse([]byte("name: a\nlimits: [{rate: 5, per: 1m}]\non_unavailable: open\nmode: "+mode), "")
		if len(errs) > 0 {
			t.Fatal(lines(errs))
		}
		s := ResolveOverride(&p, []api.Limit{{Name: "c", Algorithm: concurrency, Max: 3}})
		if s.Mode != api.Strict || s.Unavailable != api.FailClosed || s.Hot != nil {
			t.Errorf("%s: %+v", mode, s.SetInfo)
		}
		if s = ResolveOverride(&p, []api.Limit{{Name: "d", Algorithm: tokenBucket, Rate: 1, Per: minute, Burst: 1}}); s.Unavailable != api.FailOpen {
			t.Errorf("%s: an override loses the failure rule: %+v", mode, s.SetInfo)
		}
	}
}

func TestSoftBound(t *testing.T) {
	bucket := api.LimitInfo{Rate: 10, Per: int64(time.Second), Burst: 100}
	for _, c := range []struct {
		limit     api.LimitInfo
		sync      time.Duration
		instances int
		want      int64
	}{
		{bucket, time.Second, 1, 0},
		{bucket, time.Second, 0, 0},
		{bucket, time.Second, 3, 2 * (100 + 20)},
		{bucket, 10 * time.Millisecond, 2, 100 + 1}, // 0.2 tokens flow in: rounded up
		{api.LimitInfo{Algorithm: api.FixedWindow, Rate: 7, Burst: 7}, time.Second, 4, 21},
		{api.LimitInfo{Rate: MaxRate, Per: int64(3 * time.Second), Burst: MaxBurst}, time.Minute, 1 << 40, math.MaxInt64},
	} {
		if got := SoftBound(&c.limit, c.sync, c.instances); got != c.want {
			t.Errorf("%+v, %v, %d instances: %d, not %d", c.limit, c.sync, c.instances, got, c.want)
		}
	}
}
