package api

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Bounds of how long a hold lives, in milliseconds.
const (
	MaxTTL     = 24 * 60 * 60 * 1000
	DefaultTTL = 30 * 1000
)

// HoldID names a hold: a reservation, a permit or a lease. Whoever takes the request
// for it chooses the id, and so knows it whatever becomes of the answer. The
// first two bytes are the slot of the hold's key, big-endian, by which later
// operations on the hold find their shard; the other 14 are random.
type HoldID [16]byte

// NewHoldID returns the id of a hold on key, with the random bytes of random.
func NewHoldID(key string, random [14]byte) (id HoldID) {
	binary.BigEndian.PutUint16(id[:], Slot(key))
	copy(id[2:], random[:])
	return id
}

// Slot is the slot of the hold's key, if it is below [Slots].
func (id HoldID) Slot() uint16 { return binary.BigEndian.Uint16(id[:]) }

// The prefixes of ids in their text form, in front of 32 hexadecimal digits.
const (
	reservationPrefix = "rsv_"
	permitPrefix      = "pmt_"
)

// Reservation is the text form of a reservation's id, such as
// "rsv_01f3…".
func (id HoldID) Reservation() string { return reservationPrefix + hex.EncodeToString(id[:]) }

// Permit is the text form of a permit's id, such as "pmt_01f3…".
func (id HoldID) Permit() string { return permitPrefix + hex.EncodeToString(id[:]) }

// ParseReservation reads the text form of a reservation's id. Its error is an
// [InvalidRequest] problem.
func ParseReservation(s string) (HoldID, error) {
	return parseHoldID("reservation", reservationPrefix, s)
}

// ParsePermit reads the text form of a permit's id. Its error is an
// [InvalidRequest] problem.
func ParsePermit(s string) (HoldID, error) { return parseHoldID("permit", permitPrefix, s) }

func parseHoldID(what, prefix, s string) (id HoldID, err error) {
	digits, ok := strings.CutPrefix(s, prefix)
	if !ok || len(digits) != 2*len(id) || strings.ToLower(digits) != digits {
		return id, malformedHoldID(what, prefix, s)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil || id.Slot() >= Slots {
		return id, malformedHoldID(what, prefix, s)
	}
	return id, nil
}

func malformedHoldID(what, prefix, s string) error {
	return NewProblem(InvalidRequest, "%.80q is not a %s's id: it is %s and 32 hexadecimal digits", s, what, prefix)
}

// Hold is what an operation on a hold carries beside, or instead of, a key.
type Hold struct {
	ID             HoldID
	TTL            int64 // milliseconds, 1 to MaxTTL, of the kinds that set it, else 0
	CancelOnExpiry bool  // of a Reserve: give back what expires; else it counts as committed
	Need           int64 // of a Lease: the least that is of use, 1 to the cost, which is the most that is wanted; else 0
}

// MakesHold tells the kinds that make a hold: they carry a policy and a key
// like a take, and a [Hold].
func (k Kind) MakesHold() bool { return k == Reserve || k == Acquire || k == Lease }

// OnHold tells the kinds that act on a hold that there is. They carry its id,
// and neither a policy nor a key.
func (k Kind) OnHold() bool { return k == Settle || k == Cancel || k == Renew || k == Release }

// setsTTL tells the kinds that say how long a hold lives from now.
func (k Kind) setsTTL() bool { return k.MakesHold() || k == Renew }

// appendHold appends the part of op that is about its hold.
func appendHold(dst []byte, op *Op) []byte {
	h := op.Hold
	if h == nil { // what Check refuses
		h = new(Hold)
	}
	dst = append(dst, h.ID[:]...)
	if op.Kind.setsTTL() {
		dst = binary.AppendUvarint(dst, uint64(h.TTL))
	}
	switch op.Kind {
	case Reserve:
		rule := byte(0)
		if h.CancelOnExpiry {
			rule = 1
		}
		dst = append(dst, rule)
	case Lease:
		dst = binary.AppendUvarint(dst, uint64(h.Need))
	}
	return dst
}

// cutHold reads what appendHold wrote.
func cutHold(b []byte, kind Kind) (h *Hold, rest []byte, err error) {
	h = new(Hold)
	if len(b) < len(h.ID) {
		return nil, nil, errShort
	}
	b = b[copy(h.ID[:], b):]
	if kind.setsTTL() {
		var v uint64
		if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
			return nil, nil, errShort
		}
		h.TTL = int64(v)
	}
	switch kind {
	case Reserve:
		if len(b) == 0 || b[0] > 1 {
			return nil, nil, errShort
		}
		h.CancelOnExpiry = b[0] == 1
		b = b[1:]
	case Lease:
		var v uint64
		if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
			return nil, nil, errShort
		}
		h.Need = int64(v)
	}
	return h, b, nil
}

// appendOnHold appends an operation on a hold that there is.
func appendOnHold(dst []byte, op *Op) []byte {
	dst = append(dst, byte(op.Kind))
	if op.Kind.hasCost() {
		dst = binary.AppendUvarint(dst, uint64(op.Cost))
	}
	return appendHold(dst, op)
}

// cutOnHold reads what appendOnHold wrote, behind its first byte.
func cutOnHold(head byte, b []byte) (op Op, rest []byte, err error) {
	op.Kind = Kind(head & 0x0f)
	if head != byte(op.Kind) {
		return op, nil, fmt.Errorf("a %s has the flags %#02x, and takes none", op.Kind, head)
	}
	if op.Kind.hasCost() {
		var v uint64
		if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
			return op, nil, errShort
		}
		op.Cost = int64(v)
	}
	op.Hold, b, err = cutHold(b, op.Kind)
	return op, b, err
}

// checkHold says what is wrong with the values that are about a hold.
func (op *Op) checkHold() error {
	switch h := op.Hold; {
	case h == nil:
		return NewProblem(InvalidRequest, "a %s needs the id of a hold", op.Kind)
	case h.ID.Slot() >= Slots:
		return NewProblem(InvalidRequest, "the id of the hold is of slot %d; there are %d", h.ID.Slot(), Slots)
	case op.Kind.MakesHold() && h.ID.Slot() != Slot(op.Key):
		return NewProblem(InvalidRequest, "the id of the hold is of slot %d, and its key of slot %d", h.ID.Slot(), Slot(op.Key))
	case op.Kind.setsTTL() && (h.TTL < 1 || h.TTL > MaxTTL):
		return NewProblem(InvalidRequest, "the ttl is %d ms; it needs to be 1ms to 24h", h.TTL)
	case op.Kind == Lease && (h.Need < 1 || h.Need > op.Cost):
		return NewProblem(InvalidRequest, "a lease of %d needs at least %d; that has to be 1 to the former", op.Cost, h.Need)
	case op.Kind == Lease && op.RequestID != "":
		return NewProblem(InvalidRequest, "a lease takes no request_id: it is known by its own id")
	}
	return nil
}

// checkOnHold is Check of an operation on a hold that there is.
func (op *Op) checkOnHold() error {
	switch {
	case op.Key != "" || op.RequestID != "":
		return NewProblem(InvalidRequest, "a %s takes neither a key nor a request_id", op.Kind)
	case op.Kind == Settle && (op.Cost < 0 || op.Cost > MaxCost):
		return NewProblem(InvalidRequest, "the cost is %d; a commit takes 0 to %d", op.Cost, MaxCost)
	}
	return op.checkHold()
}

// Slot is the slot that op belongs to: that of its key, or of its hold's.
func (op *Op) Slot() uint16 {
	if op.Kind.OnHold() {
		return op.Hold.ID.Slot()
	}
	return Slot(op.Key)
}

// Subject is op's key, or the id of its hold, for messages.
func (op *Op) Subject() string {
	switch op.Kind {
	case Settle, Cancel:
		return op.Hold.ID.Reservation()
	case Renew, Release:
		return op.Hold.ID.Permit()
	}
	return op.Key
}

// HoldOutcome is what a result tells of a hold.
type HoldOutcome struct {
	ID HoldID // of StatusHeld and StatusLeased

	Granted int64 // of StatusLeased: the tokens of each limit that its holder may spend

	// Of StatusSettled, in tokens of each limit: Committed is what the
	// reservation or the lease cost in the end, which is what was charged for it
	// less Refunded plus Charged.
	Committed, Refunded, Charged int64
}

func appendHoldOutcome(dst []byte, r *Result) []byte {
	o := r.Hold
	if o == nil {
		o = new(HoldOutcome)
	}
	switch r.Status {
	case StatusHeld:
		return append(dst, o.ID[:]...)
	case StatusLeased:
		return binary.AppendUvarint(append(dst, o.ID[:]...), uint64(o.Granted))
	}
	for _, v := range [...]int64{o.Committed, o.Refunded, o.Charged} {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	return dst
}

// cutHoldOutcome reads what a result of this status, [StatusHeld],
// [StatusLeased] or [StatusSettled], has about its hold.
func cutHoldOutcome(b []byte, s Status) (o *HoldOutcome, rest []byte, err error) {
	o = new(HoldOutcome)
	numbers := []*int64{&o.Committed, &o.Refunded, &o.Charged}
	if s != StatusSettled {
		if len(b) < len(o.ID) {
			return nil, nil, errShort
		}
		b = b[copy(o.ID[:], b):]
		numbers = nil
		if s == StatusLeased {
			numbers = []*int64{&o.Granted}
		}
	}
	for _, p := range numbers {
		var v uint64
		if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
			return nil, nil, errShort
		}
		*p = int64(v)
	}
	return o, b, nil
}

// What becomes of a reservation that is neither committed nor cancelled in time:
// on_expiry.
const (
	ExpiryCommits = "commit" // it counts as committed, as reserved
	ExpiryCancels = "cancel" // it is given back
)
