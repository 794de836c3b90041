package clustertest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// TestAPolicyWriteIsSeenEverywhereOnceItReturned edits and deletes a policy
// through one node and at once takes through the others, round after round:
// while all are up, while one is down, and on that one when it is back.
func TestAPolicyWriteIsSeenEverywhereOnceItReturned(t *testing.T) {
	c := shared(t)
	name := unique("team/edited")
	// see checks that a take through n is decided by p.
	see := func(n *node, p api.Policy, key string) error {
		d, err := n.takeOnce(api.TakeRequest{Policy: name, Key: key})
		if err != nil {
			return fmt.Errorf("take through %s after the write of revision %d: %w", n.id, p.Revision, err)
		}
		if d.PolicyRevision != p.Revision || d.Limit != p.Limits[0].Burst {
			return fmt.Errorf("%s decides by revision %d and a burst of %d, after the write of revision %d and %d",
				n.id, d.PolicyRevision, d.Limit, p.Revision, p.Limits[0].Burst)
		}
		return nil
	}
	round := func(up []*node, i int) api.Policy {
		t.Helper()
		writer := up[i%len(up)]
		p := writer.put(t, name, 1, year, int64(100+i))
		crowd(t, len(up), func(j int) error { return see(up[j], p, itoa(i)) })()
		if i%4 == 3 {
			repeated := false
			err := insist(func() error {
				err := writer.call("DELETE", "/v1/policies/"+name, nil, nil)
				if repeated && api.AsProblem(err).Code == api.UnknownPolicy {
					return nil
				}
				repeated = true
				return err
			})
			if err != nil {
				t.Fatalf("delete through %s: %v", writer.id, err)
			}
			crowd(t, len(up), func(j int) error {
				_, err := up[j].takeOnce(api.TakeRequest{Policy: name, Key: itoa(i)})
				if err == nil || api.AsProblem(err).Code != api.UnknownPolicy {
					return fmt.Errorf("take through %s after the delete: %v, want %s", up[j].id, err, api.UnknownPolicy)
				}
				return nil
			})()
		}
		return p
	}
	for i := range 40 {
		round(c.nodes, i)
	}
	down := c.leader(t, 0)
	up := c.others(down)
	down.kill(t)
	c.leader(t, 0, up...)
	var last api.Policy
	for i := range 11 {
		last = round(up, 100+i)
	}
	down.start(t)
	down.waitReady(t)
	eventually(t, "the node that was down sees the last edit", func() error { return see(down, last, "back") })

	// A write through a node that just died elsewhere is not half done: all
	// nodes list the same.
	var lists [3]api.PolicyList
	for i, n := range c.nodes {
		if err := n.call("GET", "/v1/policies", nil, &lists[i]); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(lists[i]) != fmt.Sprint(lists[0]) {
			t.Errorf("%s lists %v\n%s lists %v", n.id, lists[i], c.nodes[0].id, lists[0])
		}
	}
}

// TestAStartingNodeDeniesNoPolicyThatExists asks a node from the first moment of
// its start for policies that were written while it was away. Until it knows
// them it may say that it is starting, and never that they do not exist.
func TestAStartingNodeDeniesNoPolicyThatExists(t *testing.T) {
	c := shared(t)
	for round := range 4 {
		n := c.nodes[round%3]
		n.kill(t)
		up := c.others(n)
		c.leader(t, 0, up...)
		var name string
		for i := range 10 {
			name = unique("starting")
			up[i%2].put(t, name, 1, year, 100)
		}
		n.start(t)
		answered := 0
		eventually(t, "the node is ready and takes", func() error {
			_, err := n.take(api.TakeRequest{Policy: name, Key: "k"})
			var p *api.Problem
			switch {
			case err == nil:
				answered++
			case errors.As(err, &p) && !p.Retryable:
				t.Fatalf("%s says after %d answers: %v", n.id, answered, err)
			default:
				return err
			}
			if err := n.call("GET", "/v1/policies/"+name, nil, nil); err != nil {
				t.Fatalf("it decided by the policy already, and then: %v", err)
			}
			return n.ready()
		})
	}
}
