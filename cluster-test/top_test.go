package clustertest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// TestTopIsMergedAndNamesWhoIsMissing has every node count keys, and then one of them frozen.
func TestTopIsMergedAndNamesWhoIsMissing(t *testing.T) {
	t.Parallel()
	c := start(t, nil)
	c.spread(t) // a node that has handed its shard over still counts what it decided
	asked := c.nodes[0]
	p := asked.put(t, "top", 1, 3600e9, 5)
	cost := int64(4)
	led := map[string][]string{} // keys by the node that decides them
	for i := 0; len(led) < len(c.nodes); i++ {
		if i == 500 {
			t.Fatalf("500 keys, and only these nodes decide any: %v", led)
		}
		key := fmt.Sprint("key:", i)
		for range 2 {
			asked.mustTake(t, api.TakeRequest{Policy: p.Name, Key: key, Cost: &cost})
		}
		n := c.leaderOf(t, key)
		led[n.id] = append(led[n.id], key)
	}
	want := 0
	for _, keys := range led {
		want += len(keys)
	}
	top := func() (a api.Top) {
		t.Helper()
		if err := asked.call("GET", "/v1/top?by=denied&n=1000", nil, &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	whole := top()
	if len(whole.Keys) != want || len(whole.Nodes) != len(c.nodes) || len(whole.Missing) != 0 {
		t.Errorf("of %d keys that were denied it has %+v", want, whole)
	}
	for _, k := range whole.Keys {
		if k.Policy != p.Name || k.Taken != 0 || k.Denied != 1 || k.ErrorBound != 0 {
			t.Errorf("a key that was denied once and let pass before is %+v", k)
		}
	}
	gone := c.others(asked)[0]
	gone.freeze(t)
	defer gone.thaw(t)
	part := top()
	if !slices.Equal(part.Missing, []string{gone.id}) || slices.Contains(part.Nodes, gone.id) {
		t.Errorf("%s is frozen, and the answer is %+v", gone.id, part)
	}
	for _, k := range part.Keys {
		if slices.Contains(led[gone.id], k.Key) {
			t.Errorf("%s is counted by nobody who answers", k.Key)
		}
	}
	if len(part.Keys) != want-len(led[gone.id]) {
		t.Errorf("without %s it has %d keys, not %d", gone.id, len(part.Keys), want-len(led[gone.id]))
	}
}
