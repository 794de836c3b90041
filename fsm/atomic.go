package fsm

import (
	"errors"
	"fmt"

	"github.com/rlstore/rlstore/api"
)

// An atomic group is decided on copies of its buckets, in two passes. The first
// charges the copies, into debt where it must, and finds what becomes of the
// group; the second starts over and writes the results. Only a group that
// passes copies its buckets back.
//
//   - Only takes may be in it.
//   - Several takes may hit one bucket: each sees the charges before it. More
//     than the burst in all is a cost that exceeds the burst.
//   - On a denial every result is a denial with the limits' values from before
//     the group, and the retry-after of the binding limit is the longest wait of
//     the group: after it the group passes, if nobody else spends.
//   - On an error every operation gets it that has none of its own. An operation
//     on a slot that is not owned goes first: then all get that one, so that
//     the caller routes the whole group again.
//   - Request ids are remembered with the group's results. A group whose every
//     operation is a known repetition gets the first results again; one that
//     mixes known and unknown, or has an id twice, is refused.
//
// atomicScratch is the copies, and what the first pass found.
type atomicScratch struct {
	copies []tentative
	byHash map[uint64]int32 // the last copy with this hash
	ids    map[string]struct{}

	errs     []atomicError
	notOwned opError
	known    int // operations whose request id is remembered
	longest  uint64
	denied   bool
}

type atomicError struct {
	op int
	opError
}

// tentative is the copy of one bucket. It aliases the entry.
type tentative struct {
	b      bucket
	before bucket // b without what the group spent
	hash   uint64
	key    string
	where  at
	spent  int64 // by the group so far; b is charged with it
	next   int32 // an earlier copy with the same hash, or -1
}

func (a *atomicScratch) reset() {
	const keep = 1024
	if cap(a.copies) > keep {
		a.copies, a.byHash = nil, nil
	}
	clear(a.copies)
	a.copies = a.copies[:0]
	clear(a.byHash)
}

// copyOf returns the group's copy of a bucket, made when it is first met.
func (m *Buckets) copyOf(key string, keyHash uint64, s *set) *tentative {
	a := &m.atomic
	hash := s.bucketHash(keyHash)
	last, ok := a.byHash[hash]
	if !ok {
		last = -1
	}
	for i := last; i >= 0; i = a.copies[i].next {
		if t := &a.copies[i]; t.key == key && t.b.set.policy == s.policy {
			t.b.adopt(s)
			t.before.adopt(s)
			return t
		}
	}
	if a.byHash == nil {
		a.byHash = map[uint64]int32{}
	}
	a.byHash[hash] = int32(len(a.copies))
	a.copies = append(a.copies, tentative{hash: hash, key: key, next: last})
	t := &a.copies[len(a.copies)-1]
	t.where = m.fetch(&t.b, hash, key, s)
	t.before = t.b
	return t
}

// applyAtomic appends the results of an atomic group.
func (m *Buckets) applyAtomic(dst []byte, g *group) ([]byte, error) {
	a := &m.atomic
	defer a.reset()
	if err := m.tryAtomic(g); err != nil {
		return nil, err
	}
	m.reply.begin() // the first pass may have numbered sets
	switch {
	case a.notOwned.code != "":
		for range g.n {
			dst = m.appendError(dst, a.notOwned)
		}
		return dst, nil
	case len(a.errs) > 0:
		errs := a.errs
		for i := range g.n {
			e := a.errs[0].opError
			if len(errs) > 0 && errs[0].op == i {
				e, errs = errs[0].opError, errs[1:]
			}
			dst = m.appendError(dst, e)
		}
		return dst, nil
	case a.known > 0 && a.known < g.n:
		e := opError{api.RequestIDReused, "some operations of the atomic batch repeat a request_id and others do not"}
		for range g.n {
			dst = m.appendError(dst, e)
		}
		return dst, nil
	}
	return m.finishAtomic(dst, g)
}

// tryAtomic is the first pass.
func (m *Buckets) tryAtomic(g *group) error {
	a := &m.atomic
	a.errs, a.notOwned, a.known, a.longest, a.denied = a.errs[:0], opError{}, 0, 0, false
	clear(a.ids)
	ops := g.ops
	for i := range g.n {
		op, s, rest, err := g.next(ops)
		if err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		ops = rest
		if e := m.tryOp(&op, s); e.code == api.NotLeader {
			if a.notOwned.code == "" {
				a.notOwned = e
			}
		} else if e.code != "" {
			a.errs = append(a.errs, atomicError{i, e})
		}
	}
	if len(ops) != 0 {
		return errors.New("bytes follow its last operation")
	}
	return nil
}

func (m *Buckets) tryOp(op *api.Op, s *set) opError {
	a := &m.atomic
	if op.Kind != api.Take {
		return opError{api.InvalidRequest, "an atomic batch holds takes only, not a " + op.Kind.String()}
	}
	key, slot := hashes(op.Key)
	if e := m.refuse(op, slot); e.code != "" {
		return e
	}
	if op.RequestID != "" {
		if _, twice := a.ids[op.RequestID]; twice {
			return opError{api.RequestIDReused, "the atomic batch has the request_id " + op.RequestID + " twice"}
		}
		if a.ids == nil {
			a.ids = map[string]struct{}{}
		}
		a.ids[op.RequestID] = struct{}{}
		found, e := m.recall(op.RequestID, api.Hash(op.RequestID), fingerprint(op, s, key))
		if e.code != "" {
			return e
		}
		if found {
			a.known++
			return opError{}
		}
	}
	if s.refusal.code != "" {
		return s.refusal
	}
	t := m.copyOf(op.Key, key, s)
	if t.b.set.concurrency && !t.b.set.off {
		return permitRequired(t.b.set)
	}
	if !t.b.set.off && !t.b.set.shadow && t.spent+op.Cost > t.b.set.minBurst {
		return exceeds(t.spent+op.Cost, t.b.set)
	}
	if w, ok := t.take(op); !ok && !t.b.set.shadow {
		a.denied, a.longest = true, max(a.longest, w)
	}
	return opError{}
}

// take charges one take of the group to the copy; if it is not ok, the take is
// denied, and wait is when it would pass. Then it is charged all the same, so that what follows it waits for
// longer, but for one in shadow, which denies nobody.
func (t *tentative) take(op *api.Op) (wait uint64, ok bool) {
	if t.b.set.off {
		return 0, true
	}
	if t.spent+op.Cost > t.b.set.minBurst && t.b.set.shadow {
		return 0, false // it could never pass
	}
	if wait, ok = t.b.borrow(op.Cost, op.MaxWait); !ok {
		again := t.b.again(wait, op.Cost, op.MaxWait)
		if t.b.set.shadow {
			return again, false
		}
		t.b.charge(op.Cost, wait)
		wait = again
	}
	t.spent += op.Cost
	return wait, ok
}

// finishAtomic is the second pass, for a group without errors.
func (m *Buckets) finishAtomic(dst []byte, g *group) ([]byte, error) {
	a, res := &m.atomic, &m.res
	a.reset()
	ops := g.ops
	for i := range g.n {
		op, s, rest, err := g.next(ops)
		if err != nil {
			return nil, err
		}
		ops = rest
		key, _ := hashes(op.Key)
		*res = api.Result{Limits: res.Limits[:0]}
		var id, print uint64
		if op.RequestID != "" {
			id, print = api.Hash(op.RequestID), fingerprint(&op, s, key)
		}
		if a.known > 0 {
			m.recall(op.RequestID, id, print)
			dst = api.AppendResult(dst, res)
			continue
		}
		t := m.copyOf(op.Key, key, s)
		if a.denied {
			res.Status = api.StatusDenied
			t.deny(res, &op)
			res.Limits[res.Binding].RetryAfter = micros(a.longest)
			t.take(&op)
		} else {
			res.Status = api.StatusAllowed
			if wait, ok := t.take(&op); ok {
				res.Wait = micros(wait)
				t.b.describe(res, 0)
			} else {
				if res.Shadowed = true; op.Cost > t.b.set.minBurst {
					t.b.describe(res, 0)
				} else {
					t.b.deny(res, op.Cost, op.MaxWait)
				}
			}
		}
		res.Set = m.reply.index(t.b.set)
		dst = api.AppendResult(dst, res)
		if op.RequestID != "" {
			// One that is evicted for it may be gone for an operation to come,
			// but none of those to come is known.
			m.dedup.add(op.RequestID, id, print, t.b.set, res, m.commit(g.offset+uint32(i)), &m.sets)
		}
	}
	if a.known == 0 && !a.denied {
		for i := range a.copies {
			t := &a.copies[i]
			// A copy's place may be stale: what was stored before it may have
			// compacted its stripe.
			if t.spent > 0 {
				t.where = m.table.find(t.hash, t.b.set.policy, t.key, &m.sets)
				m.store(t.hash, t.where, t.key, &t.b)
			}
		}
	}
	return dst, nil
}

// deny describes the bucket as it was before the group, but with the waits of
// a take that comes after the group's earlier ones.
func (t *tentative) deny(res *api.Result, op *api.Op) {
	if op.Cost > t.b.set.minBurst { // in shadow: no wait helps
		t.b.describe(res, 0)
	} else {
		t.b.deny(res, op.Cost, op.MaxWait)
	}
	b := &t.before
	for i := range b.set.limits {
		l, v := &b.set.limits[i], b.lim[i]
		res.Limits[i].Remaining = max(0, l.left(v, b.at))
		res.Limits[i].ResetAfter = micros(b.untilFresh(i))
	}
}
