package rlhttp_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rlhttp"
	"github.com/rlstore/rlstore/client/rltest"
)

const policies = `
name: api
limits: [{name: burst, rate: 2, per: 1s}]
---
name: two
limits: [{name: second, rate: 1, per: 1s}, {name: day, rate: 100, per: 24h}]
`

// hello is what is limited.
var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) })

func get(h http.Handler, header ...string) *http.Response {
	r := httptest.NewRequest("GET", "/things?n=1", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// field is a field by its name as it is written, which is not the canonical one.
func field(h http.Header, name string) []string { return h[name] }

func status(t *testing.T, r *http.Response, want int) {
	t.Helper()
	if r.StatusCode != want {
		t.Errorf("status %d, want %d", r.StatusCode, want)
	}
}

func TestADeniedRequestIsAnsweredAndNotServed(t *testing.T) {
	s := rltest.New(t, policies)
	h := rlhttp.New(s.Client(), "api")(hello)
	r := get(h)
	status(t, r, 200)
	if field(r.Header, "RateLimit-Policy")[0] != `"api";q=2` || field(r.Header, "RateLimit")[0] != `"api";r=1;t=1` {
		t.Errorf("%v", r.Header)
	}
	status(t, get(h), 200)
	r = get(h)
	status(t, r, 429)
	if r.Header.Get("Retry-After") != "1" || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%v", r.Header)
	}
	var p struct {
		Type, Title, Instance string
		Status                int
		Violated              []string `json:"violated-policies"`
	}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	if p.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" || p.Status != 429 || p.Instance != "/things" ||
		p.Title == "" || len(p.Violated) != 1 || p.Violated[0] != "api" {
		t.Errorf("%+v", p)
	}
	s.Advance(500 * time.Millisecond)
	status(t, get(h), 200)
}

func TestSeveralLimitsAreAllTold(t *testing.T) {
	h := rlhttp.New(rltest.New(t, policies).Client(), "two")(hello)
	for _, want := range []string{`"second";r=0;t=1, "day";r=99;t=864`, `"second";r=0;t=1, "day";r=99;t=864`} {
		r := get(h)
		if got := field(r.Header, "RateLimit")[0]; got != want {
			t.Errorf("RateLimit: %s, want %s", got, want)
		}
		for _, name := range []string{"RateLimit", "RateLimit-Policy"} {
			list, err := httpsfv.UnmarshalList(r.Header[name])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if again, err := httpsfv.Marshal(list); err != nil || again != r.Header[name][0] {
				t.Errorf("%s: %q is %q by the library, %v", name, r.Header[name][0], again, err)
			}
		}
	}
}

func TestKeysByHeader(t *testing.T) {
	h := rlhttp.New(rltest.New(t, policies).Client(), "two", rlhttp.WithKey(rlhttp.ByHeader("X-Api-Key")))(hello)
	status(t, get(h, "X-Api-Key", "a"), 200)
	status(t, get(h, "X-Api-Key", "b"), 200)
	status(t, get(h, "X-Api-Key", " a "), 429)
	status(t, get(h), 400)
	status(t, get(h, "X-Api-Key", "c", "X-Api-Key", "d"), 400)
	status(t, get(h, "X-Api-Key", strings.Repeat("k", 513)), 400)
	status(t, get(h, "X-Api-Key", "\xff"), 400)
}

func TestKeysByIP(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct {
		remote, forwarded, want string
		trusted                 []netip.Prefix
	}{
		{"192.0.2.7:80", "", "192.0.2.7", nil},
		{"192.0.2.7:80", "198.51.100.1", "192.0.2.7", nil},     // nobody is trusted
		{"192.0.2.7:80", "198.51.100.1", "192.0.2.7", proxies}, // not he
		{"10.0.0.1:80", "", "10.0.0.1", proxies},
		{"10.0.0.1:80", "198.51.100.1", "198.51.100.1", proxies},
		{"10.0.0.1:80", "203.0.113.9, 198.51.100.1", "198.51.100.1", proxies}, // a lie on the left
		{"10.0.0.1:80", "198.51.100.1, 10.9.9.9", "198.51.100.1", proxies},
		{"10.0.0.1:80", "10.1.1.1, 10.9.9.9", "10.1.1.1", proxies},
		{"10.0.0.1:80", "198.51.100.1, unknown", "10.0.0.1", proxies},
		{"10.0.0.1:80", "198.51.100.1, unknown, 10.9.9.9", "10.9.9.9", proxies},
		{"10.0.0.1:80", "198.51.100.1:4711", "198.51.100.1", proxies},
		{"10.0.0.1:80", "[2001:db8::1]:4711", "2001:db8::/64", proxies},
		{"10.0.0.1:80", "[2001:db8::1]", "2001:db8::/64", proxies},
		{"10.0.0.1:80", "::ffff:198.51.100.1", "198.51.100.1", proxies},
		{"[2001:db8:1:2:3:4:5:6]:80", "", "2001:db8:1:2::/64", nil},
		{"[fe80::1%eth0]:80", "", "fe80::/64", nil},
		{"[::ffff:192.0.2.7]:80", "", "192.0.2.7", nil},
		{"[::ffff:10.0.0.1]:80", "198.51.100.1", "198.51.100.1", proxies},
		{"[fd00::1]:80", "2001:db8:7::1, fd00::2", "2001:db8:7::/64", proxies},
		{"@", "198.51.100.1", "", proxies},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tc.remote
		if tc.forwarded != "" {
			// Some proxies add a field of their own in place of an element.
			for _, v := range strings.Split(tc.forwarded, ", ") {
				r.Header.Add("X-Forwarded-For", v)
			}
		}
		if got := rlhttp.ByIP(tc.trusted...)(r); got != tc.want {
			t.Errorf("%s, forwarded for %q: %q, want %q", tc.remote, tc.forwarded, got, tc.want)
		}
		r.Header.Set("X-Forwarded-For", tc.forwarded)
		if got := rlhttp.ByIP(tc.trusted...)(r); got != tc.want {
			t.Errorf("%s, forwarded for %q in one field: %q, want %q", tc.remote, tc.forwarded, got, tc.want)
		}
	}
}

func TestCostPolicyAndSkip(t *testing.T) {
	h := rlhttp.New(rltest.New(t, policies).Client(), "two",
		rlhttp.WithPolicy(func(*http.Request) string { return "api" }),
		rlhttp.WithCost(func(r *http.Request) int64 { return int64(len(r.Header.Get("Cost"))) }),
		rlhttp.WithSkip(func(r *http.Request) bool { return r.Header.Get("Probe") != "" }))(hello)
	status(t, get(h, "Cost", "xx"), 200)
	status(t, get(h, "Cost", "x"), 429)
	status(t, get(h, "Cost", ""), 200)
	status(t, get(h, "Cost", "x", "Probe", "1"), 200)
	status(t, get(h, "Cost", "xxx"), 500) // could never pass
}

func TestAnOutageIsClosedUnlessOpenIsAskedFor(t *testing.T) {
	for _, outage := range []rltest.Outage{rltest.NoLeader, rltest.NoAnswer} {
		s := rltest.New(t, policies)
		s.SetOutage(outage)
		c := s.Client(client.WithTimeout(20 * time.Millisecond))
		var told []error
		tell := rlhttp.OnError(func(_ *http.Request, err error) { told = append(told, err) })
		r := get(rlhttp.New(c, "api", tell)(hello))
		status(t, r, 503)
		if r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		status(t, get(rlhttp.New(c, "api", tell, rlhttp.FailOpen())(hello)), 200)
		if len(told) != 2 {
			t.Errorf("told of %v", told)
		}
	}
}

func TestAMissingPolicyIsNoOpenDoor(t *testing.T) {
	var told error
	h := rlhttp.New(rltest.New(t, "").Client(), "api", rlhttp.FailOpen(),
		rlhttp.OnError(func(_ *http.Request, err error) { told = err }))(hello)
	status(t, get(h), 500)
	if !errors.Is(told, client.ErrUnknownPolicy) {
		t.Errorf("told of %v", told)
	}
}

func TestADenialMayBeAnsweredOtherwise(t *testing.T) {
	h := rlhttp.New(rltest.New(t, policies).Client(), "two", rlhttp.OnDenied(
		func(w http.ResponseWriter, _ *http.Request, d client.Decision) { http.Error(w, d.Key, 420) }))(hello)
	status(t, get(h), 200)
	r := get(h)
	status(t, r, 420)
	if r.Header.Get("Retry-After") != "1" || field(r.Header, "RateLimit") == nil {
		t.Errorf("%v", r.Header)
	}
}

// TestThePolicysRuleComesFirst: what its on_unavailable lets pass passes, without
// limits that nobody counted.
func TestThePolicysRuleComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rltest.New(t, policies+"\n---\nname: public\nlimits: [{rate: 2, per: 1s}]\non_unavailable: open\n", rltest.Running())
		defer s.Close()
		h := rlhttp.New(s.Client(client.WithTimeout(time.Second)), "public")(hello)
		r := get(h)
		status(t, r, 200)
		if field(r.Header, "RateLimit") == nil {
			t.Errorf("%v", r.Header)
		}
		s.SetOutage(rltest.NoLeader)
		for range 5 {
			r = get(h)
			status(t, r, 200)
			if field(r.Header, "RateLimit") != nil || field(r.Header, "RateLimit-Policy") != nil {
				t.Errorf("%v", r.Header)
			}
		}
	})
}
