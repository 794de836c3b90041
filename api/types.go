package api

import (
	"time"
	"unicode/utf8"
)

// Bounds of what a request may hold.
const (
	MaxKey       = 512        // bytes of a key, at least 1
	MaxCost      = 1<<31 - 1  // tokens
	MaxRequestID = 64         // bytes of a request id
	MaxWait      = 86_400_000 // milliseconds for which a take may borrow from the future: a day
	MaxNodeID    = 64         // bytes of a node id
	MaxBatch     = 10_000     // requests of one batch
	MaxBody      = 4 << 20    // bytes of an HTTP body
)

// Millis is a time as the API tells it: in milliseconds, rounded up.
func Millis(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 { // not d + 999 µs, which may be more than a Duration holds
		ms++
	}
	return ms
}

// CheckKey says what is wrong with a key, or returns nil.
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > MaxKey {
		return NewProblem(InvalidRequest, "the key has %d bytes; it needs 1 to %d", len(key), MaxKey)
	}
	return checkText("key", key)
}

// CheckRequestID says what is wrong with a request id, or returns nil. The
// empty id is no id, and fine.
func CheckRequestID(id string) error {
	if len(id) > MaxRequestID {
		return NewProblem(InvalidRequest, "the request_id has %d bytes; it needs 1 to %d", len(id), MaxRequestID)
	}
	return checkText("request_id", id)
}

// CheckCost says what is wrong with a cost, or returns nil.
func CheckCost(cost int64) error {
	if cost < 1 || cost > MaxCost {
		return NewProblem(InvalidRequest, "the cost is %d; it needs to be 1 to %d", cost, MaxCost)
	}
	return nil
}

// CheckMaxWait says what is wrong with the longest wait of a take, in
// milliseconds, or returns nil. 0 is a take that does not wait.
func CheckMaxWait(ms int64) error {
	if ms < 0 || ms > MaxWait {
		return NewProblem(InvalidRequest, "max_wait_ms is %d; it needs to be 0 to %d, which is a day", ms, MaxWait)
	}
	return nil
}

// CheckNodeID says what is wrong with a node's id, or returns nil. Ids are kept
// to what can stand in a file name, a path, a metric's label and a log line
// without quoting.
func CheckNodeID(id string) error {
	ok := len(id) >= 1 && len(id) <= MaxNodeID
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if !ok {
		return NewProblem(InvalidRequest, "%.80q is not a node id: 1 to %d of A-Z, a-z, 0-9, dot, underscore and hyphen", id, MaxNodeID)
	}
	return nil
}

// checkText refuses invalid UTF-8 and the control characters of C0, DEL and C1.
func checkText(what, s string) error {
	if printableASCII(s) {
		return nil
	}
	for i, r := range s {
		switch {
		case r < 0x20 || r >= 0x7f && r <= 0x9f:
			return NewProblem(InvalidRequest, "the %s has the control character %#U at byte %d", what, r, i)
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return NewProblem(InvalidRequest, "the %s is not UTF-8 at byte %d", what, i)
			}
		}
	}
	return nil
}

// printableASCII tells whether s has none but the bytes from 0x20 to 0x7e, eight at
// a time: the highest bit of each byte of a sum, or of a difference, shows what is
// beyond one end. A carry or a borrow only comes from a byte that shows itself.
func printableASCII(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		if x := le64(s); (x|(x+ones)|(x-0x20*ones))&high != 0 {
			return false
		}
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// TakeRequest asks for one decision: the body of POST /v1/take, and one
// element of a batch.
type TakeRequest struct {
	Policy    string  `json:"policy,omitempty"`
	Limits    []Limit `json:"limits,omitempty"` // inline, instead of Policy
	Key       string  `json:"key"`
	Cost      *int64  `json:"cost,omitempty"` // nil is 1
	RequestID string  `json:"request_id,omitempty"`
	MaxWaitMS int64   `json:"max_wait_ms,omitempty"`
}

// BatchRequest is the body of POST /v1/take/batch.
type BatchRequest struct {
	Atomic   bool          `json:"atomic,omitempty"`
	Requests []TakeRequest `json:"requests"`
}

// KeyRequest is the body of POST /v1/peek and of POST /v1/reset.
type KeyRequest struct {
	Policy string  `json:"policy,omitempty"`
	Limits []Limit `json:"limits,omitempty"`
	Key    string  `json:"key"`
}

// RefundRequest is the body of POST /v1/refund.
type RefundRequest struct {
	Policy    string  `json:"policy,omitempty"`
	Limits    []Limit `json:"limits,omitempty"`
	Key       string  `json:"key"`
	Cost      *int64  `json:"cost,omitempty"` // nil is 1
	RequestID string  `json:"request_id,omitempty"`
}

// State is what a decision, a peek and a refund tell of a bucket. The four
// numbers of the first block describe the limit that binds: the one with the
// fewest tokens left relative to its burst, or on a denial the one with the
// longest wait.
type State struct {
	Policy       string `json:"policy"`
	Key          string `json:"key"`
	Limit        int64  `json:"limit"`          // burst, such as 200
	Remaining    int64  `json:"remaining"`      // whole tokens left, rounded down, never negative
	RetryAfterMS int64  `json:"retry_after_ms"` // smallest wait, rounded up, after which the same take passes; 0 if it passes now
	ResetAfterMS int64  `json:"reset_after_ms"` // until the bucket is full, rounded up

	Mode           string       `json:"mode"`   // strict, leased or soft: which trade-off holds for the key
	Source         string       `json:"source"` // who answered: see [SetInfo.SourceName]
	PolicyRevision uint64       `json:"policy_revision"`
	Limits         []LimitState `json:"limits,omitempty"` // of every limit, when there are several; always in a peek
	Commit         Commit       `json:"commit"`
}

// LimitState is one limit's part of a [State].
type LimitState struct {
	Name         string `json:"name"`
	Limit        int64  `json:"limit"`
	Remaining    int64  `json:"remaining"`
	RetryAfterMS int64  `json:"retry_after_ms"`
	ResetAfterMS int64  `json:"reset_after_ms"`
}

// Commit is the place in a shard's log that decided. Anyone can replay the log
// up to it and check the answer.
type Commit struct {
	Shard  uint32 `json:"shard"`
	Index  uint64 `json:"index"`   // of the Raft entry
	Offset uint32 `json:"offset"`  // of the operation inside it, from 0
	TimeNS uint64 `json:"time_ns"` // cluster time of the shard, nanoseconds
}

// Decision is the answer to a take.
type Decision struct {
	Allowed bool `json:"allowed"`
	State
	WaitMS    int64 `json:"wait_ms"`
	Shadowed  bool  `json:"shadowed"`
	Duplicate bool  `json:"duplicate"` // the request id was seen before; this is its first decision
}

// BatchResult is one element of a batch's answer: a decision or an error.
type BatchResult struct {
	*Decision
	Error *Problem `json:"error,omitempty"`
}

// BatchResponse answers a [BatchRequest], in its order.
type BatchResponse struct {
	Results []BatchResult `json:"results"`
}

// PeekResponse answers a peek. AgeMS is set for a stale one only: how long ago
// the answering node last heard of the shard's leader.
type PeekResponse struct {
	State
	AgeMS *int64 `json:"age_ms,omitempty"`
}

// RefundResponse is the state after a refund.
type RefundResponse struct {
	State
	Refunded  int64 `json:"refunded"` // tokens given back to the limit that binds; never above its burst
	Duplicate bool  `json:"duplicate"`
}

// ResetResponse answers a reset.
type ResetResponse struct {
	Reset bool `json:"reset"`
}

// ReservationRequest is the body of POST /v1/reservations.
type ReservationRequest struct {
	Policy    string   `json:"policy,omitempty"`
	Limits    []Limit  `json:"limits,omitempty"`
	Key       string   `json:"key"`
	Cost      *int64   `json:"cost,omitempty"`      // the estimate; nil is 1
	TTL       Duration `json:"ttl,omitempty"`       // 1ms to 24h; 30s if it is not given
	OnExpiry  string   `json:"on_expiry,omitempty"` // commit or cancel; "" is commit
	RequestID string   `json:"request_id,omitempty"`
}

// ReservationResponse answers a [ReservationRequest].
type ReservationResponse struct {
	Decision
	ReservationID string `json:"reservation_id,omitempty"` // if it is allowed
}

// SettleRequest is the body of POST /v1/reservations/{id}/commit.
type SettleRequest struct {
	Cost int64 `json:"cost"` // what it came to, from 0
}

// SettleResponse answers a commit and a cancel of a reservation. Committed is
// what it cost in the end: what was reserved, less Refunded, plus Charged.
type SettleResponse struct {
	Committed int64  `json:"committed"`
	Refunded  int64  `json:"refunded"`
	Charged   int64  `json:"charged"`   // beyond what was reserved
	Duplicate bool   `json:"duplicate"` // it was settled so before
	Commit    Commit `json:"commit"`
}

// PermitRequest is the body of POST /v1/permits.
type PermitRequest struct {
	Policy    string   `json:"policy,omitempty"`
	Limits    []Limit  `json:"limits,omitempty"`
	Key       string   `json:"key"`
	Cost      *int64   `json:"cost,omitempty"` // to limits that are not of concurrency; nil is 1
	TTL       Duration `json:"ttl,omitempty"`  // 1ms to 24h; 30s if it is not given
	RequestID string   `json:"request_id,omitempty"`
}

// PermitResponse answers a [PermitRequest].
type PermitResponse struct {
	Decision
	PermitID string `json:"permit_id,omitempty"` // if it is allowed
}

// RenewRequest is the body of POST /v1/permits/{id}/renew.
type RenewRequest struct {
	TTL Duration `json:"ttl,omitempty"` // from now on; 30s if it is not given
}

// RenewResponse answers a [RenewRequest].
type RenewResponse struct {
	Renewed bool   `json:"renewed"`
	TTLMS   int64  `json:"ttl_ms"`
	Commit  Commit `json:"commit"`
}

// ReleaseResponse answers POST /v1/permits/{id}/release.
type ReleaseResponse struct {
	Released  bool   `json:"released"`
	Duplicate bool   `json:"duplicate"` // it was released before, or has expired
	Commit    Commit `json:"commit"`
}

// PolicyList answers GET /v1/policies, sorted by name.
type PolicyList struct {
	Policies []Policy `json:"policies"`
	Revision uint64   `json:"revision"` // of the catalog
}

// Cluster answers GET /v1/cluster: what the answering node knows.
type Cluster struct {
	ClusterID string        `json:"cluster_id"`
	NodeID    string        `json:"node_id"` // the node that answers
	Nodes     []ClusterNode `json:"nodes"`
	Shards    []ShardStatus `json:"shards"` // the catalog, shard 0, first
	SlotMap   SlotMap       `json:"slot_map"`

	Enforcement string `json:"enforcement"` // the switch of the whole cluster
}

// ClusterNode is one member, as the answering node sees it.
type ClusterNode struct {
	ID        string `json:"id"`
	HTTP      string `json:"http"` // base URL
	Raft      string `json:"raft"` // host:port
	Reachable bool   `json:"reachable"`
	Draining  bool   `json:"draining"`
	Version   string `json:"version"`
}

// ShardStatus is one Raft group. Leader is null while there is none.
type ShardStatus struct {
	ID      uint32         `json:"id"`
	Leader  *string        `json:"leader"`
	Term    uint64         `json:"term"`
	Members []MemberStatus `json:"members"`
}

// MemberStatus is one replica of a shard. Lag is how many entries it has yet to
// apply, of those that the most advanced reachable replica knows as committed.
type MemberStatus struct {
	ID           string `json:"id"`
	Voter        bool   `json:"voter"`
	CommitIndex  uint64 `json:"commit_index"`
	AppliedIndex uint64 `json:"applied_index"`
	Lag          uint64 `json:"lag"`
	// Repairing says that this replica's files were damaged, and that it has no vote
	// until its leader has sent it all again.
	Repairing bool `json:"repairing,omitempty"`
}

// MemberRequest is the body of POST /v1/cluster/members: a node as it announces
// itself.
type MemberRequest struct {
	ID   string `json:"id"`
	Raft string `json:"raft"` // host:port
	HTTP string `json:"http"` // base URL
}

// TransferRequest is the body of POST /v1/cluster/shards/{id}/transfer, which may
// also be empty.
type TransferRequest struct {
	To string `json:"to,omitempty"` // node id; "" is the least loaded voter that can
}

// TransferResponse answers a [TransferRequest] once the new leader serves.
type TransferResponse struct {
	Shard  uint32 `json:"shard"`
	Leader string `json:"leader"`
}

// Version answers GET /v1/version.
type Version struct {
	Version   string `json:"version"`
	GoVersion string `json:"go_version"`
	Revision  string `json:"revision,omitempty"` // of the source tree
}
