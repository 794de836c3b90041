package api

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The binary reply, version 1: the answer to a binary batch. The state machine
// writes it as it applies; on the usual way nobody touches it again before the
// client decodes it.
//
//	 0  u8   version, 1
//	 1  u8   flags: 1 replayed (the stored answer to a retried session batch)
//	 2  u16  0
//	 4  u32  number of results: that of the batch's operations
//	 8  u32  length in bytes of the results
//	12  u32  shard   } the commit of every result that carries none of its own;
//	16  u64  index   } result i has the offset "base offset + i"
//	24  u64  time_ns }
//	32  u32  base offset
//	36  u32  0
//	40  results, one an operation, in order; each
//	      u8       bits 0-3 status: 0 denied, 1 allowed, 2 state, 3 refunded,
//	               4 reset, 5 error, 6 held, 7 settled, 8 released,
//	               9 renewed, 10 leased; bit 4 duplicate; bit 5 own commit;
//	               bit 6 the take has to wait; bit 7 shadowed: allowed, held or
//	               leased only since the policy's enforcement is "shadow"
//	               if own commit: uvarint shard, index, offset, time_ns
//	      error:   u8 number of the code, uvarint length, detail
//	      reset, released, renewed: nothing
//	      settled: uvarint tokens committed, refunded, charged
//	      others:  uvarint index of the limits, uvarint which of them binds,
//	               then for each limit: uvarint remaining,
//	               uvarint retry-after, uvarint reset-after (microseconds,
//	               rounded up); at the end, refunded: uvarint tokens given back;
//	               held: 16 bytes id of the hold; leased: 16 bytes id of the
//	               hold, uvarint tokens granted; bit 6: uvarint wait
//	               (microseconds, rounded up)
//	    limits: uvarint count; each as of [AppendSetInfo], without the zone
//
// Fixed-size integers are little-endian.
const replyVersion = 1

const (
	replyHeader  = 40
	flagReplayed = 1
	statusMask   = 0x0f
	resultDup    = 1 << 4
	resultCommit = 1 << 5
	resultWait   = 1 << 6
	resultShadow = 1 << 7
)

// Status says what became of an operation.
type Status uint8

// The statuses of results.
const (
	StatusDenied Status = iota
	StatusAllowed
	StatusState
	StatusRefunded
	StatusReset
	StatusError
	StatusHeld     // a reservation or a permit is given
	StatusSettled  // a reservation or a lease is committed or cancelled
	StatusReleased // a permit is
	StatusRenewed  // a permit is
	StatusLeased   // a lease is given, of HoldOutcome.Granted tokens
)

// Bare tells the statuses whose results tell nothing of a bucket.
func (s Status) Bare() bool {
	return s == StatusReset || s == StatusError || s >= StatusSettled && s <= StatusRenewed
}

// LimitValues is one limit's part of a result.
type LimitValues struct {
	Remaining  int64  // whole tokens
	RetryAfter uint64 // microseconds, rounded up
	ResetAfter uint64 // microseconds, rounded up
}

// Result is one decoded result, and what [AppendResult] encodes.
type Result struct {
	Status    Status
	Duplicate bool
	Shadowed  bool   // a take, or a hold, that is given only since its policy is in shadow
	OwnCommit bool   // encode Commit with the result
	Commit    Commit // always set by decoding
	Set       int    // index into Reply.Sets
	Binding   int    // index into Limits
	Limits    []LimitValues
	Refunded  int64
	Wait      uint64       // microseconds, rounded up, that an allowed take has to wait
	Hold      *HoldOutcome // of StatusHeld, StatusLeased and StatusSettled, else nil
	Code      Code         // of an error
	Detail    string       // of an error
}

// Reply is a decoded head with its results still encoded; see [Reply.Next].
type Reply struct {
	Replayed bool
	N        int
	Commit   Commit // Offset is that of the first result
	Sets     []SetInfo

	results []byte // not yet read
	next    int
}

// BeginReply appends a reply's header to dst. Results follow with
// [AppendResult]; [FinishReply] ends it.
func BeginReply(dst []byte, n int, c Commit) []byte {
	var h [replyHeader]byte
	h[0] = replyVersion
	binary.LittleEndian.PutUint32(h[4:], uint32(n))
	binary.LittleEndian.PutUint32(h[12:], c.Shard)
	binary.LittleEndian.PutUint64(h[16:], c.Index)
	binary.LittleEndian.PutUint64(h[24:], c.TimeNS)
	binary.LittleEndian.PutUint32(h[32:], c.Offset)
	return append(dst, h[:]...)
}

// AppendResult appends one result.
func AppendResult(dst []byte, r *Result) []byte {
	head := byte(r.Status)
	if r.Duplicate {
		head |= resultDup
	}
	if r.OwnCommit {
		head |= resultCommit
	}
	if r.Shadowed {
		head |= resultShadow
	}
	if r.Wait != 0 {
		head |= resultWait
	}
	dst = append(dst, head)
	if r.OwnCommit {
		dst = binary.AppendUvarint(dst, uint64(r.Commit.Shard))
		dst = binary.AppendUvarint(dst, r.Commit.Index)
		dst = binary.AppendUvarint(dst, uint64(r.Commit.Offset))
		dst = binary.AppendUvarint(dst, r.Commit.TimeNS)
	}
	switch r.Status {
	case StatusError:
		dst = append(dst, r.Code.Info().Number)
		return AppendString(dst, r.Detail)
	case StatusReset, StatusReleased, StatusRenewed:
		return dst
	case StatusSettled:
		return appendHoldOutcome(dst, r)
	}
	dst = binary.AppendUvarint(dst, uint64(r.Set))
	dst = binary.AppendUvarint(dst, uint64(r.Binding))
	for i := range r.Limits {
		dst = binary.AppendUvarint(dst, uint64(r.Limits[i].Remaining))
		dst = binary.AppendUvarint(dst, r.Limits[i].RetryAfter)
		dst = binary.AppendUvarint(dst, r.Limits[i].ResetAfter)
	}
	switch r.Status {
	case StatusRefunded:
		dst = binary.AppendUvarint(dst, uint64(r.Refunded))
	case StatusHeld, StatusLeased:
		dst = appendHoldOutcome(dst, r)
	}
	if r.Wait != 0 {
		dst = binary.AppendUvarint(dst, r.Wait)
	}
	return dst
}

// FinishReply closes the reply that begins at dst[start:] with the limits its
// results refer to, each encoded by [AppendSetInfo].
func FinishReply(dst []byte, start int, sets [][]byte) []byte {
	binary.LittleEndian.PutUint32(dst[start+8:], uint32(len(dst)-start-replyHeader))
	dst = binary.AppendUvarint(dst, uint64(len(sets)))
	for _, s := range sets {
		dst = append(dst, s...)
	}
	return dst
}

// ReplyLen returns the number of results of an encoded reply and the status of
// the first one, without decoding it. It is false for what can't be a reply with
// results.
func ReplyLen(reply []byte) (n int, first Status, ok bool) {
	if len(reply) <= replyHeader || reply[0] != replyVersion {
		return 0, 0, false
	}
	return int(binary.LittleEndian.Uint32(reply[4:])), Status(reply[replyHeader] & statusMask), true
}

// MarkReplayed marks an encoded reply as the stored answer to a retry.
func MarkReplayed(reply []byte) { reply[1] |= flagReplayed }

// DecodeReply reads a reply's head and its limits. The reply aliases b.
func DecodeReply(b []byte) (*Reply, error) {
	r, err := decodeReply(b)
	if err != nil {
		return nil, fmt.Errorf("the binary reply is malformed: %w", err)
	}
	return r, nil
}

func decodeReply(b []byte) (*Reply, error) {
	if len(b) < replyHeader {
		return nil, errShort
	}
	if b[0] != replyVersion {
		return nil, fmt.Errorf("version %d is not supported, only %d", b[0], replyVersion)
	}
	size := uint64(binary.LittleEndian.Uint32(b[8:]))
	if size > uint64(len(b)-replyHeader) {
		return nil, errShort
	}
	r := &Reply{
		Replayed: b[1]&flagReplayed != 0,
		N:        int(binary.LittleEndian.Uint32(b[4:])),
		Commit: Commit{
			Shard:  binary.LittleEndian.Uint32(b[12:]),
			Index:  binary.LittleEndian.Uint64(b[16:]),
			TimeNS: binary.LittleEndian.Uint64(b[24:]),
			Offset: binary.LittleEndian.Uint32(b[32:]),
		},
		results: b[replyHeader : replyHeader+size],
	}
	if r.N > MaxBatch {
		return nil, fmt.Errorf("%d results", r.N)
	}
	n, rest, err := CutUvarint(b[replyHeader+size:])
	if err != nil {
		return nil, err
	}
	if n > MaxBatch {
		return nil, fmt.Errorf("%d sets of limits", n)
	}
	for range n {
		var s SetInfo
		if s, rest, err = CutSetInfo(rest); err != nil {
			return nil, err
		}
		r.Sets = append(r.Sets, s)
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the end", len(rest))
	}
	return r, nil
}

// Next decodes the next result into res, reusing its Limits. It returns false
// after the last one, and an error for a malformed one. Detail aliases the
// reply.
func (r *Reply) Next(res *Result) (bool, error) {
	if r.next == r.N {
		if len(r.results) != 0 {
			return false, errors.New("the binary reply is malformed: bytes after the last result")
		}
		return false, nil
	}
	if err := r.decodeResult(res); err != nil {
		return false, fmt.Errorf("the binary reply is malformed: result %d: %w", r.next, err)
	}
	r.next++
	return true, nil
}

func (r *Reply) decodeResult(res *Result) (err error) {
	b := r.results
	if len(b) == 0 {
		return errShort
	}
	head := b[0]
	b = b[1:]
	if status := Status(head & statusMask); status > StatusLeased || head&resultWait != 0 && status != StatusAllowed ||
		head&resultShadow != 0 && status != StatusAllowed && status != StatusHeld && status != StatusLeased {
		return fmt.Errorf("unknown status %#02x", head)
	}
	// Field by field: what nearly every result leaves as it is, is not written.
	res.Status, res.Duplicate = Status(head&statusMask), head&resultDup != 0
	res.Shadowed, res.OwnCommit = head&resultShadow != 0, head&resultCommit != 0
	res.Commit = r.Commit
	res.Commit.Offset += uint32(r.next)
	res.Set, res.Binding, res.Refunded, res.Wait = 0, 0, 0, 0
	res.Limits = res.Limits[:0]
	if res.Hold != nil {
		res.Hold = nil
	}
	if res.Code != "" || res.Detail != "" {
		res.Code, res.Detail = "", ""
	}
	if res.OwnCommit {
		var v [4]uint64
		for i := range v {
			if v[i], b, err = CutUvarint(b); err != nil {
				return err
			}
		}
		res.Commit = Commit{Shard: uint32(v[0]), Index: v[1], Offset: uint32(v[2]), TimeNS: v[3]}
	}
	switch res.Status {
	case StatusError:
		if len(b) == 0 {
			return errShort
		}
		res.Code = CodeNumber(b[0])
		res.Detail, r.results, err = CutString(b[1:])
		return err
	case StatusReset, StatusReleased, StatusRenewed:
		r.results = b
		return nil
	case StatusSettled:
		res.Hold, r.results, err = cutHoldOutcome(b, res.Status)
		return err
	}
	var set, binding uint64
	if set, b, err = CutUvarint(b); err != nil {
		return err
	}
	if binding, b, err = CutUvarint(b); err != nil {
		return err
	}
	if set >= uint64(len(r.Sets)) || binding >= uint64(len(r.Sets[set].Limits)) {
		return fmt.Errorf("limit %d of set %d of %d", binding, set, len(r.Sets))
	}
	res.Set, res.Binding = int(set), int(binding)
	for range r.Sets[set].Limits {
		var v LimitValues
		var rem uint64
		if rem, b, err = CutUvarint(b); err != nil || rem > 1<<62 {
			return errShort
		}
		v.Remaining = int64(rem)
		if v.RetryAfter, b, err = CutUvarint(b); err != nil {
			return err
		}
		if v.ResetAfter, b, err = CutUvarint(b); err != nil {
			return err
		}
		res.Limits = append(res.Limits, v)
	}
	switch res.Status {
	case StatusRefunded:
		var v uint64
		if v, b, err = CutUvarint(b); err != nil || v > 1<<62 {
			return errShort
		}
		res.Refunded = int64(v)
	case StatusHeld, StatusLeased:
		if res.Hold, b, err = cutHoldOutcome(b, res.Status); err != nil {
			return err
		}
	}
	if head&resultWait != 0 {
		if res.Wait, b, err = CutUvarint(b); err != nil || res.Wait == 0 {
			return errShort
		}
	}
	r.results = b
	return nil
}
