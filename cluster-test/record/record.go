// Package record is what the recorders of histories share: the answers of the Go client
// as the checker reads them.
package record

import (
	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// Decision is the answer to a take.
func Decision(d *client.Decision) *check.Answer {
	a := State(&d.State)
	a.Allowed, a.Duplicate = d.Allowed, d.Duplicate
	a.WaitMS, a.Shadowed, a.Source = api.Millis(d.Wait), d.Shadowed, d.Source
	return a
}

// State is the answer to what only tells a bucket's state.
func State(s *client.State) *check.Answer {
	commit := s.Commit
	a := &check.Answer{
		Limit: s.Limit, Remaining: s.Remaining,
		RetryAfterMS: api.Millis(s.RetryAfter), ResetAfterMS: api.Millis(s.ResetAfter),
		Revision: s.PolicyRevision, Commit: &commit,
	}
	for _, l := range s.Limits {
		a.Limits = append(a.Limits, api.LimitState{
			Name: l.Name, Limit: l.Limit, Remaining: l.Remaining,
			RetryAfterMS: api.Millis(l.RetryAfter), ResetAfterMS: api.Millis(l.ResetAfter),
		})
	}
	return a
}
