package raftnode

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
)

// TestAClaimedLengthCostsNoMemory: fourteen bytes from anybody must not take a
// megabyte.
func TestAClaimedLengthCostsNoMemory(t *testing.T) {
	claim := append(binary.BigEndian.AppendUint32(nil, maxFrame-4), make([]byte, frameRest)...)
	r := bufio.NewReader(nil)
	const reads = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range reads {
		r.Reset(bytes.NewReader(claim))
		if f, err := readFrame(r); err == nil {
			t.Fatalf("a frame of %d bytes was read from %d", len(f.payload), len(claim))
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / reads; each > 128<<10 {
		t.Errorf("each took %d bytes", each)
	}
}
