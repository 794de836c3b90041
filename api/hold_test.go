package api

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestHoldIDsKeepTheSlotOfTheirKeyInEveryForm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		key := strings.Repeat("k", 1+r.IntN(40))
		var random [14]byte
		for i := range random {
			random[i] = byte(r.Uint32())
		}
		id := NewHoldID(key, random)
		if id.Slot() != Slot(key) {
			t.Fatalf("the id of a hold on %q has slot %d, the key %d", key, id.Slot(), Slot(key))
		}
		for _, form := range []struct {
			text  string
			parse func(string) (HoldID, error)
			other func(string) (HoldID, error)
		}{{id.Reservation(), ParseReservation, ParsePermit}, {id.Permit(), ParsePermit, ParseReservation}} {
			if back, err := form.parse(form.text); err != nil || back != id {
				t.Fatalf("%s came back as %s, %v", form.text, back.Permit(), err)
			}
			if _, err := form.other(form.text); AsProblem(err).Code != InvalidRequest {
				t.Fatalf("%s passes for an id of the other sort: %v", form.text, err)
			}
		}
	}
}

func TestMalformedHoldIDsAreRefused(t *testing.T) {
	good := NewHoldID("k", [14]byte{1}).Reservation()
	for _, s := range []string{
		"", "rsv_", good[4:], good[:len(good)-1], good + "0", strings.ToUpper(good), "rsv_" + strings.ToUpper(good[4:]),
		strings.Replace(good, good[30:], "zzzzzz", 1), "rsv_ffff" + good[8:], " " + good,
	} {
		if _, err := ParseReservation(s); !errors.Is(err, &Problem{Code: InvalidRequest}) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestOperationsOnHoldsAreChecked(t *testing.T) {
	id := NewHoldID("k", [14]byte{1})
	other := NewHoldID("another key", [14]byte{1})
	for _, op := range []Op{
		{Kind: Reserve, Key: "k", Cost: 1},
		{Kind: Reserve, Key: "k", Cost: 0, Hold: &Hold{ID: id, TTL: 1}},
		{Kind: Reserve, Key: "", Cost: 1, Hold: &Hold{ID: id, TTL: 1}},
		{Kind: Reserve, Key: "k", Cost: 1, Hold: &Hold{ID: other, TTL: 1}},
		{Kind: Reserve, Key: "k", Cost: 1, Hold: &Hold{ID: id, TTL: 0}},
		{Kind: Acquire, Key: "k", Cost: 1, Hold: &Hold{ID: id, TTL: MaxTTL + 1}},
		{Kind: Acquire, Key: "k", Cost: MaxCost + 1, Hold: &Hold{ID: id, TTL: 1}},
		{Kind: Lease, Key: "k", Cost: 5, Hold: &Hold{ID: id, TTL: 1}},
		{Kind: Lease, Key: "k", Cost: 5, Hold: &Hold{ID: id, TTL: 1, Need: 6}},
		{Kind: Lease, Key: "k", Cost: 5, Hold: &Hold{ID: id, TTL: 0, Need: 1}},
		{Kind: Lease, Key: "k", Cost: 5, Hold: &Hold{ID: other, TTL: 1, Need: 1}},
		{Kind: Lease, Key: "k", Cost: 5, RequestID: "r", Hold: &Hold{ID: id, TTL: 1, Need: 1}},
		{Kind: Lease, Key: "k", Cost: MaxCost + 1, Hold: &Hold{ID: id, TTL: 1, Need: 1}},
		{Kind: Sync, Key: "k", Cost: -1},
		{Kind: Sync, Key: "k", Cost: MaxCost + 1},
		{Kind: Sync, Cost: 1},
		{Kind: Settle, Cost: -1, Hold: &Hold{ID: id}},
		{Kind: Settle, Cost: MaxCost + 1, Hold: &Hold{ID: id}},
		{Kind: Settle, Cost: 1, Key: "k", Hold: &Hold{ID: id}},
		{Kind: Cancel},
		{Kind: Cancel, RequestID: "r", Hold: &Hold{ID: id}},
		{Kind: Renew, Hold: &Hold{ID: id}},
		{Kind: Release, Hold: &Hold{ID: HoldID{0xff, 0xff}}},
	} {
		if err := op.Check(); !errors.Is(err, &Problem{Code: InvalidRequest}) {
			t.Errorf("%v %+v: %v", op.Kind, op, err)
		}
	}
	for _, op := range []Op{
		{Kind: Reserve, Key: "k", Cost: 1, RequestID: "r", Hold: &Hold{ID: id, TTL: MaxTTL}},
		{Kind: Settle, Cost: 0, Hold: &Hold{ID: id}},
		{Kind: Renew, Hold: &Hold{ID: id, TTL: 1}},
		{Kind: Lease, Key: "k", Cost: 5, Hold: &Hold{ID: id, TTL: 1, Need: 5}},
		{Kind: Sync, Key: "k"},
		{Kind: Sync, Key: "k", Cost: MaxCost, RequestID: "r", Instance: 1},
	} {
		if err := op.Check(); err != nil {
			t.Errorf("%v %+v: %v", op.Kind, op, err)
		}
	}
}

// One of each spelled out, so that the layout in the comment stays true.
func TestHoldOperationsLayout(t *testing.T) {
	id := HoldID{0x01, 0x02, 15: 0xff}
	raw := string(id[:])
	for _, tt := range []struct {
		op   Op
		want string
	}{
		{Op{Kind: Reserve, Policy: 1, Cost: 100, Key: "k", RequestID: "r", Hold: &Hold{ID: id, TTL: 300, CancelOnExpiry: true}},
			"\x14\x01\x64\x01k\x01r" + raw + "\xac\x02\x01"},
		{Op{Kind: Settle, Cost: 70, Hold: &Hold{ID: id}}, "\x05\x46" + raw},
		{Op{Kind: Cancel, Hold: &Hold{ID: id}}, "\x06" + raw},
		{Op{Kind: Acquire, Cost: 1, Key: "k", Hold: &Hold{ID: id, TTL: 5}}, "\x07\x00\x01\x01k" + raw + "\x05"},
		{Op{Kind: Renew, Hold: &Hold{ID: id, TTL: 5}}, "\x08" + raw + "\x05"},
		{Op{Kind: Release, Hold: &Hold{ID: id}}, "\x09" + raw},
		{Op{Kind: Lease, Policy: 1, Cost: 100, Key: "k", Hold: &Hold{ID: id, TTL: 300, Need: 7}}, "\x0a\x01\x64\x01k" + raw + "\xac\x02\x07"},
		{Op{Kind: Sync, Policy: 1, Cost: 0, Key: "k", RequestID: "r", Instance: 0x0807060504030201}, "\x1b\x01\x00\x01k\x01r\x01\x02\x03\x04\x05\x06\x07\x08"},
	} {
		if got := string(AppendOp(nil, tt.op)); got != tt.want {
			t.Errorf("%v is % x, want % x", tt.op.Kind, got, tt.want)
		}
	}
}
