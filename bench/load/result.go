package load

import (
	"io"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run measured, and of what load.
type Result struct {
	Policy       string `json:"policy"`
	Keys         int    `json:"keys"`
	Distribution string `json:"distribution"`
	Concurrency  int    `json:"concurrency"`
	Batch        int    `json:"batch"`
	Cost         int64  `json:"cost"`
	Rate         int64  `json:"rate"` // 0: a closed loop
	Seed         uint64 `json:"seed"`

	WarmupS     float64 `json:"warmup_s"`
	DurationS   float64 `json:"duration_s"` // until the last answer
	Interrupted bool    `json:"interrupted"`

	Takes          int64   `json:"takes"` // decided: allowed or denied
	TakesPerSecond float64 `json:"takes_per_second"`
	Allowed        int64   `json:"allowed"`
	Denied         int64   `json:"denied"`
	Errors         int64   `json:"errors"` // not applied or unknown
	NotApplied     int64   `json:"not_applied"`
	Unknown        int64   `json:"unknown"`
	Unsent         int64   `json:"unsent"` // open loop, not interrupted: due before the end, but no caller was free

	Latency     Latency      `json:"latency_ms"`
	Percentiles []Percentile `json:"percentiles"`

	histogram *hdrhistogram.Histogram // of calls, in microseconds
}

// Latency is that of calls, in milliseconds. See the package for where it starts.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Percentile is a point of the distribution: Count calls, Percentile of 100, took
// MS at most.
type Percentile struct {
	Percentile float64 `json:"percentile"`
	MS         float64 `json:"ms"`
	Count      int64   `json:"count"`
}

// result sums up what was recorded in elapsed.
func (r *recorder) result(c Config, elapsed time.Duration) *Result {
	n, h := r.sum()
	out := &Result{
		Policy: c.Policy, Keys: c.Keys, Distribution: c.Distribution, Concurrency: c.Concurrency,
		Batch: c.Batch, Cost: c.Cost, Rate: c.Rate, Seed: c.Seed,
		WarmupS: c.Warmup.Seconds(), DurationS: round(elapsed.Seconds()),
		Takes: n.decided(), TakesPerSecond: round(float64(n.decided()) / elapsed.Seconds()),
		Allowed: n.allowed, Denied: n.denied,
		Errors: n.notApplied + n.unknown, NotApplied: n.notApplied, Unknown: n.unknown,
		histogram: h,
	}
	at := func(p float64) float64 { return millis(float64(h.ValueAtPercentile(p))) }
	out.Latency = Latency{Mean: millis(h.Mean()), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: millis(float64(h.Max()))}
	for _, b := range h.CumulativeDistribution() {
		out.Percentiles = append(out.Percentiles, Percentile{Percentile: b.Quantile, MS: millis(float64(b.ValueAt)), Count: b.Count})
	}
	return out
}

// WriteHDR writes the distribution of the latencies in milliseconds, in the text
// format of HdrHistogram, which its plotters read.
func (r *Result) WriteHDR(w io.Writer) error {
	_, err := r.histogram.PercentilesPrint(w, 5, 1000)
	return err
}

func millis(us float64) float64 { return round(us / 1000) }

// round to three digits behind the point: more would be noise.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
