package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Identity is who a node says it is. TLS, where it is on, vouches for it.
type Identity struct {
	ClusterID [16]byte // zero while the node belongs to no cluster
	NodeID    string   // at most 128 bytes
}

// Every connection between nodes begins with a hello from the node that dials:
//
//	u8       protocol: 'R' a Raft stream, 'C' calls
//	u8       version, 2
//	16 bytes cluster id, zero before bootstrap
//	u32      Raft group, big-endian; 0 for calls
//	uvarint  length of the id of the node that dials, at most 128, and its bytes
//	uvarint  the same of the node that it means; none means whoever answers
//	u32      CRC-32C of all before, big-endian
//
// which the other node answers, after which the protocol begins:
//
//	u8       status, see welcome…
//	u8       length of a message, and its bytes: what the refusing node does,
//	         such as "belongs to another cluster"
//
// The first two bytes and the answer are the same in every version.
const (
	protocolRaft  = 'R'
	protocolCalls = 'C'

	helloVersion = 2
	maxNodeID    = 128
)

// The status of an answer.
const (
	welcomeOK           = 0
	welcomeOtherCluster = 1
	welcomeVersion      = 2
	welcomeNoCluster    = 3 // not yet
	welcomeNoGroup      = 4 // not yet
	welcomeOtherNode    = 5 // than the one that is meant
	welcomeStatuses     = 6
)

// errGarbage: what came is no hello of any version.
var errGarbage = errors.New("not a node of rlstore")

// errSilent: nothing came at all.
var errSilent = errors.New("sent nothing")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type hello struct {
	protocol byte
	group    uint32
	from     Identity
	to       string // node id, "" for whoever answers
}

// helloVersionError: a hello of a version that this node does not speak.
type helloVersionError uint8

func (v helloVersionError) Error() string {
	return fmt.Sprintf("speaks version %d of the node protocol, not %d", helloVersion, uint8(v))
}

// append adds the hello's encoding to b.
func (h hello) append(b []byte) []byte {
	start := len(b)
	b = append(b, h.protocol, helloVersion)
	b = append(b, h.from.ClusterID[:]...)
	b = binary.BigEndian.AppendUint32(b, h.group)
	for _, id := range []string{h.from.NodeID, h.to} {
		b = binary.AppendUvarint(b, uint64(len(id)))
		b = append(b, id...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// readHello reads a hello and not a byte more. Its errors are the reader's, in
// errSilent and with io.EOF only if nothing came, a helloVersionError, or wrap
// errGarbage.
func readHello(r io.Reader) (hello, error) {
	b := make([]byte, 2, 2+16+4+2*(2+maxNodeID)+4)
	if n, err := io.ReadFull(r, b); err != nil {
		if n == 0 {
			err = fmt.Errorf("%w: %w", errSilent, err)
		}
		return hello{}, err
	}
	if err := checkProtocol(b[0], b[1]); err != nil {
		return hello{}, err
	}
	more := func(n int) ([]byte, error) {
		b = b[:len(b)+n]
		_, err := io.ReadFull(r, b[len(b)-n:])
		return b[len(b)-n:], noEOF(err)
	}
	h := hello{protocol: b[0]}
	fixed, err := more(16 + 4)
	if err != nil {
		return hello{}, err
	}
	copy(h.from.ClusterID[:], fixed)
	h.group = binary.BigEndian.Uint32(fixed[16:])
	for _, id := range []*string{&h.from.NodeID, &h.to} {
		if *id, err = readNodeID(more); err != nil {
			return hello{}, err
		}
	}
	want := crc32.Checksum(b, castagnoli)
	sum, err := more(4)
	if err != nil {
		return hello{}, err
	}
	if binary.BigEndian.Uint32(sum) != want {
		return hello{}, fmt.Errorf("%w: a wrong checksum", errGarbage)
	}
	return h, nil
}

func readNodeID(more func(n int) ([]byte, error)) (string, error) {
	var n uint64
	for shift := 0; ; shift += 7 {
		c, err := more(1)
		if err != nil {
			return "", err
		}
		n |= uint64(c[0]&0x7f) << shift
		if c[0] < 0x80 {
			if c[0] == 0 && shift > 0 {
				return "", fmt.Errorf("%w: the length of a node id in more bytes than it takes", errGarbage)
			}
			break
		}
		if shift == 7 {
			return "", fmt.Errorf("%w: a node id of more than %d bytes", errGarbage, maxNodeID)
		}
	}
	if n > maxNodeID {
		return "", fmt.Errorf("%w: a node id of %d bytes", errGarbage, n)
	}
	id, err := more(int(n))
	return string(id), err
}

// checkProtocol tells from its first two bytes what a connection is.
func checkProtocol(protocol, version byte) error {
	switch two := string([]byte{protocol, version}); {
	case (protocol == protocolRaft || protocol == protocolCalls) && version < ' ':
		if version != helloVersion {
			return helloVersionError(version)
		}
		return nil
	case protocol == 0x16 && version == 3:
		return fmt.Errorf("%w: a TLS hello, and this port is without TLS", errGarbage)
	case strings.Contains("GET POST PUT HEAD DELETE OPTIONS PATCH PRI CONNECT", two):
		return fmt.Errorf("%w: an HTTP request, and this port is for nodes only", errGarbage)
	}
	return fmt.Errorf("%w: it began with 0x%02x%02x", errGarbage, protocol, version)
}

// appendWelcome adds the encoding of an answer to b.
func appendWelcome(b []byte, status byte, message string) []byte {
	message = message[:min(len(message), 255)]
	return append(append(b, status, byte(len(message))), message...)
}

// readWelcome reads an answer and not a byte more.
func readWelcome(r io.Reader) (status byte, message string, err error) {
	b := make([]byte, 2, 2+255)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	if b[0] >= welcomeStatuses {
		return 0, "", fmt.Errorf("%w: it answered with 0x%02x", errGarbage, b[0])
	}
	text := b[2 : 2+int(b[1])]
	if _, err := io.ReadFull(r, text); err != nil {
		return 0, "", err
	}
	return b[0], printable(string(text)), nil
}

// printable keeps what a peer sent from garbling a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// RefusedError is a hello that was understood and refused.
type RefusedError struct {
	Addr      string
	Message   string // what the node does: "belongs to another cluster"
	Retryable bool   // it may pass later: the node is not that far yet
}

func (e *RefusedError) Error() string { return "the node at " + e.Addr + " " + e.Message }
