package check

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/rlstore/rlstore/api"
)

// Outcome is what a caller knows of its request.
type Outcome string

// The three outcomes.
const (
	Done       Outcome = "done"        // Answer is set
	NotApplied Outcome = "not_applied" // surely nothing was applied
	Unknown    Outcome = "unknown"     // it may have been applied, once, at any time after Call
)

// Op is one request and what its caller saw. A request that was sent again
// under the same request id, by its caller or by the Go client, is one Op: from
// the first sending to the answer.
type Op struct {
	Client int   `json:"client"` // who asked; one client asks one thing at a time
	Call   int64 `json:"call"`   // ns on the recorder's clock, which is one for the whole history and does not jump
	Return int64 `json:"return"` // ns; Forever if no answer came

	// Kind is take, peek, refund or reset; reserve; acquire; lease or sync; or of what
	// acts on a hold, commit or cancel (of a reservation or a lease), renew or release
	// (of a permit).
	Kind string `json:"kind"`
	// Policy and Key of what acts on a hold are the hold's; empty if its caller does
	// not know them.
	Policy    string `json:"policy"`
	Key       string `json:"key"`
	Cost      int64  `json:"cost,omitempty"` // but of a peek, a reset, a cancel, a renew and a release; of a lease what is wanted
	RequestID string `json:"request_id,omitempty"`
	MaxWaitMS int64  `json:"max_wait_ms,omitempty"` // of a take
	// Hold is the 16 bytes of the id of the hold that the operation makes or acts on. Of
	// a reserve and an acquire whose sender did not choose it, it is nil, and the
	// answer tells it.
	Hold           []byte `json:"hold,omitempty"`
	Need           int64  `json:"need,omitempty"`             // of a lease: the least that is of use
	TTLMS          int64  `json:"ttl_ms,omitempty"`           // of a reserve, an acquire and a renew, as sent; 0 is the store's 30 s
	CancelOnExpiry bool   `json:"cancel_on_expiry,omitempty"` // of a reserve
	// Atomic groups the takes of one atomic batch: the same number above 0, in
	// the order of the batch. Client, Call, Return and Outcome are the same.
	Atomic int64 `json:"atomic,omitempty"`
	// Stale marks a peek that did not go through the log.
	Stale bool `json:"stale,omitempty"`

	Outcome Outcome  `json:"outcome"`
	Code    api.Code `json:"code,omitempty"` // of the problem, if the outcome is not Done
	Answer  *Answer  `json:"answer,omitempty"`
}

// Forever is the Return of a request that has no answer.
const Forever = math.MaxInt64

// Answer is what the store said. The fields are those of the HTTP API.
type Answer struct {
	Allowed      bool             `json:"allowed,omitempty"` // of a take and of what makes a hold
	Limit        int64            `json:"limit"`
	Remaining    int64            `json:"remaining"`
	RetryAfterMS int64            `json:"retry_after_ms"`
	ResetAfterMS int64            `json:"reset_after_ms"`
	Limits       []api.LimitState `json:"limits,omitempty"`
	WaitMS       int64            `json:"wait_ms,omitempty"`
	Shadowed     bool             `json:"shadowed,omitempty"`
	Refunded     int64            `json:"refunded,omitempty"` // of a refund
	Granted      int64            `json:"granted,omitempty"`  // of a lease
	Hold         []byte           `json:"hold,omitempty"`     // of a reserve and an acquire that are allowed: the id
	Duplicate    bool             `json:"duplicate,omitempty"`
	Revision     uint64           `json:"policy_revision"`
	// Source is who decided a take: "" or store is the log. Of a take from memory,
	// Commit is the place of its lease; those of soft, open and local are not read.
	Source string `json:"source,omitempty"`
	// Of a commit and a cancel: what the reservation or the lease cost in the end, what
	// was given back, and what it cost more than it had.
	Committed int64 `json:"committed,omitempty"`
	Given     int64 `json:"given,omitempty"`
	Charged   int64 `json:"charged,omitempty"`
	// Commit is nil for a reset, whose answer does not tell, and where the Go client
	// does not: of a renew and a release.
	Commit *api.Commit `json:"commit,omitempty"`
}

// Edit is one change of a policy that a history's recorder made.
type Edit struct {
	Call     int64       `json:"call"`
	Return   int64       `json:"return"`
	Name     string      `json:"name"`
	Policy   *api.Policy `json:"policy,omitempty"` // as stored, with its revision; nil is a deletion, or no answer
	Outcome  Outcome     `json:"outcome"`
	Deletion bool        `json:"deletion,omitempty"`
}

// History is everything that one run's callers saw.
type History struct {
	Ops   []Op
	Edits []Edit
}

// record is one line of a history file: exactly one field is set.
type record struct {
	Op   *Op   `json:"op,omitempty"`
	Edit *Edit `json:"edit,omitempty"`
}

// WriteTo writes the history as JSON, a line for each operation and edit.
func (h *History) WriteTo(w io.Writer) (n int64, err error) {
	out := bufio.NewWriter(w)
	line := func(r record) error {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		m, err := out.Write(append(b, '\n'))
		n += int64(m)
		return err
	}
	for i := range h.Ops {
		if err := line(record{Op: &h.Ops[i]}); err != nil {
			return n, err
		}
	}
	for i := range h.Edits {
		if err := line(record{Edit: &h.Edits[i]}); err != nil {
			return n, err
		}
	}
	return n, out.Flush()
}

// ReadHistory reads what [History.WriteTo] wrote.
func ReadHistory(r io.Reader) (*History, error) {
	h := &History{}
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	for {
		var rec record
		switch err := dec.Decode(&rec); {
		case err == io.EOF:
			return h, nil
		case err != nil:
			return nil, fmt.Errorf("read a history: record %d: %w", len(h.Ops)+len(h.Edits), err)
		case rec.Op != nil && rec.Edit == nil:
			h.Ops = append(h.Ops, *rec.Op)
		case rec.Edit != nil && rec.Op == nil:
			h.Edits = append(h.Edits, *rec.Edit)
		default:
			return nil, fmt.Errorf("read a history: record %d is neither an operation nor an edit", len(h.Ops)+len(h.Edits))
		}
	}
}
