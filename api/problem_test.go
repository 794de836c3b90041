package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
)

// The table is the contract: numbers and codes are unique, unknown outcomes are
// where a change may have been applied, and what is retryable says so.
func TestProblemTable(t *testing.T) {
	numbers, codes := map[uint8]bool{}, map[Code]bool{}
	for _, c := range Codes {
		if c.Number == 0 || numbers[c.Number] || codes[c.Code] {
			t.Errorf("%s: its number %d or its code is taken", c.Code, c.Number)
		}
		numbers[c.Number], codes[c.Code] = true, true
		if http.StatusText(c.Status) == "" || c.Title == "" {
			t.Errorf("%s: status %d, title %q", c.Code, c.Status, c.Title)
		}
		if CodeNumber(c.Number) != c.Code || c.Code.Info().Status != c.Status {
			t.Errorf("%s is not found by its number or name", c.Code)
		}
		if p := NewProblem(c.Code, "x"); p.Type != "urn:rlstore:problem:"+string(c.Code) || p.Status != c.Status || p.Outcome != c.Outcome {
			t.Errorf("%s makes %+v", c.Code, p)
		}
	}
	for code, status := range map[Code]int{ // from the contract
		InvalidRequest: 400, Unauthorized: 401, Forbidden: 403, UnknownPolicy: 404, NotFound: 404,
		RevisionConflict: 412, PayloadTooLarge: 413, UnsupportedMediaType: 415, InvalidPolicy: 422,
		CostExceedsBurst: 422, CrossShard: 422, RequestIDReused: 422, TooManyRequests: 429,
		NotLeader: 421, NoLeader: 503, Overloaded: 503, Draining: 503, OutcomeUnknown: 504,
	} {
		if got := code.Info().Status; got != status {
			t.Errorf("%s has status %d, want %d", code, got, status)
		}
	}
}

func TestProblemsCompareByCodeAndKeepTheirOutcome(t *testing.T) {
	err := fmt.Errorf("take: %w", NewProblem(NoLeader, "shard %d", 3))
	if !errors.Is(err, &Problem{Code: NoLeader}) || errors.Is(err, &Problem{Code: NotLeader}) {
		t.Error("errors.Is does not compare codes")
	}
	if p := AsProblem(err); p.Code != NoLeader || p.Outcome != NotApplied || !p.Retryable {
		t.Errorf("%+v", p)
	}
	if p := AsProblem(errors.New("boom")); p.Code != Internal || p.Outcome != Unknown {
		t.Errorf("an error of unknown kind became %+v", p)
	}
	if c := Code("from-the-future").Info(); c.Outcome != Unknown || c.Code != "from-the-future" {
		t.Errorf("a code that is not in the table: %+v", c)
	}
}

func TestDurationIsTheShortestGoString(t *testing.T) {
	for in, want := range map[string]string{
		"1s": "1s", "60s": "1m", "24h": "24h", "90m": "1h30m", "1500ms": "1.5s", "8784h": "8784h", "61s": "1m1s",
	} {
		var d Duration
		if err := json.Unmarshal([]byte(`"`+in+`"`), &d); err != nil {
			t.Fatal(err)
		}
		if d.String() != want {
			t.Errorf("%s became %s, want %s", in, d, want)
		}
	}
	for _, bad := range []string{`1`, `"1"`, `"abc"`, `null1`, `{}`} {
		var d Duration
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s was accepted as %s", bad, d)
		}
	}
}

func TestCheckKeyAndCost(t *testing.T) {
	long := make([]byte, MaxKey+1)
	for i := range long {
		long[i] = 'k'
	}
	for _, key := range []string{"", string(long), "a\x00b", "a\nb", "\x7f", "\u0085", "a\xffb", "\xed\xa0\x80"} {
		if CheckKey(key) == nil {
			t.Errorf("the key %.20q was accepted", key)
		}
	}
	for _, key := range []string{"a", string(long[1:]), "ü", "日本", "a b", "\ufffd", "{}"} {
		if err := CheckKey(key); err != nil {
			t.Errorf("the key %.20q: %v", key, err)
		}
	}
	for cost, ok := range map[int64]bool{1: true, MaxCost: true, 0: false, -1: false, MaxCost + 1: false} {
		if (CheckCost(cost) == nil) != ok {
			t.Errorf("cost %d: %v", cost, CheckCost(cost))
		}
	}
}
