package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// What is decoded here comes from whoever can reach a socket. A decoder never
// panics, what it accepts survives its encoding, and what it refuses is refused
// with the error that its comment promises.

func FuzzDecodeBatch(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b, _ := sampleBatch(r)
		f.Add(AppendBatch(nil, b))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := DecodeBatch(body)
		if err != nil {
			if AsProblem(err).Code != InvalidRequest {
				t.Fatalf("%v is not an invalid request", err)
			}
			return
		}
		rest := b.Ops
		for i := range b.N {
			var op Op
			if op, rest, err = DecodeOp(rest); err != nil || op.Policy >= len(b.Policies) && !op.Kind.OnHold() {
				t.Fatalf("operation %d of an accepted batch: %+v, %v", i, op, err)
			}
			if err := op.Check(); err != nil && AsProblem(err).Code != InvalidRequest {
				t.Fatalf("%v is not an invalid request", err)
			}
		}
		if len(rest) != 0 {
			t.Fatalf("%d bytes follow the operations of an accepted batch", len(rest))
		}
		once := AppendBatch(nil, b)
		again, err := DecodeBatch(once)
		if err != nil || !bytes.Equal(AppendBatch(nil, again), once) {
			t.Fatalf("an accepted batch does not survive its encoding: %v", err)
		}
	})
}

func FuzzDecodeOp(f *testing.F) {
	for _, op := range []Op{
		{Kind: Take, Cost: 1, Key: "user:42", RequestID: "id"},
		{Kind: Take, Cost: 1, Key: "user:42", RequestID: "id", MaxWait: MaxWait},
		{Kind: Peek, Policy: MaxBatch, Key: "k"},
		{Kind: Refund, Cost: 1 << 62, Key: "{tag}k"},
		{Kind: Reset, Key: ""},
		{Kind: Reserve, Cost: 100, Key: "k", RequestID: "id", Hold: &Hold{TTL: 1, CancelOnExpiry: true}},
		{Kind: Settle, Cost: 0, Hold: &Hold{ID: HoldID{15: 1}}},
		{Kind: Cancel, Hold: &Hold{ID: HoldID{0: 0xff}}},
		{Kind: Acquire, Cost: 1, Key: "k", Hold: &Hold{TTL: MaxTTL}},
		{Kind: Renew, Hold: &Hold{TTL: 1 << 62}},
		{Kind: Release, Hold: &Hold{}},
		{Kind: Lease, Cost: 100, Key: "k", Hold: &Hold{ID: HoldID{15: 1}, TTL: 1, Need: 7}},
		{Kind: Sync, Cost: 0, Key: "k", Instance: 1 << 63},
	} {
		f.Add(AppendOp(nil, op))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		op, rest, err := DecodeOp(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, rest) {
			t.Fatal("what is left is not the end of what came")
		}
		again, none, err := DecodeOp(AppendOp(nil, op))
		if err != nil || !reflect.DeepEqual(again, op) || len(none) != 0 {
			t.Fatalf("%+v came back as %+v, %v", op, again, err)
		}
		if err := op.Check(); err == nil && op.Slot() >= Slots {
			t.Fatalf("%q is of slot %d", op.Subject(), op.Slot())
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	set := AppendSetInfo(nil, &SetInfo{Policy: "p", Limits: []LimitInfo{{Name: "l", Rate: 1, Per: 1, Burst: 1}}})
	two := AppendSetInfo(nil, &SetInfo{Policy: "q", Revision: 9, Limits: []LimitInfo{{Name: "a"}, {Name: "b"}}})
	b := BeginReply(nil, 13, Commit{Shard: 1})
	for _, r := range []Result{
		{Status: StatusAllowed, Limits: []LimitValues{{1, 2, 3}}},
		{Status: StatusDenied, Set: 1, Binding: 1, Limits: make([]LimitValues, 2), Duplicate: true, OwnCommit: true, Commit: Commit{Shard: 3}},
		{Status: StatusRefunded, Limits: []LimitValues{{1, 2, 3}}, Refunded: 7},
		{Status: StatusReset},
		{Status: StatusError, Code: NoLeader, Detail: "x"},
		{Status: StatusAllowed, Limits: []LimitValues{{1, 2, 3}}, Shadowed: true},
		{Status: StatusAllowed, Limits: []LimitValues{{1, 2, 3}}, Wait: 9},
		{Status: StatusHeld, Limits: []LimitValues{{1, 2, 3}}, Hold: &HoldOutcome{ID: HoldID{1, 2}}},
		{Status: StatusHeld, Limits: []LimitValues{{1, 2, 3}}, Hold: &HoldOutcome{ID: HoldID{1, 2}}, Shadowed: true},
		{Status: StatusSettled, Hold: &HoldOutcome{Committed: 70, Refunded: 30}},
		{Status: StatusReleased, Duplicate: true},
		{Status: StatusRenewed},
		{Status: StatusLeased, Limits: []LimitValues{{1, 2, 3}}, Hold: &HoldOutcome{ID: HoldID{1, 2}, Granted: 9}},
	} {
		b = AppendResult(b, &r)
	}
	f.Add(FinishReply(b, 0, [][]byte{set, two}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReply(b)
		if err != nil {
			return
		}
		if r.N > MaxBatch {
			t.Fatalf("%d results, more than a batch may hold", r.N)
		}
		var sets [][]byte
		for i := range r.Sets {
			sets = append(sets, AppendSetInfo(nil, &r.Sets[i]))
		}
		once := BeginReply(nil, r.N, r.Commit)
		var res Result
		n := 0
		for ; ; n++ {
			ok, err := r.Next(&res)
			if err != nil {
				return
			}
			if !ok {
				break
			}
			once = AppendResult(once, &res)
		}
		if n != r.N {
			t.Fatalf("%d results of %d", n, r.N)
		}
		once = FinishReply(once, 0, sets)
		again, err := DecodeReply(once)
		if err != nil {
			t.Fatalf("an accepted reply does not survive its encoding: %v", err)
		}
		var second Result
		twice := BeginReply(nil, again.N, again.Commit)
		for {
			ok, err := again.Next(&second)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			twice = AppendResult(twice, &second)
		}
		if twice = FinishReply(twice, 0, sets); !bytes.Equal(once, twice) {
			t.Fatalf("a reply changes with its encoding:\n%x\n%x", once, twice)
		}
	})
}

func FuzzCutSetInfo(f *testing.F) {
	f.Add(AppendSetInfo(nil, &SetInfo{Policy: "inline:a=1/1s/1"}))
	f.Add(AppendSetInfo(nil, &SetInfo{Policy: "ns/p", Revision: 1 << 63, Limits: []LimitInfo{
		{Name: "burst", Rate: 100, Per: 1e9, Burst: 200}, {Name: "daily", Algorithm: 255, Rate: 1 << 62, Per: 864e11, Burst: 0},
	}}))
	f.Add(AppendSetInfo(nil, &SetInfo{Policy: "p", Enforcement: Shadow, Limits: []LimitInfo{
		{Name: "m", Algorithm: FixedWindow, Rate: 9, Burst: 9}}, Zone: []ZoneShift{{0, 3600}, {1774746000, 7200}}}))
	f.Add(AppendSetInfo(nil, &SetInfo{Policy: "p", Mode: Leased, LeaseTTL: 5000, Unavailable: FailLocal, UnavailableFor: 60000, Source: FromLease}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, rest, err := CutSetInfo(b)
		if err != nil {
			return
		}
		if len(s.Limits) > maxReplyLimit || !bytes.HasSuffix(b, rest) {
			t.Fatalf("%d limits, and %x is left of %x", len(s.Limits), rest, b)
		}
		again, none, err := CutSetInfo(AppendSetInfo(nil, &s))
		if err != nil || len(none) != 0 || again.Policy != s.Policy || !reflect.DeepEqual(again, s) {
			t.Fatalf("%+v came back as %+v, %v", s, again, err)
		}
	})
}

func FuzzProblemJSON(f *testing.F) {
	shard := uint32(3)
	p := NewProblem(NotLeader, "shard %d is led by another node", shard)
	p.Leader, p.Shard, p.SlotMapVersion = "http://127.0.0.1:8102", &shard, 7
	for _, p := range []*Problem{p, {Code: InvalidPolicy, Errors: []FieldError{{Line: 3, Path: "limits[0].rate", Message: "no"}}}, {}} {
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := new(Problem)
		if json.Unmarshal(b, p) != nil {
			return
		}
		if p.Error() == "" || AsProblem(p) != p || !errors.Is(p, p) {
			t.Fatalf("%+v is no error", p)
		}
		if i := p.Code.Info(); i.Code != p.Code || i.Status == 0 || i.Outcome == "" {
			t.Fatalf("code %q has the row %+v", p.Code, i)
		}
		survives(t, p)
	})
}

func FuzzPolicyJSON(f *testing.F) {
	f.Add([]byte(`{"name":"api","limits":[{"name":"burst","rate":100,"per":"1s","burst":200},{"rate":1,"per":"24h"}],"mode":"strict","revision":18446744073709551615}`))
	f.Add([]byte(`{"limits":[{"per":"-1h0m0.000000001s","rate":-9223372036854775808}]}`))
	f.Add([]byte(`{"limits":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := new(Policy)
		if json.Unmarshal(b, p) == nil {
			survives(t, p)
		}
	})
}

func FuzzDurationText(f *testing.F) {
	for _, s := range []string{"1s", "24h", "1h30m", "1.5h", "-2562047h47m16.854775808s", "1us", "0", "month", "20h10m0s", "1h0m0.5s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var d, again Duration
		if d.UnmarshalJSON(text) != nil {
			return
		}
		if text, err = d.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalJSON(text); err != nil || again != d {
			t.Fatalf("%q is %d ns, is written %s, and reads back as %d ns, %v", s, d, text, again, err)
		}
	})
}

// survives checks that v's JSON decodes to JSON that is the same.
func survives[T any](t *testing.T, v *T) {
	once, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%+v was decoded and can't be encoded: %v", v, err)
	}
	again := new(T)
	if err := json.Unmarshal(once, again); err != nil {
		t.Fatalf("%s is not read back: %v", once, err)
	}
	twice, err := json.Marshal(again)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%s came back as %s, %v", once, twice, err)
	}
}
