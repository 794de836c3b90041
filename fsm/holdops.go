package fsm

import (
	"fmt"
	"math"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// A commit may charge a bucket into debt, as deep as one burst below 0; what is
// beyond is not charged, and the answer says so.

// makeHold applies a reserve or an acquire whose bucket is fetched into m.b.
//
// The id of the hold was chosen by whoever sent the operation, so the same
// operation under the same id again is a repetition: it is answered as a
// duplicate, with the bucket as it is now, also when the hold has ended.
func (m *Buckets) makeHold(op *api.Op, key uint64, hash uint64, where at) opError {
	b, res := &m.b, &m.res
	known, e := m.knownHold(op, fingerprint(op, b.set, key))
	switch {
	case e.code != "":
		return e
	case known: // whatever an edit has made of the policy since
		res.Duplicate = true
	case op.Kind == api.Reserve && b.set.concurrency && !b.set.off:
		return permitRequired(b.set)
	case op.Kind == api.Acquire && !b.set.concurrency:
		return opError{api.InvalidRequest, fmt.Sprintf("policy %q has no concurrency limit, so there are no permits of it", b.set.policy)}
	case !b.set.off && !b.set.shadow && op.Cost > b.set.minBurst:
		return exceeds(op.Cost, b.set)
	case !b.set.off && !b.set.shadow && !b.admits(op.Cost):
		res.Status = api.StatusDenied
		b.deny(res, op.Cost, 0)
		return opError{}
	case len(m.holds.byID) >= orDefault(m.holds.max, MaxHolds):
		return opError{api.Overloaded, "the shard keeps as many reservations and permits as it can"}
	default:
		h := &hold{
			id: op.Hold.ID, kind: op.Kind, cancel: op.Hold.CancelOnExpiry,
			free: b.set.off || !b.admits(op.Cost),
			set:  b.set, key: strings.Clone(op.Key), cost: op.Cost,
			made: m.at, expires: m.expiry(op.Hold.TTL),
		}
		if m.holds.add(h); !h.free {
			b.charge(op.Cost, 0)
			m.store(hash, where, op.Key, b)
			m.countPermits(b, op.Key)
		} else if b.set.shadow {
			res.Shadowed = true
		}
	}
	res.Status = api.StatusHeld
	m.held = api.HoldOutcome{ID: op.Hold.ID}
	res.Hold = &m.held
	if res.Shadowed && op.Cost <= b.set.minBurst {
		b.deny(res, op.Cost, 0)
	} else {
		b.describe(res, 0)
	}
	return opError{}
}

// expiry is the stamp from which on a hold that is made or renewed now for ttl
// milliseconds is overdue.
func (m *Buckets) expiry(ttl int64) uint64 {
	return m.last + min(uint64(ttl)*1_000_000, math.MaxUint64-m.last)
}

func permitRequired(s *set) opError {
	return opError{api.PermitRequired, fmt.Sprintf("policy %q limits concurrency; it is used through permits only", s.policy)}
}

// knownHold says whether there is, or was, a hold that an operation with this
// fingerprint made under its id. Under an id that another one has it fails.
func (m *Buckets) knownHold(op *api.Op, print uint64) (known bool, e opError) {
	var had uint64
	if n := m.holds.byID[op.Hold.ID]; n != nil {
		had = n.print()
	} else if r := m.holds.ends.find(op.Hold.ID, m.last); r != nil {
		had = r.print
	} else {
		return false, opError{}
	}
	if had != print {
		return false, opError{api.RequestIDReused, "the id of the hold was used for another operation, policy, key or cost"}
	}
	return true, opError{}
}

// applyOnHold applies an operation on a hold that there is, and leaves the
// result in m.res.
func (m *Buckets) applyOnHold(op *api.Op) opError {
	if err := op.Check(); err != nil {
		p := api.AsProblem(err)
		return opError{p.Code, p.Detail}
	}
	if slot := op.Hold.ID.Slot(); !m.owned.has(slot) {
		return m.notOwned(slot)
	}
	m.res = api.Result{Limits: m.res.Limits[:0]}
	n := m.holds.byID[op.Hold.ID]
	if n != nil && n.expires <= m.last {
		m.expireHold(n)
		n = nil
	}
	if n == nil {
		return m.applyOnEnd(op)
	}
	switch {
	case (n.kind == api.Acquire) != ofPermit(op.Kind):
		return unknownHold(op)
	case op.Kind == api.Renew:
		m.holds.renew(n, m.expiry(op.Hold.TTL))
		m.res.Status = api.StatusRenewed
	case n.kind == api.Lease:
		m.tell(m.settleLease(n, op.Cost))
	default:
		m.tell(m.settle(n, op.Kind, op.Cost))
	}
	return opError{}
}

// applyOnEnd applies an operation on a hold that is not alive: what ended it may
// come again.
func (m *Buckets) applyOnEnd(op *api.Op) opError {
	r := m.holds.ends.find(op.Hold.ID, m.last)
	switch {
	case r == nil || r.permit != ofPermit(op.Kind):
		return unknownHold(op)
	case r.by != op.Kind || op.Kind == api.Settle && r.cost != op.Cost:
		return opError{api.AlreadySettled, r.String()}
	}
	m.tell(r)
	m.res.Duplicate = true
	return opError{}
}

func ofPermit(k api.Kind) bool { return k == api.Renew || k == api.Release }

func unknownHold(op *api.Op) opError {
	return opError{api.NotFound, op.Subject() + " is not known: it never was, or it ended long ago, or its bucket was reset"}
}

// String says how the hold ended.
func (r *ending) String() string {
	switch {
	case r.permit && r.expiry:
		return "the permit has expired"
	case r.permit:
		return "the permit was released"
	case r.by == api.Cancel && r.expiry:
		return "the reservation has expired, and was given back"
	case r.by == api.Cancel:
		return "the reservation was cancelled"
	case r.expiry:
		return fmt.Sprintf("the reservation has expired, and was committed with its cost of %d", r.cost)
	}
	return fmt.Sprintf("the reservation was committed with a cost of %d", r.cost)
}

// tell makes an end the result.
func (m *Buckets) tell(r *ending) {
	if r.permit {
		m.res.Status = api.StatusReleased
		return
	}
	m.res.Status = api.StatusSettled
	m.held = api.HoldOutcome{Committed: r.committed, Refunded: r.refunded, Charged: r.charged}
	m.res.Hold = &m.held
}

// settle ends a hold, and returns what is remembered of that. cost is what a
// Settle asks for.
func (m *Buckets) settle(n *holdNode, by api.Kind, cost int64) *ending {
	r := ending{id: n.id, by: by, permit: n.kind == api.Acquire, print: n.print(), cost: cost, at: m.last}
	if n.kind == api.Reserve && !n.free {
		m.settleReservation(n.hold, &r)
	}
	m.holds.remove(n, &m.sets)
	m.holds.ends.add(r, orDefault(m.holds.maxEnds, MaxSettled))
	return m.holds.ends.get(m.holds.ends.tail - 1)
}

// settleReservation brings the bucket of h to r.cost, for a Settle, or to 0.
func (m *Buckets) settleReservation(h *hold, r *ending) {
	r.committed = h.cost
	if r.cost == h.cost && r.by == api.Settle {
		return
	}
	b, hash := &m.b, h.bucketHash()
	where := m.fetch(b, hash, h.key, h.set)
	if r.cost < h.cost {
		if r.refunded = b.giveBack(h.cost-r.cost, h.set, h.made); r.refunded == 0 {
			return // nothing of it counts any more
		}
	} else if r.charged = min(r.cost-h.cost, b.credit()); r.charged > 0 {
		b.charge(r.charged, 0)
	} else {
		return
	}
	r.committed += r.charged - r.refunded
	m.store(hash, where, h.key, b)
}

// expireHold settles a hold that is overdue by its own rule.
func (m *Buckets) expireHold(n *holdNode) {
	if n.kind == api.Lease {
		m.expireLease(n)
		return
	}
	by, cost := api.Release, int64(0)
	switch {
	case n.kind == api.Acquire:
	case n.cancel:
		by = api.Cancel
	default:
		by, cost = api.Settle, n.cost
	}
	m.settle(n, by, cost).expiry = true
}

// expireHolds settles at most budget holds that are overdue, the first to
// expire first.
func (m *Buckets) expireHolds(budget int) {
	for ; budget > 0 && len(m.holds.due) > 0 && m.holds.due[0].expires <= m.last; budget-- {
		m.expireHold(m.holds.due[0])
	}
	m.holds.ends.expire(m.last, budget)
}
