package clustertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// plain is how a caller without the Go client talks to nodes. Its timeout is
// above the deadline that a node gives each request.
var plain = &http.Client{
	Timeout: 15 * time.Second,
	Transport: &http.Transport{
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     10 * time.Second,
	},
}

// call sends in as JSON, if it is not nil, and decodes the answer into out, if
// it is not nil. A problem document comes back as an *api.Problem; any other
// error says that no answer came.
func (n *node) call(method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, "http://"+n.http+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", api.MediaJSON)
	}
	return do(req, out)
}

// do sends a request and reads the answer; see call.
func do(req *http.Request, out any) error {
	resp, err := plain.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var p api.Problem
		if err := json.Unmarshal(answer.Bytes(), &p); err != nil || p.Code == "" {
			return fmt.Errorf("%s %s: status %d: %.300s", req.Method, req.URL, resp.StatusCode, answer.Bytes())
		}
		return &p
	}
	if out == nil {
		return nil
	}
	dec := json.NewDecoder(&answer)
	dec.DisallowUnknownFields()
	return dec.Decode(out)
}

// take asks n for one decision.
func (n *node) take(r api.TakeRequest) (d api.Decision, err error) {
	return d, n.call("POST", "/v1/take", r, &d)
}

// peek asks n for a bucket's state, with a query such as "?consistency=stale".
func (n *node) peek(policy, key, query string) (s api.PeekResponse, err error) {
	return s, n.call("POST", "/v1/peek"+query, api.KeyRequest{Policy: policy, Key: key}, &s)
}

// insist repeats f for as long as it fails with a problem that a repetition may
// cure. Nobody breaks the cluster, but on a busy machine a leader may lose its
// office at any time; f must be safe to repeat.
func insist(f func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := f()
		var p *api.Problem
		if !errors.As(err, &p) || !p.Retryable || time.Now().After(deadline) {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}

// takeOnce is take, repeated under a request id until it is decided.
func (n *node) takeOnce(r api.TakeRequest) (d api.Decision, err error) {
	if r.RequestID == "" {
		r.RequestID = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	}
	err = insist(func() error { d, err = n.take(r); return err })
	return d, err
}

// mustTake is takeOnce for a cluster that is well.
func (n *node) mustTake(t testing.TB, r api.TakeRequest) api.Decision {
	t.Helper()
	d, err := n.takeOnce(r)
	if err != nil {
		t.Fatalf("take from %s: %v", n.id, err)
	}
	return d
}

// mustPeek is a linearizable peek of a cluster that is well.
func (n *node) mustPeek(t testing.TB, policy, key string) (s api.PeekResponse) {
	t.Helper()
	err := insist(func() (err error) { s, err = n.peek(policy, key, ""); return err })
	if err != nil {
		t.Fatalf("peek through %s: %v", n.id, err)
	}
	return s
}

// put stores a policy with one token bucket through n.
func (n *node) put(t testing.TB, name string, rate int64, per time.Duration, burst int64) api.Policy {
	t.Helper()
	var stored api.Policy
	p := api.Policy{Name: name, Limits: []api.Limit{{Name: "only", Rate: rate, Per: api.Duration(per), Burst: burst}}}
	if err := insist(func() error { return n.call("PUT", "/v1/policies/"+name, p, &stored) }); err != nil {
		t.Fatalf("put policy %s: %v", name, err)
	}
	return stored
}

// unique makes a name of a policy or a request id that no earlier test on the
// same cluster has used, not even an earlier run of the same test.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, used.Add(1)) }

var used atomic.Int64

// year is the period of policies that do not refill while a test runs: at one
// token a year, a minute brings two millionths of a token.
const year = 8760 * time.Hour

func itoa(i int) string { return strconv.Itoa(i) }
