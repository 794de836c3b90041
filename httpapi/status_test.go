package httpapi

import (
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestReadinessListsItsChecksAndLivenessKnowsNone(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		path   string
		ready  bool
		status int
		body   string
	}{
		{"/readyz", true, 200, "ok\n"},
		{"/readyz?verbose", true, 200, "[+]catalog ok\n[+]shards ok\nreadyz check passed\n"},
		{"/livez", true, 200, "ok\n"},
		{"/readyz", false, 503, "[+]catalog ok\n[-]shards failed: shard 3 has no leader\nreadyz check failed\n"},
		{"/readyz?verbose=1", false, 503, "[+]catalog ok\n[-]shards failed: shard 3 has no leader\nreadyz check failed\n"},
		{"/livez", false, 200, "ok\n"},
	} {
		w.set(func() { w.checks[1] = Check{Name: "shards", OK: tc.ready, Detail: "shard 3 has no leader"} })
		r := w.do("GET", tc.path, "")
		if r.StatusCode != tc.status || r.body != tc.body {
			t.Errorf("%s, ready %v: %s %q", tc.path, tc.ready, r.Status, r.body)
		}
		if (r.StatusCode == 503) != (r.Header.Get("Retry-After") != "") {
			t.Errorf("%s: %s with Retry-After %q", tc.path, r.Status, r.Header.Get("Retry-After"))
		}
		if h := w.do("HEAD", tc.path, ""); h.StatusCode != tc.status || h.body != "" {
			t.Errorf("HEAD %s: %s %q", tc.path, h.Status, h.body)
		}
	}
}

func TestTheNodeTellsOfItself(t *testing.T) {
	w := newWorld(t)
	same(t, w.do("GET", "/v1/version", "").body, `{"version":"v0.0.1","go_version":"go1"}`)
	same(t, w.do("GET", "/v1/cluster", "").body, `{"cluster_id":"c","node_id":"n1","nodes":[],"shards":[],
		"slot_map":{"version":1,"ranges":[{"from":0,"to":2047,"shard":1},{"from":2048,"to":4095,"shard":2}]},"enforcement":""}`)
	if r := w.do("GET", "/metrics", ""); r.StatusCode != 200 || r.body != "# metrics\n" {
		t.Errorf("%s %q", r.Status, r.body)
	}
}

func TestWindowsAndRoundingNeverPromiseTooMuch(t *testing.T) {
	for _, tc := range []struct {
		rate, per, burst, want int64
	}{
		{100, 1e9, 200, 2},
		{1000, 1e9, 1, 1},
		{3, 1e9, 10, 4},
		{1, 3600e9, 2, 7200},
		{1, 31_622_400e9, 1<<31 - 1, maxField},
		{1 << 30, 1e9, 1<<31 - 1, 2},
		{0, 1, 1, maxField},
	} {
		if got := fillSeconds(&api.LimitInfo{Rate: tc.rate, Per: tc.per, Burst: tc.burst}); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
	for v, want := range map[uint64]int64{0: 0, 1: 1, 999: 1, 1000: 1, 1001: 2, 1<<64 - 1: 18446744073709552} {
		if got := ceil(v, 1000); got != want {
			t.Errorf("%d: %d, want %d", v, got, want)
		}
	}
	if got := string(appendQuoted(nil, "a\"b\\c\x01é")); got != `"a\"b\\c???"` {
		t.Errorf("quoted: %s", got)
	}
}
