package check

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/fsm"
)

// FuzzDecode: nothing makes the decoder panic, what the store's machines accept
// it accepts, and what it reads can be written again.
func FuzzDecode(f *testing.F) {
	w := newWorld(f, 1, right(1)).run(100)
	for _, e := range append(w.log0, w.groups[0].entries...) {
		f.Add(e.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 16 {
			data = restamp(data, stampOf(data)) // the checksum is not what is tested
		}
		sets := map[string]*numbers{}
		d, err := decode(data, sets)
		if _, refused := fsm.NewBuckets(1).Apply(1, data); refused == nil && err != nil {
			t.Fatalf("the store applies what the decoder refuses: %v", err)
		}
		if err != nil || d.kind != entryTakes {
			return
		}
		again, err := decode(rebuild(t, data, func(*logGroup) {}), sets)
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.groups {
			got, want := again.groups[i], d.groups[i]
			same := got.atomic == want.atomic && got.session == want.session && got.seq == want.seq && got.acked == want.acked &&
				slices.EqualFunc(got.ops, want.ops, func(x, y logOp) bool {
					return x.kind == y.kind && x.set.same(y.set) && x.cost == y.cost && x.key == y.key && x.requestID == y.requestID
				})
			if !same {
				t.Fatalf("group %d is %+v, and written and read again %+v", i, want, got)
			}
		}
	})
}

// FuzzReadHistory: what is read is a history that can be written, read again,
// and checked.
func FuzzReadHistory(f *testing.F) {
	var b bytes.Buffer
	w := newWorld(f, 1, right(1)).run(12)
	if _, err := w.h.WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"op":{"outcome":"done","kind":"take"}}`))
	f.Add([]byte(`{"edit":{"outcome":"done","policy":{"name":"p"}}} {"op":null}`))
	in := w.input()
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHistory(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if n, err := h.WriteTo(&b); err != nil || n != int64(b.Len()) {
			t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
		}
		again, err := ReadHistory(&b)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Ops) != len(h.Ops) || len(again.Edits) != len(h.Edits) {
			t.Fatalf("%d operations and %d edits became %d and %d", len(h.Ops), len(h.Edits), len(again.Ops), len(again.Edits))
		}
		if r := Check(Input{History: h, Replicas: in.Replicas, LinearTime: 10 * time.Millisecond}); r.Ops != len(h.Ops) {
			t.Fatalf("of %d operations %d were checked", len(h.Ops), r.Ops)
		}
	})
}

// FuzzReadReplica: a torn end loses the torn line only.
func FuzzReadReplica(f *testing.F) {
	w := newWorld(f, 1, right(1)).run(40)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range w.groups[0].entries[:4] {
		if err := enc.Encode(e); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes(), 100)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		whole, err := ReadReplica("n", bytes.NewReader(data))
		if err != nil {
			return
		}
		cut = max(0, min(cut, len(data)))
		torn, err := ReadReplica("n", bytes.NewReader(data[:cut]))
		if err != nil {
			t.Fatalf("torn at %d of %d: %v", cut, len(data), err)
		}
		if len(torn.Entries) > len(whole.Entries) || len(torn.Entries) > 0 && !reflect.DeepEqual(torn.Entries, whole.Entries[:len(torn.Entries)]) {
			t.Fatalf("torn at %d of %d there are other entries", cut, len(data))
		}
	})
}
