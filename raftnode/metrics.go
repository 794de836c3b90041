package raftnode

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rlstore/rlstore/fsm"
)

// Metrics is a node's consensus metrics, by shard; shard 0 is the catalog. It
// is a prometheus.Collector. Raft's own metrics are global to the process and
// carry no group, so these are our own.
type Metrics struct {
	node *Node

	commit      *prometheus.HistogramVec
	fsync       *prometheus.HistogramVec
	apply       *prometheus.HistogramVec
	entryBytes  *prometheus.HistogramVec
	entryOps    *prometheus.HistogramVec
	leaderships *prometheus.CounterVec
	failures    *prometheus.CounterVec
	repairs     *prometheus.CounterVec

	// of all shards together, in one file
	logCommit, logEntries, logBytes prometheus.Histogram
}

// The gauges are read from the groups at each scrape.
var (
	descLeader     = desc("leader", "1 if this node leads the shard and serves, else 0.")
	descTerm       = desc("term", "Raft term.")
	descCommit     = desc("commit_index", "Last index known as committed.")
	descApplied    = desc("applied_index", "Last index applied.")
	descLag        = desc("applied_lag_entries", "Committed entries not applied yet.")
	descQueue      = desc("queue_proposals", "Callers' batches that wait for an entry.")
	descQueueBytes = desc("queue_bytes", "Bytes of operations that wait for an entry.")
	descBuckets    = desc("buckets", "Live buckets.")
	descBytes      = desc("bucket_bytes", "Memory of the buckets' tables, in bytes.")
	descDedup      = desc("dedup_ids", "Request ids in the de-duplication window.")
	descSessions   = desc("sessions", "Client sessions.")
	descHolds      = desc("holds", "Reservations, permits and leases that live.")
	descSettled    = desc("settled_holds", "Reservations and permits whose end is remembered.")
	descLeases     = desc("leases", "Leases that live.")
	descLeased     = desc("leased_tokens", "Tokens out on lease.")
	descLeaseEnds  = desc("leased_tokens_expired_total", "Tokens of leases that nobody settled in time.")
	descDropped    = desc("buckets_dropped_total", "Buckets dropped because they were equal to fresh ones.")
	descLogBytes   = desc("log_appended_bytes_total", "Bytes appended to the log since the start.")
	descRepairing  = desc("repairing", "1 while this node's replica, whose files were damaged, has yet to get its vote again.")
	descSetAside   = desc("damaged_snapshots_total", "Snapshots that were damaged and set aside, while nothing was lost, since the start.")
	descResets     = prometheus.NewDesc("rlstore_bucket_resets_total", "Buckets reset because their state was impossible, by reason.", []string{"shard", "reason"}, nil)
	descReachable  = prometheus.NewDesc("rlstore_peer_reachable", "1 if the peer answered within the last 3 s.", []string{"peer"}, nil)
	descJumps      = prometheus.NewDesc("rlstore_clock_jumps_total", "Steps of this machine's clock that were ignored.", nil, nil)
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("rlstore_shard_"+name, help, []string{"shard"}, nil)
}

func newMetrics() *Metrics {
	shard := []string{"shard"}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "rlstore_" + name, Help: help, Buckets: buckets}, shard)
	}
	plain := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rlstore_" + name, Help: help, Buckets: buckets})
	}
	latency := prometheus.ExponentialBuckets(0.0001, 2, 16) // 0.1 ms to 3.3 s
	return &Metrics{
		commit:      histogram("commit_seconds", "From sealing an entry to its result, on the leader.", latency),
		fsync:       histogram("log_write_seconds", "One write of the shard's log to disk, with the wait for the one before and fsync.", latency),
		apply:       histogram("apply_seconds", "Applying one entry to the state machine.", latency),
		entryBytes:  histogram("entry_bytes", "Size of sealed entries.", prometheus.ExponentialBuckets(64, 4, 9)),
		entryOps:    histogram("entry_operations", "Operations in sealed entries.", prometheus.ExponentialBuckets(1, 4, 8)),
		leaderships: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rlstore_leadership_changes_total", Help: "Leaderships that this node won or lost."}, shard),
		failures:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rlstore_entries_failed_total", Help: "Entries that this node proposed and whose commit it did not see."}, shard),
		repairs:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rlstore_shard_repairs_total", Help: "Replicas of this node whose files were damaged and set aside, since the start."}, shard),
		logCommit:   plain("log_commit_seconds", "One commit of the log file, fsync included.", latency),
		logEntries:  plain("log_commit_entries", "Entries, of all shards, in one commit of the log file.", prometheus.ExponentialBuckets(1, 2, 8)),
		logBytes:    plain("log_commit_bytes", "Bytes of entries in one commit of the log file.", prometheus.ExponentialBuckets(64, 4, 10)),
	}
}

// Metrics is this node's collector.
func (n *Node) Metrics() *Metrics { return n.metrics }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.vectors() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{
		descLeader, descTerm, descCommit, descApplied, descLag, descQueue, descQueueBytes, descBuckets,
		descBytes, descDedup, descSessions, descHolds, descSettled, descLeases, descLeased, descLeaseEnds,
		descDropped, descLogBytes, descRepairing, descSetAside, descResets, descReachable, descJumps,
	} {
		ch <- d
	}
}

func (m *Metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.commit, m.fsync, m.apply, m.entryBytes, m.entryOps, m.leaderships, m.failures, m.repairs, m.logCommit, m.logEntries, m.logBytes}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.vectors() {
		c.Collect(ch)
	}
	ch <- prometheus.MustNewConstMetric(descJumps, prometheus.CounterValue, float64(m.node.steady.Jumps()))
	for _, p := range m.node.peers.members() {
		if p.ID != m.node.cfg.NodeID {
			_, ok := m.node.peers.fresh(p.ID)
			ch <- prometheus.MustNewConstMetric(descReachable, prometheus.GaugeValue, oneIf(ok), p.ID)
		}
	}
	for _, g := range m.node.groupList() {
		shard := strconv.Itoa(int(g.id))
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, shard)
		}
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{shard}, labels...)...)
		}
		s := g.status()
		gauge(descLeader, oneIf(g.leading.Load()))
		gauge(descTerm, float64(s.Term))
		gauge(descCommit, float64(s.Commit))
		gauge(descApplied, float64(s.Applied))
		gauge(descLag, float64(s.Commit)-float64(min(s.Applied, s.Commit)))
		counter(descLogBytes, g.store.AppendedBytes())
		gauge(descRepairing, oneIf(g.repair.underWay()))
		counter(descSetAside, g.snaps.SetAside())
		if g.buckets == nil {
			continue
		}
		proposals, bytes := g.coalescer.depth()
		gauge(descQueue, float64(proposals))
		gauge(descQueueBytes, float64(bytes))
		st := g.buckets.Stats()
		gauge(descBuckets, float64(st.Buckets))
		gauge(descBytes, float64(st.Bytes))
		gauge(descDedup, float64(st.DedupIDs))
		gauge(descSessions, float64(st.Sessions))
		gauge(descHolds, float64(st.Holds))
		gauge(descSettled, float64(st.Settled))
		gauge(descLeases, float64(st.Leases))
		gauge(descLeased, float64(st.Leased))
		counter(descLeaseEnds, st.Expired)
		counter(descDropped, st.Dropped)
		for reason := fsm.ResetNone + 1; reason < fsm.ResetReasons; reason++ {
			counter(descResets, st.Resets[reason], reason.String())
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// groupMetrics is the part of Metrics that one group writes, with the labels
// looked up once.
type groupMetrics struct {
	commit, fsync, apply, entryBytes, entryOps prometheus.Observer
	leaderships, failures                      prometheus.Counter
}

func (m *Metrics) group(id uint32) *groupMetrics {
	shard := strconv.Itoa(int(id))
	return &groupMetrics{
		commit: m.commit.WithLabelValues(shard), fsync: m.fsync.WithLabelValues(shard), apply: m.apply.WithLabelValues(shard),
		entryBytes: m.entryBytes.WithLabelValues(shard), entryOps: m.entryOps.WithLabelValues(shard),
		leaderships: m.leaderships.WithLabelValues(shard), failures: m.failures.WithLabelValues(shard),
	}
}

// logCommitted hears of each commit of the log file.
func (m *Metrics) logCommitted(entries, bytes int, d time.Duration) {
	m.logCommit.Observe(d.Seconds())
	m.logEntries.Observe(float64(entries))
	m.logBytes.Observe(float64(bytes))
}

func (m *groupMetrics) entry(bytes, ops int) {
	m.entryBytes.Observe(float64(bytes))
	m.entryOps.Observe(float64(ops))
}

func (m *groupMetrics) committed(d time.Duration, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	m.commit.Observe(d.Seconds())
}

func (m *groupMetrics) stored(_, _ int, d time.Duration) { m.fsync.Observe(d.Seconds()) }

func (m *groupMetrics) applied(d time.Duration) { m.apply.Observe(d.Seconds()) }

func (m *groupMetrics) leadership(bool) { m.leaderships.Inc() }
