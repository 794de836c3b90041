package clustertest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// event is one operation and its answer, as its caller saw them. An operation
// that was sent again under the same id is one event, from the first sending to
// the answer.
type event struct {
	kind     api.Kind
	policy   string
	key      string
	cost     int64
	called   time.Duration // since the history began
	returned time.Duration

	allowed   bool       // of a take
	refunded  int64      // of a refund
	remaining int64      // not of a reset
	commit    api.Commit // of a reset, whose answer does not tell: that of the last operation on its bucket
}

func (e *event) String() string {
	return fmt.Sprintf("%v %s %s cost %d at %+v: allowed %v, refunded %d, remaining %d",
		e.kind, e.policy, e.key, e.cost, e.commit, e.allowed, e.refunded, e.remaining)
}

// history is what the callers of one test saw. It is safe for concurrent use.
type history struct {
	start time.Time
	// slack is by how much cluster time may run ahead of this process's clock:
	// 0 but for nodes whose clocks the test moves.
	slack time.Duration

	mu       sync.Mutex // guards the next two
	events   []*event
	policies map[string]api.Policy
}

func newHistory(policies ...api.Policy) *history {
	h := &history{start: time.Now(), policies: map[string]api.Policy{}}
	for _, p := range policies {
		h.policies[p.Name] = p
	}
	return h
}

func (h *history) now() time.Duration { return time.Since(h.start) }

func (h *history) add(e *event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// take records what the store decided on a take of cost that was first sent at
// called.
func (h *history) take(called time.Duration, cost int64, d *api.Decision) {
	h.add(&event{
		kind: api.Take, policy: d.Policy, key: d.Key, cost: cost, called: called, returned: h.now(),
		allowed: d.Allowed, remaining: d.Remaining, commit: d.Commit,
	})
}

// taken is take for a decision from the Go client.
func (h *history) taken(called time.Duration, d *client.Decision) {
	h.add(&event{
		kind: api.Take, policy: d.Policy, key: d.Key, cost: d.Cost, called: called, returned: h.now(),
		allowed: d.Allowed, remaining: d.Remaining, commit: d.Commit,
	})
}

// allowed is the number of tokens that takes of key were granted.
func (h *history) allowed(policy, key string) (tokens int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.kind == api.Take && e.allowed && e.policy == policy && e.key == key {
			tokens += e.cost
		}
	}
	return tokens
}

// check replays the history in the order of the logs and says what is wrong
// with it:
//
//   - each answer is the one that the oracle gives at that place;
//   - no place in a log has two different operations;
//   - an operation that returned before another one was called stands before
//     it in the log;
//   - cluster time does not go back along a log, and between two entries no
//     more of it passes than real time did.
//
// Every operation that changed something must be in the history.
func (h *history) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	shards := map[uint32][]*event{}
	for _, e := range h.events {
		shards[e.commit.Shard] = append(shards[e.commit.Shard], e)
	}
	var wrong []string
	for _, events := range shards {
		wrong = append(wrong, h.checkShard(events)...)
	}
	if len(wrong) == 0 {
		return nil
	}
	const most = 20
	n := len(wrong)
	if n > most {
		wrong = append(wrong[:most], "…")
	}
	return fmt.Errorf("%d contradictions in a history of %d operations:\n%s", n, len(h.events), strings.Join(wrong, "\n"))
}

// checkShard is check for the events of one shard.
func (h *history) checkShard(events []*event) (wrong []string) {
	slices.SortFunc(events, func(a, b *event) int {
		return cmp.Or(cmp.Compare(a.commit.Index, b.commit.Index), cmp.Compare(a.commit.Offset, b.commit.Offset),
			cmp.Compare(a.called, b.called)) // a reset follows what it borrowed its place from
	})
	complain := func(e *event, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("%v: ", e)+fmt.Sprintf(format, args...))
	}
	buckets := map[[2]string]*oracle{}
	var last, lastCalled *event
	var ahead *event // the one with the least commit time for when it was called
	lead := func(e *event) time.Duration { return time.Duration(e.commit.TimeNS) - e.called }
	for _, e := range events {
		if e.kind == api.Reset {
			if o := buckets[[2]string{e.policy, e.key}]; o != nil {
				o.reset()
			}
			continue
		}
		if last != nil {
			if e.commit.Index == last.commit.Index && e.commit.Offset == last.commit.Offset {
				complain(e, "the same place holds %v", last)
				continue
			}
			if e.commit.TimeNS < last.commit.TimeNS {
				complain(e, "cluster time goes back after %v", last)
			}
			if e.returned < lastCalled.called {
				complain(e, "it returned at %v, before the following was called at %v, and stands behind it in the log: %v", e.returned, lastCalled.called, lastCalled)
			}
			if over := time.Duration(e.commit.TimeNS) - e.returned - lead(ahead); over > h.slack {
				complain(e, "cluster time ran %v ahead of real time since %v", over, ahead)
			}
		}
		last = e
		if lastCalled == nil || e.called > lastCalled.called {
			lastCalled = e
		}
		if ahead == nil || lead(e) < lead(ahead) {
			ahead = e
		}
		o := buckets[[2]string{e.policy, e.key}]
		if o == nil {
			l := h.policies[e.policy].Limits[0]
			o = newOracle(l.Rate, time.Duration(l.Per), l.Burst)
			buckets[[2]string{e.policy, e.key}] = o
		}
		h.replay(o, e, complain)
	}
	return wrong
}

// replay compares one answer with the oracle's.
func (h *history) replay(o *oracle, e *event, complain func(*event, string, ...any)) {
	o.to(e.commit.TimeNS)
	switch e.kind {
	case api.Take:
		if allowed := o.take(e.cost); allowed != e.allowed {
			complain(e, "the oracle says allowed %v with %d left", allowed, o.remaining())
		}
	case api.Refund:
		if refunded := o.refund(e.cost); refunded != e.refunded {
			complain(e, "the oracle gives %d back", refunded)
		}
	}
	if o.remaining() != e.remaining {
		complain(e, "the oracle has %d left", o.remaining())
	}
}

// mustHold fails the test if check finds anything.
func (h *history) mustHold(t testing.TB) {
	t.Helper()
	if err := h.check(); err != nil {
		t.Error(err)
	}
}

// TestTheHistoryCheckSeesLies shows that check is not blind: each lie about a
// true history is found.
func TestTheHistoryCheckSeesLies(t *testing.T) {
	policy := api.Policy{Name: "p", Limits: []api.Limit{{Rate: 1, Per: api.Duration(time.Second), Burst: 3}}}
	// Takes of 2, one a second: 3-2=1, +1-2=0, denied at 1, +1-2=0.
	truth := func() *history {
		h := newHistory(policy)
		for i, remaining := range []int64{1, 0, 1, 0} {
			at := time.Duration(i+1) * time.Second
			h.events = append(h.events, &event{
				kind: api.Take, policy: "p", key: "k", cost: 2,
				called: at, returned: at + 10*time.Millisecond,
				allowed: i != 2, remaining: remaining,
				commit: api.Commit{Shard: 1, Index: uint64(10 * i), TimeNS: uint64(at)},
			})
		}
		return h
	}
	if err := truth().check(); err != nil {
		t.Fatalf("the truth is refused: %v", err)
	}
	for name, lie := range map[string]func(h *history){
		"a denial passed":                func(h *history) { h.events[2].allowed = true },
		"a take was denied":              func(h *history) { h.events[3].allowed = false },
		"remaining is wrong":             func(h *history) { h.events[1].remaining++ },
		"a charge is missing":            func(h *history) { h.events = h.events[1:] },
		"a charge happened twice":        func(h *history) { h.events[2].allowed, h.events[2].remaining = true, 0 },
		"a place is used twice":          func(h *history) { h.events[2].commit = h.events[1].commit },
		"the order is against real time": func(h *history) { h.events[2].returned = h.events[0].called - 1 },
		"cluster time goes back":         func(h *history) { h.events[3].commit.TimeNS = h.events[2].commit.TimeNS - 1 },
		"cluster time runs ahead":        func(h *history) { h.events[3].commit.TimeNS += uint64(20 * time.Millisecond) },
		"a refund gave more than it can": func(h *history) {
			e := *h.events[3]
			e.kind, e.refunded, e.remaining, e.commit.Offset = api.Refund, 3, 3, 1
			e.cost = 2
			h.events = append(h.events, &e)
		},
	} {
		h := truth()
		lie(h)
		if h.check() == nil {
			t.Errorf("%s, and it is not found", name)
		}
	}
}
