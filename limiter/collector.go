package limiter

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What a node holds and hears, as metrics that are read when they are asked for.
var (
	descKeys = prometheus.NewDesc("rlstore_spent_from_memory_keys",
		"Keys whose takes this node spends from memory, or has a local bucket for.", nil, nil)
	descTokens = prometheus.NewDesc("rlstore_lease_tokens_total",
		"Tokens of leases that this node held: granted, and of those that have ended spent and returned.", []string{"what"}, nil)
	descBreaker = prometheus.NewDesc("rlstore_shard_breaker_open",
		"1 if the shard did not answer this node's last attempt for a take with a failure rule, or for a lease.", []string{"shard"}, nil)
	descInstances = prometheus.NewDesc("rlstore_soft_instances",
		"Processes that synced buckets of a soft policy with this node in the last minute.", []string{"policy"}, nil)
	descBound = prometheus.NewDesc("rlstore_soft_bound_tokens",
		"By how many tokens a limit of the policy can be exceeded with so many instances.", []string{"policy"}, nil)
	descOvershoot = prometheus.NewDesc("rlstore_soft_overshoot_tokens",
		"By how many tokens a bucket of the policy was exceeded at most, in the last minute or two.", []string{"policy"}, nil)
)

// Describe implements [prometheus.Collector].
func (l *Limiter) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descKeys, descTokens, descBreaker, descInstances, descBound, descOvershoot} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (l *Limiter) Collect(to chan<- prometheus.Metric) {
	s := l.spender.table.Stats()
	to <- prometheus.MustNewConstMetric(descKeys, prometheus.GaugeValue, float64(s.Entries))
	for what, n := range map[string]int64{"granted": s.Granted, "spent": s.Spent, "returned": s.Returned} {
		to <- prometheus.MustNewConstMetric(descTokens, prometheus.CounterValue, float64(n), what)
	}
	l.shards.each(func(id uint32, sh *shard) {
		open := 0.0
		if sh.breaker.Open() {
			open = 1
		}
		to <- prometheus.MustNewConstMetric(descBreaker, prometheus.GaugeValue, open, strconv.Itoa(int(id)))
	})
	for _, p := range l.syncs.seen(time.Duration(l.now())) {
		to <- prometheus.MustNewConstMetric(descInstances, prometheus.GaugeValue, float64(p.instances), p.policy)
		to <- prometheus.MustNewConstMetric(descBound, prometheus.GaugeValue, float64(p.bound), p.policy)
		to <- prometheus.MustNewConstMetric(descOvershoot, prometheus.GaugeValue, float64(p.overshoot), p.policy)
	}
}
