package bench

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// written is what the cluster has sealed and brought to its disks so far.
type written struct {
	entries, ops             float64 // sealed by leaders
	commits, logged, seconds float64 // of all nodes: commits of log files, entries in them, time that they took
}

func readWritten(b *testing.B) (w written) {
	b.Helper()
	sums := []struct {
		name string
		to   *float64
	}{
		{"rlstore_entry_operations_count", &w.entries}, {"rlstore_entry_operations_sum", &w.ops},
		{"rlstore_log_commit_entries_count", &w.commits}, {"rlstore_log_commit_entries_sum", &w.logged},
		{"rlstore_log_commit_seconds_sum", &w.seconds},
	}
	for _, url := range cluster.urls {
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			b.Fatal(err)
		}
		s := bufio.NewScanner(resp.Body)
		for s.Scan() {
			name, value, _ := strings.Cut(s.Text(), " ")
			v, _ := strconv.ParseFloat(value, 64)
			for _, sum := range sums {
				if strings.HasPrefix(name, sum.name) {
					*sum.to += v
				}
			}
		}
		resp.Body.Close()
	}
	return w
}

// report prints what went on since before.
func (w written) report(b *testing.B, before written) {
	if w.entries > before.entries {
		b.ReportMetric((w.ops-before.ops)/(w.entries-before.entries), "decisions/entry")
		b.ReportMetric((w.entries-before.entries)/b.Elapsed().Seconds(), "entries/s")
	}
	if commits := w.commits - before.commits; commits > 0 {
		b.ReportMetric(commits/b.Elapsed().Seconds(), "commits/s")
		b.ReportMetric((w.logged-before.logged)/commits, "entries/commit")
		b.ReportMetric((w.seconds-before.seconds)/commits*1e6, "commit-µs")
	}
}
