package bench

import (
	"os"
	"strconv"
)

// shards is RLSTORE_BENCH_SHARDS, or 0 for the default.
func shards() int {
	n, _ := strconv.Atoi(os.Getenv("RLSTORE_BENCH_SHARDS"))
	return n
}
