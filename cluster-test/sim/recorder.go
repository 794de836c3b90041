package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// recorder writes down what the callers see. Its clock is true time.
type recorder struct {
	start time.Time

	mu    sync.Mutex // guards the next three
	h     check.History
	lies  []string // what contradicts itself without a look at any log
	batch int64    // the last number of an atomic batch
}

func (r *recorder) now() int64 { return int64(time.Since(r.start)) }

func (r *recorder) add(ops ...check.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Ops = append(r.h.Ops, ops...)
}

func (r *recorder) edit(e check.Edit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Edits = append(r.h.Edits, e)
}

func (r *recorder) lie(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lies = append(r.lies, fmt.Sprintf(format, args...))
}

func (r *recorder) nextBatch() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batch++
	return r.batch
}

// returned closes an operation with what came of it. doubt says that an earlier
// attempt may have been applied.
func (r *recorder) returned(op *check.Op, a *check.Answer, err error, doubt bool) {
	op.Return = r.now()
	if err == nil {
		op.Outcome, op.Answer = check.Done, a
		return
	}
	op.Outcome = check.Unknown
	var p *api.Problem
	known := errors.As(err, &p)
	if known {
		op.Code = p.Code
	}
	applied := known && p.Outcome == api.Unknown
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
	case applied || doubt:
	case known, errors.Is(err, client.ErrUnavailable), errors.Is(err, errNotSent):
		op.Outcome = check.NotApplied
	}
	if op.Outcome == check.Unknown {
		op.Return = check.Forever // it may yet be applied
	}
}

// errNotSent: the request surely has not left.
var errNotSent = errors.New("not sent")

// fromWire is the answer that came as JSON.
func fromWire(s *api.State) *check.Answer {
	return &check.Answer{
		Limit: s.Limit, Remaining: s.Remaining, RetryAfterMS: s.RetryAfterMS, ResetAfterMS: s.ResetAfterMS,
		Limits: s.Limits, Revision: s.PolicyRevision, Commit: commit(s.Commit), Source: s.Source,
	}
}

func commit(c api.Commit) *api.Commit { return &c }

// sleep waits, and says whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool { return pause(ctx, d) == nil }
