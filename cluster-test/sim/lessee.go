package sim

import (
	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// lent is a lease that a caller was given.
type lent struct {
	policy, key string
	id          api.HoldID
	granted     int64
}

// lease asks for a lease, ends one, or tells what was spent without asking, of the
// buckets that everybody takes from. It is a binary batch without a session, sent
// to any node, once.
func (c *caller) lease() {
	policy, key, cost := c.draw()
	op := &check.Op{Client: c.id * width, Kind: "lease", Policy: policy, Key: key, Cost: cost}
	b := &api.Batch{}
	switch k := c.rng.IntN(10); {
	case k < 4 && len(c.leases) > 0:
		l := c.leases[0]
		c.leases = c.leases[1:]
		op.Kind, op.Policy, op.Key, op.Cost, op.Hold = "commit", l.policy, l.key, c.rng.Int64N(l.granted+2), l.id[:]
		if k == 0 {
			op.Kind, op.Cost = "cancel", 0
			b.Add(api.Op{Kind: api.Cancel, Hold: &api.Hold{ID: l.id}})
			break
		}
		b.Add(api.Op{Kind: api.Settle, Cost: op.Cost, Hold: &api.Hold{ID: l.id}})
	case k < 9:
		var random [14]byte
		for i := range random {
			random[i] = byte(c.rng.Uint32())
		}
		h := &api.Hold{ID: api.NewHoldID(key, random), TTL: 1 + c.rng.Int64N(4000), Need: 1 + c.rng.Int64N(cost)}
		op.Hold, op.Need = h.ID[:], h.Need
		b.Add(api.Op{Kind: api.Lease, Policy: b.Ref(policy), Key: key, Cost: cost, Hold: h})
	default:
		op.Kind = "sync"
		op.Cost--
		b.Add(api.Op{Kind: api.Sync, Policy: b.Ref(policy), Key: key, Cost: op.Cost, Instance: uint64(c.id)})
	}
	c.binary(op, b)
}

// told reads the answer to the one operation of a batch.
func (c *caller) told(op *check.Op, reply []byte) (*check.Answer, error) {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return nil, err
	}
	var res api.Result
	if _, err := r.Next(&res); err != nil {
		return nil, err
	}
	a := &check.Answer{Duplicate: res.Duplicate, Shadowed: res.Shadowed, Commit: commit(res.Commit)}
	switch res.Status {
	case api.StatusError:
		return nil, api.NewProblem(res.Code, "%s", res.Detail)
	case api.StatusSettled:
		a.Committed, a.Given, a.Charged = res.Hold.Committed, res.Hold.Refunded, res.Hold.Charged
		return a, nil
	case api.StatusLeased:
		a.Allowed, a.Granted = true, res.Hold.Granted
		c.leases = append(c.leases, lent{op.Policy, op.Key, res.Hold.ID, res.Hold.Granted})
	case api.StatusHeld:
		a.Allowed, a.Hold = true, c.keep(op, res.Hold.ID)
	}
	set := &r.Sets[res.Set]
	a.Revision = set.Revision
	ms := func(us uint64) int64 { return int64((us + 999) / 1000) }
	for i, v := range res.Limits {
		a.Limits = append(a.Limits, api.LimitState{
			Name: set.Limits[i].Name, Limit: set.Limits[i].Burst, Remaining: v.Remaining,
			RetryAfterMS: ms(v.RetryAfter), ResetAfterMS: ms(v.ResetAfter),
		})
	}
	l := &a.Limits[res.Binding]
	a.Limit, a.Remaining, a.RetryAfterMS, a.ResetAfterMS = l.Limit, l.Remaining, l.RetryAfterMS, l.ResetAfterMS
	return a, nil
}
