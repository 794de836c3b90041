package check

import (
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// ofOne is histories of takes of 1 from a bucket of 2 that fills by 1 a second.
// Times are milliseconds; a take with no answer has none.
type ofOne struct {
	call, ret int64
	kind      string
	answer    *Answer
}

func atMS(ms uint64) *api.Commit { return &api.Commit{Shard: 1, Index: ms, TimeNS: ms * 1e6} }

func yes(ms uint64, remaining, resetMS int64) *Answer {
	return &Answer{Allowed: true, Limit: 2, Remaining: remaining, ResetAfterMS: resetMS, Revision: 1, Commit: atMS(ms)}
}

func no(ms uint64, retryMS, resetMS int64) *Answer {
	return &Answer{Limit: 2, RetryAfterMS: retryMS, ResetAfterMS: resetMS, Revision: 1, Commit: atMS(ms)}
}

// TestLinearizationsByHand: small histories of one key, without any log.
func TestLinearizationsByHand(t *testing.T) {
	full := []api.LimitState{{Name: "l", Limit: 2, Remaining: 2}}
	for _, c := range []struct {
		name string
		ops  []ofOne
		ok   bool
	}{
		{"two pass and the third waits", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, take, yes(3, 0, 1998)}, {5, 6, take, no(5, 996, 1996)}}, true},
		{"three pass at once", []ofOne{{1, 9, take, yes(1, 1, 1000)}, {2, 9, take, yes(2, 0, 1999)}, {3, 9, take, yes(3, 0, 2000)}}, false},
		{"a retry-after that is 1 ms too short", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, take, yes(3, 0, 1998)}, {5, 6, take, no(5, 995, 1996)}}, false},
		{"a charge that nobody heard of explains a denial", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {1, Forever, take, nil}, {5, 6, take, no(5, 996, 1996)}}, true},
		{"one charge that nobody heard of does not explain two", []ofOne{{1, Forever, take, nil}, {5, 6, take, no(5, 996, 1996)}}, false},
		{"a charge that nobody heard of and that never was", []ofOne{{1, Forever, take, nil}, {5, 6, take, yes(5, 1, 1000)}, {7, 8, take, yes(7, 0, 1998)}}, true},
		{"a charge cannot be before it was asked", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, take, no(3, 998, 1998)}, {5, Forever, take, nil}}, false},
		{"a take that waits, and that nobody heard of, may have left a debt", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, take, yes(3, 0, 1998)}, {4, Forever, take, nil}, {5, 6, take, no(5, 1996, 2996)}}, true},
		{"a debt that nobody can have left", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, take, yes(3, 0, 1998)}, {5, 6, take, no(5, 1996, 2996)}}, false},
		{"a stale read", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, peek, &Answer{Limit: 2, Remaining: 2, Limits: full, Revision: 1, Commit: atMS(3)}}}, false},
		{"a read that runs beside the charge may be before it", []ofOne{{1, 4, take, yes(1, 1, 1000)}, {0, 3, peek, &Answer{Limit: 2, Remaining: 2, Limits: full, Revision: 1, Commit: atMS(1)}}}, true},
		{"cluster time that goes back", []ofOne{{1, 2, take, yes(5, 1, 1000)}, {3, 4, take, yes(4, 0, 1999)}}, false},
		{"a reset forgets", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, reset, &Answer{}}, {5, 6, take, yes(5, 1, 1000)}}, true},
		{"a reset that nobody heard of may forget", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, Forever, reset, nil}, {5, 6, take, yes(5, 1, 1000)}}, true},
		{"nothing forgets by itself", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {5, 6, take, yes(5, 1, 1000)}}, false},
		{"a refund gives back", []ofOne{{1, 2, take, yes(1, 1, 1000)}, {3, 4, refund, &Answer{Limit: 2, Remaining: 2, Refunded: 1, Revision: 1, Commit: atMS(3)}}}, true},
		{"a refund above the burst", []ofOne{{3, 4, refund, &Answer{Limit: 2, Remaining: 3, Refunded: 1, Revision: 1, Commit: atMS(3)}}}, false},
		{"a refund that gives back more than fits", []ofOne{{3, 4, refund, &Answer{Limit: 2, Remaining: 2, Refunded: 1, Revision: 1, Commit: atMS(3)}}}, false},
	} {
		doc := &api.Policy{Name: "p", Revision: 1, Limits: []api.Limit{{Name: "l", Rate: 1, Per: api.Duration(time.Second), Burst: 2}}}
		h := &History{Edits: []Edit{{Name: "p", Policy: doc, Outcome: Done}}}
		for i, o := range c.ops {
			op := Op{Client: i, Call: o.call * 1e6, Return: o.ret, Kind: o.kind, Policy: "p", Key: "k", Cost: 1, Outcome: Done, Answer: o.answer}
			if o.kind == peek || o.kind == reset {
				op.Cost = 0
			}
			if o.answer == nil {
				op.Outcome = Unknown
			} else {
				op.Return *= 1e6
			}
			h.Ops = append(h.Ops, op)
		}
		r := Check(Input{History: h, Slack: time.Second})
		if got := r.ByKind[NotLinearizable] == 0; got != c.ok {
			t.Errorf("%s: linearizable is %v: %v", c.name, got, r.Err())
		}
		if r.Keys != 1 {
			t.Errorf("%s: %d keys were searched", c.name, r.Keys)
		}
	}
}
