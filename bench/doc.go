// Package bench measures a whole cluster beside the bare engine that it stands
// on: three nodes over loopback, with fsync, in one process. Run it with
//
//	make bench
//
// and compare runs with benchstat. Each benchmark reports decisions a second
// and latency at the 50th and the 99th percentile; only ratios within one run
// mean anything on a shared machine. RLSTORE_BENCH_SHARDS sets the number of
// shards, to see what they cost when all nodes share one disk, and
// RLSTORE_BENCH_LOG_STORE=wal the other log store.
package bench
