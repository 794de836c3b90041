package fsm

import (
	"strings"

	"github.com/rlstore/rlstore/api"
)

// maxLeases is how many leases of one bucket count at once; one more is refused as
// overloaded. What is told of a bucket with leases takes a look at each.
const maxLeases = 4096

// A lease is a hold whose tokens its holder spends from memory, without asking
// for each. See leased.go for what keeps that within the limits; the rest is as
// of other holds (see [hold]), but for this:
//
//   - It is asked for with the most that is wanted and the least that is of use.
//     What it gets is the former, but no more than a fair share of what is
//     available: that divided by the leases of the bucket and 2, so that there
//     is something left for those who come later, and little is stranded where
//     little is left. At least it gets the latter, or is denied.
//   - It is settled by a commit of what was spent; the rest is given back. It
//     expires as spent. Neither is remembered: for a holder it is all the same
//     why a lease is gone.
//   - It lives as long as it asks for, and as its policy lets it.
//   - The same lease asked for again while it lives gets what it got the first
//     time.
//   - A reset of its bucket forgives: it takes the lease out, yet its holder may
//     go on to spend what it had.

// makeLease applies a lease whose bucket is fetched into m.b.
func (m *Buckets) makeLease(op *api.Op, s *set, key, hash uint64, where at) opError {
	b, res := &m.b, &m.res
	if n := m.holds.byID[op.Hold.ID]; n != nil && n.kind == api.Lease && n.expires <= m.last {
		m.expireLease(n)
		where = m.fetch(b, hash, op.Key, s)
	}
	asked := *op
	asked.Cost = 0 // see hold.print
	known, e := m.knownHold(op, fingerprint(&asked, b.set, key))
	if e.code != "" {
		return e
	}
	need, want := op.Hold.Need, op.Cost
	m.held = api.HoldOutcome{ID: op.Hold.ID, Granted: want}
	switch available := b.available(); {
	case known:
		res.Duplicate = true
		m.held.Granted = m.holds.byID[op.Hold.ID].cost
	case !b.set.off && b.set.concurrency:
		return permitRequired(b.set)
	case !b.set.off && need > b.set.minBurst:
		return exceeds(need, b.set)
	case !b.set.off && !b.set.shadow && need > available:
		res.Status = api.StatusDenied
		b.deny(res, need, 0)
		return opError{}
	case len(m.holds.byID) >= orDefault(m.holds.max, MaxHolds), b.leased != 0 && len(b.leases) >= maxLeases:
		return opError{api.Overloaded, "the shard or the bucket has as many leases as it can"}
	default:
		free := b.set.off || need > available
		if !free {
			share := available / 2
			if b.leased != 0 {
				share = available / int64(len(b.leases)+2)
			}
			m.held.Granted = max(need, min(want, share))
		}
		ttl := op.Hold.TTL
		if b.set.leaseTTL != 0 {
			ttl = min(ttl, b.set.leaseTTL)
		}
		m.holds.add(&hold{
			id: op.Hold.ID, kind: api.Lease, free: free,
			set: b.set, key: strings.Clone(op.Key), cost: m.held.Granted,
			made: m.at, expires: m.expiry(ttl),
		})
		if !free {
			b.charge(m.held.Granted, 0)
			m.countLeases(b, hash, op.Key)
			m.store(hash, where, op.Key, b)
		} else if b.set.shadow {
			res.Shadowed = true
		}
	}
	res.Status = api.StatusLeased
	res.Hold = &m.held
	if res.Shadowed {
		b.deny(res, need, 0)
	} else {
		b.describe(res, 0)
	}
	return opError{}
}

// settleLease ends a lease that is not overdue, of which spent tokens were spent.
func (m *Buckets) settleLease(n *holdNode, spent int64) *ending {
	h, r := n.hold, &ending{by: api.Settle}
	if h.free {
		m.holds.remove(n, &m.sets)
		return r
	}
	b, hash := &m.b, h.bucketHash()
	where := m.fetch(b, hash, h.key, h.set)
	m.holds.remove(n, &m.sets)
	b.leased, b.leases = 0, nil
	m.countLeases(b, hash, h.key)
	if spent < h.cost {
		r.refunded = h.cost - spent
		b.unlease(r.refunded)
	} else if r.charged = min(spent-h.cost, b.credit()); r.charged > 0 {
		b.charge(r.charged, 0)
	}
	r.committed = h.cost + r.charged - r.refunded
	m.store(hash, where, h.key, b)
	return r
}

// expireLease takes out a lease that is overdue. The bucket is stored as of now:
// what is stored knows of no lease that expired before.
func (m *Buckets) expireLease(n *holdNode) {
	if h := n.hold; !h.free {
		m.expired += uint64(h.cost)
		b, hash := &m.b, h.bucketHash()
		where := m.table.find(hash, h.set.policy, h.key, &m.sets)
		if where.found && b.load(m.table.stripes[stripeOf(hash)].record(where.loc), &m.sets, m.last) == ResetNone {
			m.advanceLeased(b, hash, h.key, m.at)
			m.store(hash, where, h.key, b)
		}
	}
	m.holds.remove(n, &m.sets)
}
