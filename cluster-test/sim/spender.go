package sim

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// elsewhere are policies that something else than the log may decide: leases and soft
// buckets, which the callers' Go clients and the nodes have in memory, and failure
// rules. Who did, the answers say.
var elsewhere = []api.Policy{
	{Name: "leased", Mode: "leased", LeaseTTL: api.Duration(time.Second), Limits: []api.Limit{
		{Name: "only", Rate: 20, Per: api.Duration(time.Second), Burst: 20},
	}},
	{Name: "leased-budget", Mode: "leased", LeaseTTL: api.Duration(3 * time.Second), OnUnavailable: "open", Limits: []api.Limit{
		{Name: "only", Rate: 1, Per: api.Duration(8760 * time.Hour), Burst: 300},
		{Name: "window", Algorithm: "sliding_window", Rate: 40, Per: api.Duration(time.Second)},
	}},
	{Name: "soft", Mode: "soft", SyncInterval: api.Duration(200 * time.Millisecond), Limits: []api.Limit{
		{Name: "only", Rate: 5, Per: api.Duration(time.Second), Burst: 10},
	}},
	{Name: "soft-budget", Mode: "soft", SyncInterval: api.Duration(50 * time.Millisecond), Limits: []api.Limit{
		{Name: "only", Rate: 1, Per: api.Duration(8760 * time.Hour), Burst: 5},
	}},
	{Name: "local", OnUnavailable: "local", Limits: []api.Limit{
		{Name: "only", Rate: 10, Per: api.Duration(time.Second), Burst: 10},
	}},
}

// spend takes of such a policy, a few times in a row: a lease pays only where many
// take.
func (c *caller) spend() {
	policy := elsewhere[c.rng.IntN(len(elsewhere))].Name
	key := fmt.Sprintf("{t%d}-0", c.rng.IntN(2))
	for range 1 + c.rng.IntN(6) {
		op := &check.Op{Client: c.id * width, Call: c.w.rec.now(), Kind: "take", Policy: policy, Key: key, Cost: 1 + c.rng.Int64N(3)}
		if c.rng.IntN(2) == 0 {
			ctx, cancel := c.patience()
			d, err := c.cl.Take(ctx, policy, key, op.Cost)
			cancel()
			c.end(op, record.Decision(&d), err)
			continue
		}
		body, err := json.Marshal(api.TakeRequest{Policy: policy, Key: key, Cost: &op.Cost})
		if err != nil {
			panic(err)
		}
		a, err := c.ask(c.anyNode(), "/v1/take", body, 3*time.Second)
		c.end(op, a, err)
	}
}

// spendBatch takes of several such buckets at once: of each the client decides what
// it can.
func (c *caller) spendBatch() {
	ctx, cancel := c.patience()
	defer cancel()
	ops := make([]check.Op, 1+c.rng.IntN(5))
	var requests []client.Request
	for i := range ops {
		policy := elsewhere[c.rng.IntN(len(elsewhere))].Name
		ops[i] = check.Op{Client: c.id*width + i, Kind: "take", Policy: policy, Key: fmt.Sprintf("{t%d}-0", c.rng.IntN(2)), Cost: 1 + c.rng.Int64N(3), Call: c.w.rec.now()}
		requests = append(requests, client.Request{Policy: policy, Key: ops[i].Key, Cost: ops[i].Cost})
	}
	results, err := c.cl.TakeBatch(ctx, requests)
	for i := range ops {
		e, a := err, (*check.Answer)(nil)
		if err == nil {
			e, a = results[i].Err, record.Decision(&results[i].Decision)
		}
		c.w.rec.returned(&ops[i], a, e, false)
	}
	c.w.rec.add(ops...)
}
