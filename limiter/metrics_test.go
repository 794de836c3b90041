package limiter

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rlstore/rlstore/api"
)

func TestDecisionsAreCountedByPolicyAndNeverByKey(t *testing.T) {
	c := newFake(t)
	reg := prometheus.NewRegistry()
	n := c.nodes["n1"]
	n.metrics = NewMetrics(reg)
	k := keyIn(2, 0)
	b := batchOf(take("small", k), take("small", k).cost(2), take("small", k), take("api", k), take("nope", k), take("api", keyIn(1, 0)))
	b.Policies = append(b.Policies, api.PolicyRef{Inline: []byte(`[{"name":"x","rate":5,"per":"1s"}]`)})
	b.Add(api.Op{Kind: api.Take, Cost: 1, Key: k, Policy: len(b.Policies) - 1})
	if _, err := n.Do(bg, b, Options{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is a duplicate
		if _, err := n.Do(bg, batchOf(take("api", k).id("x")), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	c.script(1, refusedOverloaded)
	if _, err := n.Do(bg, batchOf(take("api", keyIn(1, 0)), take("api", keyIn(1, 0))), Options{}); err == nil {
		t.Fatal("no error")
	}
	const want = `
# HELP rlstore_decisions_total Takes, reservations and permits decided for callers of this node, by policy, source and result.
# TYPE rlstore_decisions_total counter
rlstore_decisions_total{policy="api",result="allowed",source="store"} 3
rlstore_decisions_total{policy="inline",result="allowed",source="store"} 1
rlstore_decisions_total{policy="small",result="allowed",source="store"} 2
rlstore_decisions_total{policy="small",result="denied",source="store"} 1
# HELP rlstore_operations_failed_total Operations whose whole batch failed, by problem code.
# TYPE rlstore_operations_failed_total counter
rlstore_operations_failed_total{code="overloaded"} 2
# HELP rlstore_operations_forwarded_total Operations sent to the peer that leads their shard.
# TYPE rlstore_operations_forwarded_total counter
rlstore_operations_forwarded_total 7
# HELP rlstore_operations_refused_total Operations that got an error instead of a decision, by problem code.
# TYPE rlstore_operations_refused_total counter
rlstore_operations_refused_total{code="unknown-policy"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
