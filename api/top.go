package api

import "time"

// By what GET /v1/top ranks keys.
const (
	TopDenied = "denied" // takes denied, or that would have been but for shadow
	TopTaken  = "taken"  // tokens taken
)

// TopWindow is as far as a count reaches back at most: counts are halved
// every TopWindow/2, so that a steady rate shows as what comes in between
// one and two of those halves.
const TopWindow = 2 * time.Minute

// MaxTop is the most keys that one answer has.
const MaxTop = 1000

// Top answers GET /v1/top: the heaviest keys, lately.
type Top struct {
	By       string   `json:"by"`
	WindowMS int64    `json:"window_ms"` // see [TopWindow]
	OneIn    int      `json:"one_in"`    // 1, or on a busy node n: one of n batches was counted, for n
	Keys     []TopKey `json:"keys"`      // the heaviest first
	Nodes    []string `json:"nodes"`     // whose counts these are
	Missing  []string `json:"missing"`   // nodes that did not answer: what they decide is not counted
}

// TopKey is one key. The number that ranks it is off by ErrorBound at most, either way; the
// other is counted only while the key is among the heaviest, and so is never too high.
type TopKey struct {
	Policy     string `json:"policy"` // "inline" for limits written into requests
	Key        string `json:"key"`
	Taken      uint64 `json:"taken"`  // tokens
	Denied     uint64 `json:"denied"` // takes
	ErrorBound uint64 `json:"error_bound"`
}
