package bench

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// entries returns how many entries the cluster has sealed, and how many
// operations they held.
func entries(b *testing.B) (count, ops float64) {
	b.Helper()
	for _, url := range cluster.urls {
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			b.Fatal(err)
		}
		s := bufio.NewScanner(resp.Body)
		for s.Scan() {
			name, value, _ := strings.Cut(s.Text(), " ")
			v, _ := strconv.ParseFloat(value, 64)
			switch {
			case strings.HasPrefix(name, "rlstore_entry_operations_count"):
				count += v
			case strings.HasPrefix(name, "rlstore_entry_operations_sum"):
				ops += v
			}
		}
		resp.Body.Close()
	}
	return count, ops
}
