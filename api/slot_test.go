package api

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// Our xxHash64 is the well-known one, for every length around its block sizes.
func TestHashIsXXHash64(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range 600 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if got, want := Hash(string(b)), xxhash.Sum64(b); got != want {
			t.Fatalf("Hash of %x = %#x, want %#x", b, got, want)
		}
	}
}

func TestTag(t *testing.T) {
	for key, want := range map[string]string{
		"user:42":       "user:42",
		"{user:42}:get": "user:42",
		"a{b}c{d}":      "b",
		"{}x":           "{}x", // an empty tag is none
		"{}{x}":         "{}{x}",
		"a{b":           "a{b",
		"a}b{c}":        "c",
		"{{x}}":         "{x",
	} {
		if got := Tag(key); got != want {
			t.Errorf("Tag(%q) = %q, want %q", key, got, want)
		}
	}
	if Slot("{t}:a") != Slot("{t}:b") || Slot("{t}:a") != Slot("t") {
		t.Error("keys with one tag are in different slots")
	}
}

// Users compute slots in other languages: these must never change.
func TestSlotsAreFixed(t *testing.T) {
	for key, want := range map[string]uint16{
		"user:42":                uint16(xxhash.Sum64String("user:42") % 4096),
		"":                       uint16(0xef46db3751d8e999 % 4096), // xxHash64 of nothing, from its specification
		strings.Repeat("k", 512): uint16(xxhash.Sum64String(strings.Repeat("k", 512)) % 4096),
	} {
		if got := Slot(key); got != want {
			t.Errorf("Slot(%.20q) = %d, want %d", key, got, want)
		}
	}
}

func TestEvenSlotMapCoversEverySlotEvenly(t *testing.T) {
	for shards := uint32(1); shards <= 64; shards++ {
		table, err := EvenSlotMap(shards).Table()
		if err != nil {
			t.Fatal(err)
		}
		count := make([]int, shards+1)
		for _, s := range table {
			count[s]++
		}
		for s := 1; s <= int(shards); s++ {
			if n := count[s]; n < Slots/int(shards) || n > Slots/int(shards)+1 {
				t.Errorf("%d shards: shard %d owns %d slots", shards, s, n)
			}
		}
	}
}

func TestSlotMapRefusesWhatDoesNotCover(t *testing.T) {
	for name, ranges := range map[string][]SlotRange{
		"nothing":        nil,
		"a gap":          {{0, 10, 1}, {12, 4095, 2}},
		"an overlap":     {{0, 10, 1}, {10, 4095, 2}},
		"too few":        {{0, 4094, 1}},
		"too many":       {{0, 4096, 1}},
		"the catalog":    {{0, 4095, 0}},
		"an empty range": {{0, 10, 1}, {11, 9, 2}, {10, 4095, 1}},
	} {
		if _, err := (SlotMap{Version: 1, Ranges: ranges}).Table(); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	for b.Loop() {
		Hash("bench:key:000012345")
	}
}
