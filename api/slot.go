package api

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// Slots is the number of parts of the key space. It never changes in the life
// of a cluster: shards own slots, and slots move between shards.
const Slots = 4096

// Slot returns the part of the key space, 0 to Slots-1, that key belongs to:
// xxhash64(Tag(key)) mod 4096.
func Slot(key string) uint16 { return uint16(Hash(Tag(key)) % Slots) }

// Tag returns the part of key that decides its slot: the text inside the first
// "{…}" if there is one and it is not empty, else the whole key. Keys that
// share a tag share a slot and hence a shard, so that one atomic batch may
// hold them all.
func Tag(key string) string {
	open := strings.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
		return key[open+1 : open+1+n]
	}
	return key
}

const (
	prime1 uint64 = 11400714785074694791
	prime2 uint64 = 14029467366897019727
	prime3 uint64 = 1609587929392839161
	prime4 uint64 = 9650029242287828579
	prime5 uint64 = 2870177450012600261
)

// Hash is xxHash64 with seed 0.
//
// Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. It
// stands here because this package, and with it the client, imports nothing
// beyond the standard library; a test compares it with cespare/xxhash.
func Hash(s string) uint64 {
	n := uint64(len(s))
	var h uint64
	if len(s) >= 32 {
		var v1, v2, v3, v4 uint64 = prime1, prime2, 0, 0
		v1 += prime2
		v4 -= prime1
		for len(s) >= 32 {
			v1 = round(v1, le64(s))
			v2 = round(v2, le64(s[8:]))
			v3 = round(v3, le64(s[16:]))
			v4 = round(v4, le64(s[24:]))
			s = s[32:]
		}
		h = bits.RotateLeft64(v1, 1) + bits.RotateLeft64(v2, 7) +
			bits.RotateLeft64(v3, 12) + bits.RotateLeft64(v4, 18)
		h = merge(h, v1)
		h = merge(h, v2)
		h = merge(h, v3)
		h = merge(h, v4)
	} else {
		h = prime5
	}
	h += n
	for ; len(s) >= 8; s = s[8:] {
		h ^= round(0, le64(s))
		h = bits.RotateLeft64(h, 27)*prime1 + prime4
	}
	if len(s) >= 4 {
		h ^= uint64(le32(s)) * prime1
		h = bits.RotateLeft64(h, 23)*prime2 + prime3
		s = s[4:]
	}
	for i := range len(s) {
		h ^= uint64(s[i]) * prime5
		h = bits.RotateLeft64(h, 11) * prime1
	}
	h ^= h >> 33
	h *= prime2
	h ^= h >> 29
	h *= prime3
	h ^= h >> 32
	return h
}

func round(acc, input uint64) uint64 {
	return bits.RotateLeft64(acc+input*prime2, 31) * prime1
}

func merge(acc, v uint64) uint64 { return (acc^round(0, v))*prime1 + prime4 }

func le64(s string) uint64 {
	var b [8]byte
	copy(b[:], s[:8])
	return binary.LittleEndian.Uint64(b[:])
}

func le32(s string) uint32 {
	var b [4]byte
	copy(b[:], s[:4])
	return binary.LittleEndian.Uint32(b[:])
}
