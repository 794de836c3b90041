package raftnode

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// A connection of calls carries frames, both ways, after the handshake:
//
//	u32  length of all that follows in the frame, big-endian
//	u64  id of the call, big-endian; counted up by the caller
//	u8   method, 0 to 127; its reply has the same with bit 7 set
//	u8   status of a reply, 0 in a call
//	     payload
//
// Replies come in any order. A call of method 127 is a ping: its reply comes at
// once, from no handler.
const (
	frameHeader = 4 + frameRest
	frameRest   = 8 + 1 + 1
	maxFrame    = 16 << 20 // bytes, header included

	methods    = 127 // of handlers
	methodPing = 127
	replyBit   = 0x80
)

// The status of a reply.
const (
	replyOK         = 0
	replyProblem    = 1 // the payload is a problem
	replyOverloaded = 2 // the handler was not run; no payload
)

// maxPayload of a frame.
const maxPayload = maxFrame - frameHeader

type frame struct {
	id      uint64
	method  byte // with replyBit for a reply
	status  byte
	payload []byte
}

// append adds the frame's encoding to b.
func (f frame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(frameRest+len(f.payload)))
	b = binary.BigEndian.AppendUint64(b, f.id)
	b = append(b, f.method, f.status)
	return append(b, f.payload...)
}

// readFrame reads one frame; its payload is the caller's. It holds no more
// memory than twice what has come, or 64 KiB, whatever length a peer claims.
func readFrame(r *bufio.Reader) (frame, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	n := int64(binary.BigEndian.Uint32(h[:])) - frameRest
	if n < 0 || n > maxPayload {
		return frame{}, fmt.Errorf("a frame of %d bytes; from %d to %d are possible", n+frameHeader, frameHeader, maxFrame)
	}
	f := frame{id: binary.BigEndian.Uint64(h[4:]), method: h[12], status: h[13]}
	const piece = 64 << 10
	f.payload = make([]byte, min(n, piece))
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, noEOF(err)
	}
	for read := int64(len(f.payload)); read < n; read = int64(len(f.payload)) {
		grown := make([]byte, min(n, 2*read))
		copy(grown, f.payload)
		if _, err := io.ReadFull(r, grown[read:]); err != nil {
			return frame{}, noEOF(err)
		}
		f.payload = grown
	}
	return f, nil
}

// noEOF: the connection ended within a frame.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
