package snapshot

import (
	"bytes"
	"errors"
	"math/rand/v2"
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

// TestALengthThatIsWrongLosesOneRecord: in a large file, where nearly every place may
// claim to be the head of a record of megabytes.
func TestALengthThatIsWrongLosesOneRecord(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	sizes := make([]int, 512) // 16 MiB
	for i := range sizes {
		sizes[i] = 32 << 10
	}
	const hit, large = 100, 101
	sizes[large] = 300 << 10 // behind the damage, and of unusual length
	var want []record
	at := headerSize // of the one that is hit
	for i, size := range sizes {
		payload := make([]byte, size)
		_, _ = random.Read(payload) // never fails
		want = append(want, record{3, string(payload)})
		if i < hit {
			at += recordHeadSize + size
		}
	}
	bad := encode(t, testHeader, want...)
	bad[at+3] ^= 0x40
	found := salvaged(t, bad)
	want[hit] = record{}
	if len(found) != len(want) {
		t.Fatalf("found %d records and stretches of %d", len(found), len(want))
	}
	for i := range want {
		if found[i] != want[i] {
			t.Fatalf("record %d is another one", i)
		}
	}
}
