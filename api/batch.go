package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unsafe"
)

// The binary batch, version 1. It is the body of a request with the content
// type [MediaBatch], what nodes forward to each other, and, from Ops on, what
// a log entry holds: the bytes of an operation are never encoded twice.
//
//	u8       version, 1
//	u8       flags: 1 atomic, 2 session; other bits are 0
//	         if session: 16 bytes id, uvarint seq, uvarint acked
//	uvarint  number of policies, 0 if no operation has one; each
//	           u8       0 a policy's name, 1 inline limits as a JSON array
//	           uvarint  length, and the bytes
//	uvarint  number of operations, 1 to 10,000; each
//	           u8       bits 0-3 kind: 0 take, 1 peek, 2 refund, 3 reset,
//	                    4 reserve, 5 commit, 6 cancel, 7 acquire, 8 renew,
//	                    9 release, 10 lease, 11 sync; bit 4: a request id
//	                    follows the key; bit 5: a take may wait; bit 6: a peek
//	                    has a cost; other bits are 0
//	           uvarint  index of the policy, but for kinds 5, 6, 8 and 9
//	           uvarint  cost, for kinds 0, 2, 4, 5, 7, 10 and 11, and not 0 if
//	                    bit 6; of kind 10 the most that is wanted, of kind 11
//	                    what was spent
//	           uvarint  milliseconds that the take may wait, not 0, if bit 5
//	           uvarint  length of the key, and its bytes, but for 5, 6, 8 and 9
//	           uvarint  length of the request id, and its bytes, if bit 4
//	           16 bytes id of the hold, for kinds 4 to 10
//	           uvarint  time to live in milliseconds, for kinds 4, 7, 8 and 10
//	           u8       on expiry: 0 commit, 1 cancel, for kind 4
//	           uvarint  the least that is of use, for kind 10
//	           u64      the instance, for kind 11, little-endian
//
// A uvarint is encoding/binary's. Nothing follows the last operation.
const batchVersion = 1

const (
	flagAtomic  = 1
	flagSession = 2

	opRequestID = 1 << 4
	opMaxWait   = 1 << 5
	opPeekCost  = 1 << 6
)

// Kind says what an operation does.
type Kind uint8

// The kinds of operations.
const (
	Take   Kind = 0
	Peek   Kind = 1
	Refund Kind = 2
	Reset  Kind = 3

	// Of reservations: take an estimate, and settle it by what it came to.
	Reserve Kind = 4
	Settle  Kind = 5 // a commit
	Cancel  Kind = 6

	// Of permits: take a slot of each concurrency limit for a time.
	Acquire Kind = 7
	Renew   Kind = 8
	Release Kind = 9

	// Of those who spend tokens from memory. A lease is charged before it is
	// spent, and settled like a reservation; see [Hold]. A sync charges what was
	// spent without asking, all of it, into debt if need be, and tells the state
	// after it. They travel in binary batches only.
	Lease Kind = 10
	Sync  Kind = 11
)

var kindNames = [...]string{"take", "peek", "refund", "reset", "reserve", "commit", "cancel", "acquire", "renew", "release", "lease", "sync"}

// String is the kind's name in routes, metrics and messages.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// hasCost tells the kinds that carry a cost.
func (k Kind) hasCost() bool {
	return k == Settle || k.Charges()
}

// Charges tells the kinds that charge a bucket or give tokens back to it by
// themselves. They carry a cost, and may carry a request id, but for a Lease,
// which is known by its hold.
func (k Kind) Charges() bool { return k == Take || k == Refund || k == Sync || k.MakesHold() }

// Op is one operation of a batch.
type Op struct {
	Kind      Kind
	Policy    int    // index into Batch.Policies; 0 of the kinds that act on a hold
	Cost      int64  // 1 to MaxCost, from 0 for a Settle and a Sync, of the kinds that have one; of a peek the take that it asks about, 0 is 1; else 0
	Key       string // "" of the kinds that act on a hold
	RequestID string // "" is none
	MaxWait   int64  // of a take: milliseconds for which it may borrow from the future, 0 to MaxWait
	Hold      *Hold  // of the kinds from Reserve to Lease, else nil
	Instance  uint64 // of a Sync: whoever spent, of all that spend from the bucket; else 0
}

// Session makes a whole batch exactly-once: the state machine keeps the answer
// to (ID, Seq) and gives it again to a retry, as in section 6.3 of Ongaro's
// dissertation "Consensus: Bridging Theory and Practice" (2014).
//
// The sender counts Seq up by 1 a batch and shard, from 1, and sends in Acked
// the highest number below which it wants no answer any more; the state
// machine forgets those, and refuses to apply them ever again.
type Session struct {
	ID    [16]byte
	Seq   uint64 // 0 is no session
	Acked uint64 // answers to sequence numbers <= Acked may be forgotten; < Seq
}

// PolicyRef names the limits of an operation: a policy of the catalog, or
// limits written into the request.
type PolicyRef struct {
	Name   string
	Inline []byte // JSON array of limits; nil with a name
}

// Batch is a decoded head with its operations still encoded.
type Batch struct {
	Atomic   bool
	Session  Session
	Policies []PolicyRef
	N        int    // operations in Ops
	Ops      []byte // see AppendOp
}

// Add appends an operation.
func (b *Batch) Add(op Op) {
	b.Ops = AppendOp(b.Ops, op)
	b.N++
}

// Ref returns the index of the policy of this name, adding it if need be.
func (b *Batch) Ref(name string) int {
	for i := range b.Policies {
		if b.Policies[i].Name == name && b.Policies[i].Inline == nil {
			return i
		}
	}
	b.Policies = append(b.Policies, PolicyRef{Name: name})
	return len(b.Policies) - 1
}

// AppendOp appends op's encoding to dst.
func AppendOp(dst []byte, op Op) []byte {
	head := byte(op.Kind)
	if op.RequestID != "" {
		head |= opRequestID
	}
	if op.MaxWait != 0 {
		head |= opMaxWait
	}
	peekCost := op.Kind == Peek && op.Cost != 0
	if peekCost {
		head |= opPeekCost
	}
	if op.Kind.OnHold() {
		return appendOnHold(dst, &op)
	}
	dst = append(dst, head)
	dst = binary.AppendUvarint(dst, uint64(op.Policy))
	if op.Kind.hasCost() || peekCost {
		dst = binary.AppendUvarint(dst, uint64(op.Cost))
	}
	if op.MaxWait != 0 {
		dst = binary.AppendUvarint(dst, uint64(op.MaxWait))
	}
	dst = AppendString(dst, op.Key)
	if op.RequestID != "" {
		dst = AppendString(dst, op.RequestID)
	}
	if op.Kind.MakesHold() {
		dst = appendHold(dst, &op)
	}
	if op.Kind == Sync {
		dst = binary.LittleEndian.AppendUint64(dst, op.Instance)
	}
	return dst
}

// DecodeOp reads one operation off the front of b and returns what follows it.
// Key and RequestID alias b. It checks the form only; [Op.Check] the values.
func DecodeOp(b []byte) (op Op, rest []byte, err error) {
	if len(b) == 0 {
		return op, nil, errShort
	}
	head := b[0]
	b = b[1:]
	op.Kind = Kind(head & 0x0f)
	if head&^(0x0f|opRequestID|opMaxWait|opPeekCost) != 0 || op.Kind > Sync || head&opMaxWait != 0 && op.Kind != Take ||
		head&opPeekCost != 0 && op.Kind != Peek {
		return op, nil, fmt.Errorf("unknown operation %#02x", head)
	}
	if op.Kind.OnHold() {
		return cutOnHold(head, b)
	}
	v, n := uvarint(b)
	if n <= 0 || v > MaxBatch {
		return op, nil, errShort
	}
	op.Policy = int(v)
	b = b[n:]
	if op.Kind.hasCost() || head&opPeekCost != 0 {
		v, n = uvarint(b)
		if n <= 0 || v > 1<<62 || v == 0 && head&opPeekCost != 0 {
			return op, nil, errShort
		}
		op.Cost = int64(v)
		b = b[n:]
	}
	if head&opMaxWait != 0 {
		v, n = uvarint(b)
		if n <= 0 || v == 0 || v > 1<<62 {
			return op, nil, errShort
		}
		op.MaxWait = int64(v)
		b = b[n:]
	}
	if op.Key, b, err = CutString(b); err != nil {
		return op, nil, err
	}
	if head&opRequestID != 0 {
		if op.RequestID, b, err = CutString(b); err != nil {
			return op, nil, err
		}
		if op.RequestID == "" {
			return op, nil, errors.New("an empty request id is marked as present")
		}
	}
	switch {
	case op.Kind.MakesHold():
		op.Hold, b, err = cutHold(b, op.Kind)
	case op.Kind == Sync:
		if len(b) < 8 {
			return op, nil, errShort
		}
		op.Instance, b = binary.LittleEndian.Uint64(b), b[8:]
	}
	return op, b, err
}

// Check says what is wrong with the values of an operation whose form is
// right, as an [InvalidRequest] problem, or returns nil.
func (op *Op) Check() error {
	if op.Kind.OnHold() {
		return op.checkOnHold()
	}
	if err := CheckKey(op.Key); err != nil {
		return err
	}
	switch {
	case op.Kind == Sync:
		if op.Cost < 0 || op.Cost > MaxCost {
			return NewProblem(InvalidRequest, "the cost is %d; a sync takes 0 to %d", op.Cost, MaxCost)
		}
	case op.Kind.hasCost() || op.Kind == Peek && op.Cost != 0:
		if err := CheckCost(op.Cost); err != nil {
			return err
		}
	}
	if op.MaxWait != 0 {
		if err := CheckMaxWait(op.MaxWait); err != nil {
			return err
		}
	}
	if op.Kind.MakesHold() {
		if err := op.checkHold(); err != nil {
			return err
		}
	}
	if op.RequestID != "" {
		return CheckRequestID(op.RequestID)
	}
	return nil
}

// AppendBatch appends the whole batch to dst.
func AppendBatch(dst []byte, b *Batch) []byte {
	var flags byte
	if b.Atomic {
		flags |= flagAtomic
	}
	if b.Session.Seq != 0 {
		flags |= flagSession
	}
	dst = append(dst, batchVersion, flags)
	if b.Session.Seq != 0 {
		dst = append(dst, b.Session.ID[:]...)
		dst = binary.AppendUvarint(dst, b.Session.Seq)
		dst = binary.AppendUvarint(dst, b.Session.Acked)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Policies)))
	for _, p := range b.Policies {
		if p.Inline != nil {
			dst = append(dst, 1)
			dst = AppendBytes(dst, p.Inline)
		} else {
			dst = append(dst, 0)
			dst = AppendString(dst, p.Name)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(b.N))
	return append(dst, b.Ops...)
}

// DecodeBatch reads a whole batch and checks the form of everything in it,
// down to the last operation; the values of operations ([Op.Check]) are left
// to the caller. The batch aliases body. Its errors are [InvalidRequest]
// problems.
func DecodeBatch(body []byte) (*Batch, error) {
	b, err := decodeBatch(body)
	if err != nil {
		return nil, NewProblem(InvalidRequest, "the binary batch is malformed: %v", err)
	}
	return b, nil
}

func decodeBatch(body []byte) (*Batch, error) {
	if len(body) < 2 {
		return nil, errShort
	}
	if body[0] != batchVersion {
		return nil, fmt.Errorf("version %d is not supported, only %d", body[0], batchVersion)
	}
	flags := body[1]
	if flags&^(flagAtomic|flagSession) != 0 {
		return nil, fmt.Errorf("unknown flags %#02x", flags)
	}
	b := &Batch{Atomic: flags&flagAtomic != 0}
	rest := body[2:]
	var err error
	if flags&flagSession != 0 {
		if len(rest) < 16 {
			return nil, errShort
		}
		copy(b.Session.ID[:], rest)
		rest = rest[16:]
		if b.Session.Seq, rest, err = CutUvarint(rest); err != nil {
			return nil, err
		}
		if b.Session.Acked, rest, err = CutUvarint(rest); err != nil {
			return nil, err
		}
		if b.Session.Seq == 0 || b.Session.Acked >= b.Session.Seq {
			return nil, fmt.Errorf("session sequence %d with %d acknowledged", b.Session.Seq, b.Session.Acked)
		}
	}
	var n uint64
	if n, rest, err = CutUvarint(rest); err != nil {
		return nil, err
	}
	if n > MaxBatch {
		return nil, fmt.Errorf("%d policies; it takes up to %d", n, MaxBatch)
	}
	b.Policies = make([]PolicyRef, 0, min(n, 16))
	for range n {
		if len(rest) == 0 || rest[0] > 1 {
			return nil, errShort
		}
		inline := rest[0] == 1
		var s string
		if s, rest, err = CutString(rest[1:]); err != nil {
			return nil, err
		}
		if inline {
			b.Policies = append(b.Policies, PolicyRef{Inline: []byte(s)})
		} else {
			b.Policies = append(b.Policies, PolicyRef{Name: s})
		}
	}
	if n, rest, err = CutUvarint(rest); err != nil {
		return nil, err
	}
	if n == 0 || n > MaxBatch {
		return nil, fmt.Errorf("%d operations; it needs 1 to %d", n, MaxBatch)
	}
	b.N, b.Ops = int(n), rest
	for i := range b.N {
		var op Op
		if op, rest, err = DecodeOp(rest); err != nil {
			return nil, fmt.Errorf("operation %d: %w", i, err)
		}
		if op.Policy >= len(b.Policies) && !op.Kind.OnHold() {
			return nil, fmt.Errorf("operation %d: policy %d of %d", i, op.Policy, len(b.Policies))
		}
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the last operation", len(rest))
	}
	return b, nil
}

var errShort = errors.New("it ends too early, or a number is out of range")

// uvarint is [binary.Uvarint], faster: numbers of up to 8 bytes are read at once.
// The first byte without its highest bit is the last; the lower 7 bits of each
// byte then close ranks.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		if stop := ^x & 0x8080808080808080; stop != 0 {
			x &= (stop ^ (stop - 1)) & 0x7f7f7f7f7f7f7f7f
			x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1
			x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2
			x = x&0x000000000fffffff | x&0x0fffffff00000000>>4
			return x, bits.TrailingZeros64(stop)/8 + 1
		}
	}
	return binary.Uvarint(b)
}

// AppendString appends the length of s as a uvarint, and s.
func AppendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// AppendBytes appends the length of s as a uvarint, and s.
func AppendBytes(dst, s []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// CutUvarint reads a uvarint off the front of b.
func CutUvarint(b []byte) (v uint64, rest []byte, err error) {
	v, n := uvarint(b)
	if n <= 0 {
		return 0, nil, errShort
	}
	return v, b[n:], nil
}

// CutString reads what [AppendString] wrote off the front of b. The string
// aliases b: it is valid as long as b's bytes are not changed.
func CutString(b []byte) (s string, rest []byte, err error) {
	v, n := uvarint(b)
	if n <= 0 || v > uint64(len(b)-n) {
		return "", nil, errShort
	}
	b = b[n:]
	return unsafe.String(unsafe.SliceData(b), int(v)), b[v:], nil
}
