package client

import (
	"time"

	"github.com/rlstore/rlstore/api"
)

// Request is one take of a batch.
type Request struct {
	Policy    string        // "api"; empty with Limits
	Key       string        // whom to charge: "user:42"
	Cost      int64         // tokens: 5; 0 is 1
	RequestID string        // "9f0c…" makes the take exactly-once across processes; usually empty
	MaxWait   time.Duration // how long it may borrow from the future; see [MaxWait]
	Limits    []api.Limit   // inline limits instead of Policy, where the server allows them
}

// State is what the store tells of a bucket. Limit, Remaining, RetryAfter and
// ResetAfter describe the limit that binds: the one with the fewest tokens left
// relative to its burst, or on a denial the one with the longest wait.
type State struct {
	Policy     string        // as asked: "api"; empty with inline limits
	Key        string        // as asked: "user:42"
	Limit      int64         // the burst: 200
	Remaining  int64         // whole tokens left, rounded down: 199
	RetryAfter time.Duration // smallest wait after which the same take passes if nobody else spends: 10ms; 0 if it passes now
	ResetAfter time.Duration // until the bucket is full: 2s

	Mode           string       // "strict", "leased" or "soft": which trade-off holds for the key
	Source         string       // who decided: "store", "lease", "soft"; "open" and "local" while the store was unavailable; "off" if the policy's enforcement is off, and nobody did
	PolicyRevision uint64       // of the policy that decided: 7
	Limits         []LimitState // every limit, in the policy's order, if there are several; always of a peek
	Commit         api.Commit   // the place in the shard's log that decided: shard 3, index 884213, offset 17; a lease's own, which its takes share; a soft bucket's last sync; zero of "open" and "local"
}

// LimitState is one limit's part of a [State].
type LimitState struct {
	Name       string        // "burst"
	Limit      int64         // 200
	Remaining  int64         // 199
	RetryAfter time.Duration // 10ms
	ResetAfter time.Duration // 2s
}

// Decision is the answer to a take.
type Decision struct {
	Allowed bool // false spent nothing and changed nothing
	State
	Cost      int64         // tokens asked for, and if allowed spent: 1
	Wait      time.Duration // sleep this long before acting; 0 unless the take was given a [MaxWait]
	Shadowed  bool          // a denial that the policy does not enforce: nothing was spent
	Duplicate bool          // the request id was seen before, and this is its first decision

	inline string // JSON of inline limits, for Refund
}

// BatchResult is one element of a batch's answer. Its Decision means nothing
// with an error.
type BatchResult struct {
	Decision
	Err error
}

// RefundResult is the state after a refund.
type RefundResult struct {
	State
	Refunded  int64 // tokens given back to the limit that binds: 5, or fewer since a bucket never exceeds its burst
	Duplicate bool  // the request id was seen before, and this is its first answer
}

// decoder turns the results of one reply into answers. The reply's memory may
// be reused afterwards: what answers keep is copied.
type decoder struct {
	sets  []api.SetInfo
	names [][]string // of the limits of a set, once they are needed

	memory *memory
	learns bool // it may want to know of these results
}

func newDecoder(m *memory, sets []api.SetInfo) decoder {
	m.learnPolicies(sets)
	d := decoder{sets: sets, memory: m, learns: m.table.Len() > 0}
	for i := range sets {
		d.learns = d.learns || !plain(&sets[i])
	}
	return d
}

// state fills in s, all but what was asked.
func (d *decoder) state(r *api.Result, peek bool, s *State) {
	set, v := &d.sets[r.Set], r.Limits[r.Binding]
	s.Limit = set.Limits[r.Binding].Burst
	s.Remaining = v.Remaining
	s.RetryAfter = micros(v.RetryAfter)
	s.ResetAfter = micros(v.ResetAfter)
	s.Mode, s.Source = set.ModeName(), api.SourceStore
	s.PolicyRevision = set.Revision
	if len(r.Limits) == 1 && !peek {
		return
	}
	names := d.limitNames(r.Set)
	s.Limits = make([]LimitState, len(r.Limits))
	for i, v := range r.Limits {
		s.Limits[i] = LimitState{
			Name: names[i], Limit: set.Limits[i].Burst, Remaining: v.Remaining,
			RetryAfter: micros(v.RetryAfter), ResetAfter: micros(v.ResetAfter),
		}
	}
}

// limitNames copies the names of a set's limits, once a reply.
func (d *decoder) limitNames(set int) []string {
	if d.names == nil {
		d.names = make([][]string, len(d.sets))
	}
	if d.names[set] == nil {
		for _, l := range d.sets[set].Limits {
			d.names[set] = append(d.names[set], string([]byte(l.Name)))
		}
	}
	return d.names[set]
}

func micros(us uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Microsecond)
	return time.Duration(min(us, most)) * time.Microsecond
}
