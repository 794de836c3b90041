package api

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"
)

func sampleBatch(r *rand.Rand) (*Batch, []Op) {
	b := &Batch{Atomic: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		b.Session.Seq = 1 + r.Uint64N(1000)
		b.Session.Acked = r.Uint64N(b.Session.Seq)
		b.Session.ID[r.IntN(16)] = byte(r.Uint32())
	}
	for range 1 + r.IntN(3) {
		if r.IntN(4) == 0 {
			b.Policies = append(b.Policies, PolicyRef{Inline: []byte(`[{"rate":1,"per":"1s"}]`)})
		} else {
			b.Policies = append(b.Policies, PolicyRef{Name: "p"})
		}
	}
	var ops []Op
	for range 1 + r.IntN(20) {
		op := Op{Kind: Kind(r.IntN(int(Sync) + 1))}
		if op.Kind.hasCost() {
			op.Cost = 1 + r.Int64N(MaxCost)
		}
		if !op.Kind.OnHold() {
			op.Policy = r.IntN(len(b.Policies))
			op.Key = string(bytes.Repeat([]byte("k"), 1+r.IntN(300)))
			if r.IntN(3) == 0 {
				op.RequestID = "id"
			}
		}
		if op.Kind == Sync {
			op.Instance = r.Uint64()
		} else if op.Kind >= Reserve {
			op.Hold = &Hold{ID: NewHoldID(op.Key, [14]byte{byte(r.Uint32()), 13: byte(r.Uint32())})}
			if op.Kind.setsTTL() {
				op.Hold.TTL = 1 + r.Int64N(MaxTTL)
			}
			op.Hold.CancelOnExpiry = op.Kind == Reserve && r.IntN(2) == 0
			if op.Kind == Lease {
				op.Hold.Need = 1 + r.Int64N(op.Cost)
			}
		}
		if op.Kind == Take && r.IntN(3) == 0 {
			op.MaxWait = 1 + r.Int64N(MaxWait)
		}
		ops = append(ops, op)
		b.Add(op)
	}
	return b, ops
}

func TestBatchRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		want, ops := sampleBatch(r)
		body := AppendBatch(nil, want)
		got, err := DecodeBatch(body)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		rest := got.Ops
		for i, op := range ops {
			var dec Op
			if dec, rest, err = DecodeOp(rest); err != nil || !reflect.DeepEqual(dec, op) {
				t.Fatalf("operation %d: %+v, %v; want %+v", i, dec, err, op)
			}
		}
		if len(rest) != 0 {
			t.Fatalf("%d bytes are left", len(rest))
		}
		for cut := range len(body) {
			if _, err := DecodeBatch(body[:cut]); err == nil {
				t.Fatalf("a batch of %d bytes cut to %d was accepted", len(body), cut)
			}
		}
		if _, err := DecodeBatch(append(body, 0)); err == nil {
			t.Fatal("a byte after the end was accepted")
		}
	}
}

// One spelled out, so that the layout in the comment stays true.
func TestBatchLayout(t *testing.T) {
	b := &Batch{Atomic: true, Session: Session{ID: [16]byte{0: 0xaa, 15: 0xbb}, Seq: 300, Acked: 2}}
	b.Add(Op{Kind: Take, Policy: b.Ref("api"), Cost: 5, Key: "k1", RequestID: "r"})
	b.Add(Op{Kind: Peek, Policy: b.Ref("api"), Key: "k2"})
	b.Add(Op{Kind: Take, Policy: b.Ref("api"), Cost: 5, Key: "k3", MaxWait: 300})
	want := []byte{
		1, 1 | 2,
		0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbb, 0xac, 2, 2,
		1, 0, 3, 'a', 'p', 'i',
		3,
		0x10, 0, 5, 2, 'k', '1', 1, 'r',
		1, 0, 2, 'k', '2',
		0x20, 0, 5, 0xac, 2, 2, 'k', '3',
	}
	if got := AppendBatch(nil, b); !bytes.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestReplyRoundTrip(t *testing.T) {
	set := SetInfo{Policy: "api", Revision: 7, Limits: []LimitInfo{
		{Name: "burst", Rate: 100, Per: 1e9, Burst: 200}, {Name: "daily", Rate: 100000, Per: 864e11, Burst: 100000},
	}}
	own := Commit{Shard: 9, Index: 1 << 40, Offset: 77, TimeNS: 1 << 50}
	at := Commit{Shard: 3, Index: 884213, Offset: 17, TimeNS: 93200000000}
	two := []LimitValues{{199, 0, 10_000}, {5, 1 << 33, 1 << 40}}
	results := []Result{
		{Status: StatusAllowed, Binding: 1, Limits: two},
		{Status: StatusDenied, Duplicate: true, OwnCommit: true, Commit: own, Limits: two},
		{Status: StatusState, Limits: two},
		{Status: StatusRefunded, Limits: two, Refunded: 12},
		{Status: StatusReset},
		{Status: StatusError, Code: CostExceedsBurst, Detail: "too much"},
		{Status: StatusAllowed, Limits: two, Wait: 1 << 40},
		{Status: StatusAllowed, Limits: two, Shadowed: true, OwnCommit: true, Commit: own},
		{Status: StatusLeased, Limits: two, Hold: &HoldOutcome{ID: HoldID{1, 15: 2}, Granted: 300}},
		{Status: StatusState, Limits: two},
	}
	b := BeginReply([]byte("before"), len(results), at)
	for i := range results {
		b = AppendResult(b, &results[i])
	}
	b = FinishReply(b, len("before"), [][]byte{AppendSetInfo(nil, &set)})
	b = b[len("before"):]
	MarkReplayed(b)
	if n, first, ok := ReplyLen(b); !ok || n != len(results) || first != StatusAllowed {
		t.Errorf("ReplyLen says %d, %d, %v", n, first, ok)
	}
	if _, _, ok := ReplyLen(b[:replyHeader]); ok {
		t.Error("a header alone counts as a reply with results")
	}
	r, err := DecodeReply(b)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Replayed || r.N != len(results) || r.Commit != at || !reflect.DeepEqual(r.Sets, []SetInfo{set}) {
		t.Fatalf("head %+v", r)
	}
	var got Result
	for i, want := range results {
		if ok, err := r.Next(&got); !ok || err != nil {
			t.Fatalf("result %d: %v, %v", i, ok, err)
		}
		if !want.OwnCommit {
			want.Commit = at
			want.Commit.Offset += uint32(i)
		}
		if len(want.Limits) == 0 {
			want.Limits = got.Limits[:0]
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("result %d: %+v\nwant %+v", i, got, want)
		}
	}
	if ok, err := r.Next(&got); ok || err != nil {
		t.Errorf("after the last one: %v, %v", ok, err)
	}
	for cut := range len(b) {
		if r, err := DecodeReply(b[:cut]); err == nil {
			for {
				ok, err := r.Next(&got)
				if err != nil {
					break
				}
				if !ok {
					t.Fatalf("a reply of %d bytes cut to %d was accepted", len(b), cut)
				}
			}
		}
	}
}

// One of each, spelled out, so that the layout in the comment stays true.
func TestSetInfoLayout(t *testing.T) {
	for _, tt := range []struct {
		set  SetInfo
		want []byte
	}{
		{SetInfo{Policy: "p", Revision: 300, Limits: []LimitInfo{{Name: "a", Rate: 1, Per: 2, Burst: 3}, {Name: "b", Algorithm: SlidingWindow, Rate: 4, Per: 5, Burst: 4}}},
			[]byte{1, 'p', 0xac, 2, 2, 1, 'a', 0, 1, 2, 3, 1, 'b', 2, 4, 5, 4}},
		{SetInfo{Policy: "p", Enforcement: Shadow, Limits: []LimitInfo{{Name: "a", Algorithm: Concurrency, Burst: 9}}},
			[]byte{1, 'p', 0, 0x81, 1, 1, 'a', 3, 0, 0, 9}},
		{SetInfo{Policy: "p", Mode: Leased, Unavailable: FailLocal, LeaseTTL: 5000, UnavailableFor: 300, Limits: []LimitInfo{{Name: "a", Rate: 1, Per: 2, Burst: 3}}},
			[]byte{1, 'p', 0, 0x81, 8, 1, 'a', 0, 1, 2, 3, 0x21, 0x88, 0x27, 0xac, 2}},
		{SetInfo{Policy: "p", Enforcement: Shadow, Mode: Soft, SyncInterval: 1000, Source: FromSoft, Limits: []LimitInfo{{Name: "a", Rate: 1, Per: 2, Burst: 3}}},
			[]byte{1, 'p', 0, 0x81, 25, 1, 'a', 0, 1, 2, 3, 2, 0xe8, 7, 2}},
		{SetInfo{Policy: "p", Unavailable: FailOpen, Source: FromOpen, Limits: []LimitInfo{{Name: "a", Rate: 1, Per: 2, Burst: 3}}},
			[]byte{1, 'p', 0, 0x81, 24, 1, 'a', 0, 1, 2, 3, 0x10, 0, 3}},
		{SetInfo{Policy: "p", Enforcement: Off, Limits: []LimitInfo{{Name: "a", Algorithm: FixedWindow, Rate: 9, Burst: 9}}, Zone: []ZoneShift{{0, 3600}, {300, -1}}},
			[]byte{1, 'p', 0, 0x81, 6, 1, 'a', 1, 9, 0, 9, 2, 0, 0xa0, 0x38, 0xac, 2, 1}},
	} {
		got := AppendSetInfo(nil, &tt.set)
		if !bytes.Equal(got, tt.want) {
			t.Errorf("%+v\ngot  %v\nwant %v", tt.set, got, tt.want)
		}
		back, rest, err := CutSetInfo(got)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(back, tt.set) {
			t.Errorf("%+v came back as %+v, %v, %v", tt.set, back, rest, err)
		}
		for cut := range len(got) {
			if _, _, err := CutSetInfo(got[:cut]); err == nil {
				t.Errorf("%+v cut to %d bytes was accepted", tt.set, cut)
			}
		}
	}
	for _, bad := range [][]byte{
		{1, 'p', 0, 0x80, 3},                       // shadow and off
		{1, 'p', 0, 0x80, 32},                      // a flag that nobody knows
		{1, 'p', 0, 0x80, 8, 0},                    // modes that say nothing
		{1, 'p', 0, 0x80, 8, 3, 1},                 // a mode that nobody knows
		{1, 'p', 0, 0x80, 8, 0x30, 1},              // a failure rule that nobody knows
		{1, 'p', 0, 0x80, 8, 1, 0},                 // leases that live for no time
		{1, 'p', 0, 0x80, 16, 0},                   // a source that needs no telling
		{1, 'p', 0, 0x80, 16, 5},                   // one that nobody knows
		{1, 'p', 0, 0x80, 4, 0},                    // a zone without shifts
		{1, 'p', 0, 0x80, 4, 1, 1, 0},              // a first shift that is not at 0
		{1, 'p', 0, 0x80, 4, 2, 0, 0, 0, 0},        // two at the same time
		{1, 'p', 0, 0x80, 4, 1, 0, 0xc2, 0xb6, 11}, // 26 hours and a second
	} {
		if s, _, err := CutSetInfo(bad); err == nil {
			t.Errorf("%v was accepted as %+v", bad, s)
		}
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	batch := &Batch{}
	for range 1000 {
		batch.Add(Op{Kind: Take, Policy: batch.Ref("api"), Cost: 1, Key: "bench:key:000012345"})
	}
	body := AppendBatch(nil, batch)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBatch(body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "takes/s")
}

// Numbers of every length are read as encoding/binary reads them, with whatever
// follows, cut short, and padded with zeros.
func TestUvarintIsEncodingBinarys(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50_000 {
		b := binary.AppendUvarint(nil, r.Uint64()>>r.IntN(64))
		if r.IntN(4) == 0 { // a longer form of the same number
			b[len(b)-1] |= 0x80
			b = append(b, 0)
		}
		for range r.IntN(12) {
			b = append(b, byte(r.Uint32()))
		}
		b = b[:len(b)-r.IntN(min(len(b), 4))]
		v, n := uvarint(b)
		if wantV, wantN := binary.Uvarint(b); v != wantV || n != wantN {
			t.Fatalf("seed %d: % x is %d in %d bytes, want %d in %d", seed, b, v, n, wantV, wantN)
		}
	}
}

func TestTextIsCheckedAlikeByWordsAndByRunes(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50_000 {
		b := make([]byte, r.IntN(20))
		for i := range b {
			b[i] = byte(0x20 + r.IntN(0x5f))
		}
		if len(b) > 0 && r.IntN(2) == 0 {
			b[r.IntN(len(b))] = []byte{0, 0x1f, 0x20, 0x7e, 0x7f, 0x80, 0x9f, 0xa0, 0xff}[r.IntN(9)]
		}
		want := true
		for _, c := range string(b) {
			want = want && c >= 0x20 && c <= 0x7e
		}
		if got := printableASCII(string(b)); got != want {
			t.Fatalf("seed %d: %q: %v", seed, b, got)
		}
	}
}

func BenchmarkDecodeReply(b *testing.B) {
	const n = 1000
	reply := BeginReply(nil, n, Commit{Shard: 1, Index: 1 << 20, TimeNS: 1 << 50})
	res := Result{Status: StatusAllowed, Limits: make([]LimitValues, 1)}
	for i := range n {
		res.Limits[0] = LimitValues{Remaining: int64(2_000_000_000 - i), ResetAfter: 3_600_000_000 * uint64(i)}
		reply = AppendResult(reply, &res)
	}
	set := AppendSetInfo(nil, &SetInfo{Policy: "bench", Revision: 1, Limits: []LimitInfo{{Rate: 1, Per: 3600e9, Burst: 2e9}}})
	reply = FinishReply(reply, 0, [][]byte{set})
	b.ReportAllocs()
	for b.Loop() {
		r, err := DecodeReply(reply)
		if err != nil {
			b.Fatal(err)
		}
		for {
			ok, err := r.Next(&res)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/result")
}
