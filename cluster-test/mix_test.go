package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// TestEveryAnswerFollowsFromTheLog has callers take, refund, peek and reset at
// random while nodes are killed, frozen and restarted, and replays all answers
// in the order of the logs through the oracle.
//
// Some callers use the Go client, which may not fail. Others speak HTTP, give up
// after milliseconds, and ask again under the same request id: whether the
// first request was applied or not, they get one answer, and it stands once in
// the history.
func TestEveryAnswerFollowsFromTheLog(t *testing.T) {
	rng := seeded(t)
	c := shared(t)
	tight := c.nodes[0].put(t, unique("mix-tight"), 7, 100*time.Millisecond, 5)
	wide := c.nodes[0].put(t, unique("mix-wide"), 200, time.Second, 50)
	h, cl := newHistory(tight, wide), c.client(t)

	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	const callers = 10
	errs := make([]error, callers)
	failed := make(chan error, callers)
	for i := range callers {
		r := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		m := &mixer{c: c, h: h, cl: cl, rng: r, own: fmt.Sprintf("own-%d", i), policies: []api.Policy{tight, wide}}
		step := m.clientStep
		if i >= callers/2 {
			step = m.httpStep
		}
		wg.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for errs[i] == nil {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					if errs[i] = step(); errs[i] != nil {
						failed <- errs[i]
					}
				}
			}
		})
	}

	for fault := range 5 {
		n := c.nodes[rng.IntN(3)]
		if fault == 0 {
			n = c.leaderOf(t, "shared-0")
		}
		flows(t, h, 300, failed)
		switch kind := rng.IntN(3); kind {
		case 0:
			t.Logf("%v: kill -9 %s", h.now().Round(time.Millisecond), n.id)
			n.kill(t)
			flows(t, h, 100, failed)
			n.start(t)
		case 1:
			t.Logf("%v: SIGSTOP %s", h.now().Round(time.Millisecond), n.id)
			n.freeze(t)
			outage(1500 * time.Millisecond)
			n.thaw(t)
		case 2:
			t.Logf("%v: SIGTERM %s", h.now().Round(time.Millisecond), n.id)
			n.terminate(t)
			n.start(t)
		}
		n.waitReady(t)
		t.Logf("%v: %s is ready", h.now().Round(time.Millisecond), n.id)
	}
	flows(t, h, 300, failed)
	stop()
	wg.Wait()
	report(t, errs)
	h.mustHold(t)
	t.Logf("%d operations replayed", len(h.events))
}

// flows waits until n more answers have come, or a caller has failed.
func flows(t testing.TB, h *history, n int, failed <-chan error) {
	t.Helper()
	size := func() int { h.mu.Lock(); defer h.mu.Unlock(); return len(h.events) }
	from := size()
	eventually(t, "the callers get answers", func() error {
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
		if size() < from+n {
			return errNotYet
		}
		return nil
	})
}

// mixer is one caller of the mix.
type mixer struct {
	c        *cluster
	h        *history
	cl       *client.Client
	rng      *rand.Rand
	policies []api.Policy

	// own is a key that nobody else uses, and last where the last answer about
	// it stands, by policy: the answer to a reset does not tell its place, but
	// then it is known to follow this one.
	own  string
	last map[string]api.Commit
}

// pick draws what to ask for.
func (m *mixer) pick() (p api.Policy, key string, cost int64) {
	p = m.policies[m.rng.IntN(len(m.policies))]
	key = m.own
	if m.rng.IntN(4) > 0 {
		key = fmt.Sprintf("shared-%d", m.rng.IntN(4))
	}
	return p, key, 1 + m.rng.Int64N(min(8, p.Limits[0].Burst))
}

// clientStep does one operation through the Go client.
func (m *mixer) clientStep() error {
	p, key, n := m.pick()
	ctx := context.Background()
	e := &event{policy: p.Name, key: key, called: m.h.now()}
	switch kind := m.rng.IntN(10); {
	case kind < 6:
		d, err := m.cl.Take(ctx, p.Name, key, n)
		if err != nil {
			return err
		}
		e.kind, e.cost, e.allowed, e.remaining, e.commit = api.Take, n, d.Allowed, d.Remaining, d.Commit
	case kind < 8:
		r, err := m.cl.RefundN(ctx, p.Name, key, n)
		if err != nil {
			return err
		}
		e.kind, e.cost, e.refunded, e.remaining, e.commit = api.Refund, n, r.Refunded, r.Remaining, r.Commit
	case kind == 8 || key != m.own || m.last[p.Name].Index == 0:
		s, err := m.cl.Peek(ctx, p.Name, key)
		if err != nil {
			return err
		}
		e.kind, e.remaining, e.commit = api.Peek, s.Remaining, s.Commit
	default:
		if err := m.cl.Reset(ctx, p.Name, key); err != nil {
			return err
		}
		e.kind, e.commit = api.Reset, m.last[p.Name]
	}
	m.note(e)
	return nil
}

// httpStep does one operation over HTTP, and repeats it until it is answered.
func (m *mixer) httpStep() error {
	p, key, cost := m.pick()
	id := unique("mix")
	e := &event{policy: p.Name, key: key, cost: cost, called: m.h.now()}
	if m.rng.IntN(4) == 0 {
		var r api.RefundResponse
		err := m.insist("/v1/refund", api.RefundRequest{Policy: p.Name, Key: key, Cost: &cost, RequestID: id}, &r)
		if err != nil {
			return err
		}
		e.kind, e.refunded, e.remaining, e.commit = api.Refund, r.Refunded, r.Remaining, r.Commit
	} else {
		var d api.Decision
		err := m.insist("/v1/take", api.TakeRequest{Policy: p.Name, Key: key, Cost: &cost, RequestID: id}, &d)
		if err != nil {
			return err
		}
		e.kind, e.allowed, e.remaining, e.commit = api.Take, d.Allowed, d.Remaining, d.Commit
	}
	m.note(e)
	return nil
}

func (m *mixer) note(e *event) {
	e.returned = m.h.now()
	if e.key == m.own {
		if m.last == nil {
			m.last = map[string]api.Commit{}
		}
		m.last[e.policy] = e.commit
	}
	m.h.add(e)
}

// insist sends a request to one node after the other until it is answered. Its
// patience with a node is at first too short, often in the midst of the commit.
func (m *mixer) insist(path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for wait := time.Duration(m.rng.IntN(4000)) * time.Microsecond; ; wait = 2*wait + time.Millisecond {
		err := post(m.c.nodes[m.rng.IntN(3)], path, body, wait, out)
		var p *api.Problem
		if err == nil || errors.As(err, &p) && !p.Retryable {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer in %v; the last error was: %w", patience, err)
		}
	}
}

// post is node.call with a deadline.
func post(n *node, path string, body []byte, timeout time.Duration, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+n.http+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", api.MediaJSON)
	return do(req, out)
}
