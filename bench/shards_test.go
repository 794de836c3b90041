package bench

import (
	"os"
	"strconv"
)

// logStore is RLSTORE_BENCH_LOG_STORE, or "" for the default.
func logStore() string { return os.Getenv("RLSTORE_BENCH_LOG_STORE") }

// shards is RLSTORE_BENCH_SHARDS, or 0 for the default.
func shards() int {
	n, _ := strconv.Atoi(os.Getenv("RLSTORE_BENCH_SHARDS"))
	return n
}
