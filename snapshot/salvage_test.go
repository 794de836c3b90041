package snapshot

import (
	"bytes"
	"errors"
	"testing"
)

// salvaged is what Salvage finds, damage as a record of type 0.
func salvaged(t *testing.T, file []byte) (found []record) {
	t.Helper()
	h, err := Salvage(file, func(typ uint8, payload []byte) {
		found = append(found, record{typ, string(payload)})
	}, func(Damage) { found = append(found, record{}) })
	if err != nil || h != testHeader {
		t.Fatalf("header %+v, %v", h, err)
	}
	return found
}

// TestSalvageFindsEveryRecordThatIsWhole flips each bit behind the header.
func TestSalvageFindsEveryRecordThatIsWhole(t *testing.T) {
	want := []record{{1, "first"}, {2, ""}, {1, "third one"}}
	file := encode(t, testHeader, want...)
	var ends []int // of the records
	at := headerSize
	for _, r := range want {
		at += recordHeadSize + len(r.payload)
		ends = append(ends, at)
	}
	for i := headerSize; i < len(file); i++ {
		hit := 0
		for hit < len(ends) && i >= ends[hit] {
			hit++
		}
		for bit := range 8 {
			bad := bytes.Clone(file)
			bad[i] ^= 1 << bit
			found := salvaged(t, bad)
			expect := append(append([]record{}, want[:hit]...), record{})
			if hit < len(want) {
				expect = append(expect, want[hit+1:]...)
			}
			if len(found) != len(expect) {
				t.Fatalf("bit %d of byte %d: found %v", bit, i, found)
			}
			for k := range expect {
				if found[k] != expect[k] {
					t.Fatalf("bit %d of byte %d: found %v", bit, i, found)
				}
			}
		}
	}
	for n := headerSize; n < len(file); n++ { // cut off
		found := salvaged(t, file[:n])
		for k, r := range found {
			if r != (record{}) && r != want[k] {
				t.Fatalf("cut to %d bytes: found %v", n, found)
			}
		}
		if found[len(found)-1] != (record{}) {
			t.Fatalf("cut to %d bytes, and nothing is missing: %v", n, found)
		}
	}
	if found := salvaged(t, file); len(found) != len(want) {
		t.Errorf("of a whole file: %v", found)
	}
	for n := range headerSize {
		bad := bytes.Clone(file)
		bad[n] ^= 1
		if _, err := Salvage(bad, nil, nil); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Errorf("byte %d of the header: %v", n, err)
		}
	}
}
