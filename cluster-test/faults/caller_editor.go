package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// editPolicies now and then changes one of the policies that the plan leaves to
// the editor: raises and lowers a limit, adds one, removes one, deletes the
// policy and makes it anew. There is one editor in a run.
func (c *caller) editPolicies(context.Context) {
	if c.rng.IntN(25) > 0 {
		return // about once a second
	}
	edits := 1
	if c.rng.IntN(8) == 0 {
		edits = 12 // in one go
	}
	for range edits {
		p := c.plan.Policies[len(c.plan.Policies)-1-c.rng.IntN(c.plan.Edited)]
		switch c.rng.IntN(10) {
		case 0:
			remove(c.journal, c.client, p.Name)
		case 8, 9:
			c.override(p)
		case 1, 2: // as it was
			put(c.journal, c.client, p)
		default:
			put(c.journal, c.client, c.variant(p))
		}
	}
}

// override gives some keys limits of their own, for a time or for good, or takes
// them away. The journal does not tell of it: the catalog's log does.
func (c *caller) override(p api.Policy) {
	o := api.Override{Key: []string{"*", "shared-*", "shared-1", "own-*"}[c.rng.IntN(4)], Limits: c.variant(p).Limits}
	if c.rng.IntN(3) == 0 {
		_ = c.client.DeleteOverride(context.Background(), p.Name, o.Key)
		return
	}
	if c.rng.IntN(2) == 0 {
		o.TTL = api.Duration(time.Second + time.Duration(c.rng.Int64N(int64(8*time.Second))))
	}
	_, _ = c.client.PutOverride(context.Background(), p.Name, o)
}

// variant draws a policy of the same name.
func (c *caller) variant(p api.Policy) api.Policy {
	v := api.Policy{Name: p.Name}
	for i, l := range p.Limits {
		if i > 0 && c.rng.IntN(3) == 0 {
			continue
		}
		l.Rate = max(1, l.Rate*(1+c.rng.Int64N(4))/2)
		l.Burst = max(8, l.Burst*(1+c.rng.Int64N(4))/2)
		v.Limits = append(v.Limits, l)
	}
	if c.rng.IntN(3) == 0 {
		v.Limits = append(v.Limits, api.Limit{
			Name: fmt.Sprintf("extra%d", c.rng.IntN(3)), Rate: 1 + c.rng.Int64N(50),
			Per: api.Duration(time.Second), Burst: 8 + c.rng.Int64N(50),
		})
	}
	return v
}

// put writes a policy, and notes it.
func put(j *journal, cl *client.Client, p api.Policy) error {
	e := &check.Edit{Name: p.Name}
	returned := j.edit(e)
	stored, err := cl.PutPolicy(context.Background(), p)
	if e.Outcome = editOutcome(err); e.Outcome == check.Done {
		e.Policy = &stored
	}
	returned()
	return err
}

// remove deletes a policy, and notes it.
func remove(j *journal, cl *client.Client, name string) {
	e := &check.Edit{Name: name, Deletion: true}
	returned := j.edit(e)
	e.Outcome = editOutcome(cl.DeletePolicy(context.Background(), name))
	returned()
}

func editOutcome(err error) check.Outcome {
	switch {
	case err == nil:
		return check.Done
	case errors.Is(err, client.ErrOutcomeUnknown):
		return check.Unknown
	}
	return check.NotApplied
}
