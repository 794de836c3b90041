package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// Whatever a caller sends, the edge answers: with what was asked, or with a
// problem whose status is the one of the table, and never because of a panic.

var jsonSeeds = []string{
	`{"policy":"api","key":"k","cost":1,"request_id":"a","max_wait_ms":0}`,
	`{"atomic":true,"requests":[{"policy":"api","key":"{a}b"},{"policy":"two","key":"{a}c","cost":3}]}`,
	`{"limits":[{"name":"b","rate":1,"per":"1s"}],"key":"\ud83d\ude00"}`,
	`{"policy":null}`, `[[[[`, `{"key":"\ud800`, `{"a":{"b":[1,2.5e3,true,null,"x"]}}`, "", `"`, `{"":1}`,
	"{\"k\\u0065y\": \"k\" , \"limits\" : [ -0 , {\"\\u00e9\":[ ]} ]\r\n}",
}

// FuzzDecodeJSON: what the strict decoder takes, encoding/json takes as the
// same, and so does the strict decoder once more.
func FuzzDecodeJSON(f *testing.F) {
	types := []reflect.Type{
		reflect.TypeFor[takeRequest](), reflect.TypeFor[batchRequest](),
		reflect.TypeFor[keyRequest](), reflect.TypeFor[refundRequest](),
	}
	for i, s := range jsonSeeds {
		f.Add(uint8(i), []byte(s))
	}
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		typ := types[int(n)%len(types)]
		v := reflect.New(typ).Interface()
		if err := decodeJSON(body, v); err != nil {
			if p := api.AsProblem(err); p.Code != api.InvalidRequest || p.Detail == "" {
				t.Fatalf("%q: %v is not an invalid request", body, err)
			}
			return
		}
		plain := reflect.New(typ).Interface()
		if err := json.Unmarshal(body, plain); err != nil || !reflect.DeepEqual(v, plain) {
			t.Fatalf("%q is decoded as %+v, and by encoding/json as %+v, %v", body, v, plain, err)
		}
	})
}

func FuzzJSONBodies(f *testing.F) {
	w := newFuzzWorld(f)
	urls := parseURLs(f, "/v1/take", "/v1/take/batch", "/v1/peek", "/v1/peek?consistency=stale", "/v1/refund", "/v1/reset", "/v1/take?deny_status=429")
	for i, s := range jsonSeeds {
		f.Add(uint8(i), []byte(s))
	}
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		w.answers(t, "POST", urls[int(path)%len(urls)], http.Header{"Content-Type": {api.MediaJSON}}, body)
	})
}

func FuzzBinaryBodies(f *testing.F) {
	w := newFuzzWorld(f)
	urls := parseURLs(f, "/v1/take", "/v1/take/batch", "/v1/peek", "/v1/refund", "/v1/reset")
	b := &api.Batch{Atomic: true, Session: api.Session{ID: [16]byte{1}, Seq: 2, Acked: 1}}
	b.Policies = append(b.Policies, api.PolicyRef{Inline: []byte(`[{"name":"b","rate":1,"per":"1s"}]`)})
	for _, k := range []api.Kind{api.Take, api.Peek, api.Refund, api.Reset} {
		op := api.Op{Kind: k, Policy: b.Ref("two"), Cost: 1, Key: fmt.Sprint("k", k)}
		if k == api.Take || k == api.Refund {
			op.RequestID = fmt.Sprint("id", k)
		}
		b.Add(op)
		one := &api.Batch{Policies: b.Policies, N: 1, Ops: api.AppendOp(nil, op)}
		f.Add(uint8(k), api.AppendBatch(nil, one))
	}
	f.Add(uint8(1), api.AppendBatch(nil, b))
	b.Atomic = false
	f.Add(uint8(1), api.AppendBatch(nil, b))
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		w.answers(t, "POST", urls[int(path)%len(urls)], http.Header{"Content-Type": {api.MediaBatch}}, body)
	})
}

// FuzzConditions: what guards an edit is a revision as it was written, or the
// edit is refused.
func FuzzConditions(f *testing.F) {
	f.Add(`"7"`, "")
	f.Add(`W/"7", "8","9" , "18446744073709551616"`, "")
	f.Add("", " * ")
	f.Add(`"", ,"x"`, `"1", W/"2"`)
	f.Fuzz(func(t *testing.T, match, none string) {
		r := &http.Request{Header: http.Header{}}
		if match != "" {
			r.Header["If-Match"] = strings.Split(match, "\n")
		}
		if none != "" {
			r.Header["If-None-Match"] = strings.Split(none, "\n")
		}
		if unchanged(r, etag(7)) && !strings.Contains(none, `"7"`) && strings.Trim(none, " \t") != "*" {
			t.Fatalf("%q names revision 7", none)
		}
		conds, err := conditions(r)
		if err != nil {
			if c := api.AsProblem(err).Code; c != api.InvalidRequest && c != api.RevisionConflict {
				t.Fatal(err)
			}
			return
		}
		if len(conds) == 0 || len(conds) > maxTags {
			t.Fatalf("%d conditions", len(conds))
		}
		for _, c := range conds {
			guards := 0
			for _, set := range []bool{c.IfMatch != nil, c.AnyMatch, c.NoneMatch} {
				if set {
					guards++
				}
			}
			if guards > 1 || guards == 0 && match+none != "" {
				t.Fatalf("%q and %q are the condition %+v", match, none, c)
			}
			if c.IfMatch != nil && !strings.Contains(match, etag(*c.IfMatch)) {
				t.Fatalf("%q does not name revision %d", match, *c.IfMatch)
			}
		}
	})
}

// FuzzTargets asks for anything at all: routes, policies' names, queries.
func FuzzTargets(f *testing.F) {
	w := newFuzzWorld(f)
	methods := []string{"GET", "HEAD", "POST", "PUT", "DELETE", "BREW"}
	for i, r := range api.Routes {
		f.Add(uint8(i), strings.ReplaceAll(r.Path, api.PolicyName, "api"), `"1"`)
	}
	f.Add(uint8(0), "/v1/policies/ns/a.b", "*")
	f.Add(uint8(3), "/v1/policies/a%2fb%00?x=%zz&deny_status=429", "")
	f.Add(uint8(4), "/v1/policies/api/overrides?key=vip:*&reason=x", "")
	f.Add(uint8(0), "/v1/policies/ns/a/overrides?limit=7&after=b", "")
	f.Add(uint8(2), "/v1/policies/api/revert", "")
	f.Add(uint8(0), "//v1/../policies//", "")
	f.Fuzz(func(t *testing.T, method uint8, target, tag string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http answers
		}
		h := http.Header{"Content-Type": {api.MediaJSON}}
		if tag != "" {
			h["If-None-Match"] = []string{tag}
		}
		w.answers(t, methods[int(method)%len(methods)], u, h, []byte(`{"limits":[{"rate":1,"per":"1s"}]}`))
	})
}

// fuzzWorld is a world that is as new for each request, so that one input alone
// makes a failure.
type fuzzWorld struct {
	*world
	own   [2][]byte // the shards' first entries
	was   []byte    // a snapshot of the catalog
	wasAt uint64    // the index of its last entry
}

func newFuzzWorld(f *testing.F) *fuzzWorld {
	w := &fuzzWorld{world: newWorld(f)}
	for s := range w.own {
		w.own[s] = fsm.EncodeOwn(1, 1, api.EvenSlotMap(2).Ranges)
	}
	var was bytes.Buffer
	if _, err := w.catalog.Capture().WriteTo(&was); err != nil {
		f.Fatal(err)
	}
	w.was = was.Bytes()
	_, w.wasAt = w.catalog.Last()
	return w
}

// renew replaces the machines that the request before has changed.
func (w *fuzzWorld) renew(t *testing.T) {
	w.t = t // where a poison entry, which would halt every replica, is told
	if _, last := w.catalog.Last(); last != w.wasAt {
		if err := w.catalog.Restore(bytes.NewReader(w.was)); err != nil {
			t.Fatal(err)
		}
		w.entries = w.wasAt
	}
	for s := range uint32(2) {
		if w.shards[s+1].Stats().Index == 1 {
			continue
		}
		w.shards[s+1], w.index[s+1] = fsm.NewBuckets(s+1), 1
		if _, err := w.shards[s+1].Apply(1, w.own[s]); err != nil {
			t.Fatal(err)
		}
	}
}

// answers checks what every answer to a request is.
func (w *fuzzWorld) answers(t *testing.T, method string, u *url.URL, h http.Header, body []byte) {
	w.renew(t)
	rec := &answerRecorder{header: http.Header{}}
	w.edge.ServeHTTP(rec, (&http.Request{
		Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "x", RequestURI: u.RequestURI(),
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(t.Context()))
	answer := rec.body.Bytes()
	if rec.header.Get(api.HeaderRequestID) == "" {
		t.Errorf("%s %s: no request id", method, u)
	}
	switch media := rec.header.Get("Content-Type"); {
	case media == api.MediaProblem:
		var p api.Problem
		if err := json.Unmarshal(answer, &p); err != nil {
			t.Fatalf("%s %s %q: %d %q: %v", method, u, body, rec.status, answer, err)
		}
		i := p.Code.Info()
		if p.Code == api.QuotaExceeded { // a denial, with the status that was asked for
			break
		}
		if i.Status != rec.status || i.Status != p.Status || i.Outcome != p.Outcome || p.Detail == "" || p.Type != api.ProblemType+string(p.Code) {
			t.Errorf("%s %s %q: %d %s", method, u, body, rec.status, answer)
		}
		if rec.status >= 500 {
			t.Errorf("%s %s %q: %d %s", method, u, body, rec.status, answer)
		}
	case rec.status >= 300 && rec.status != http.StatusNotModified:
		t.Errorf("%s %s %q: %d without a problem: %q", method, u, body, rec.status, answer)
	case media == api.MediaBatch:
		wellFormed(t, answer)
	case media == api.MediaJSON && !json.Valid(answer):
		t.Errorf("%s %s %q: %q is not JSON", method, u, body, answer)
	}
}

func wellFormed(t *testing.T, reply []byte) {
	r, err := api.DecodeReply(reply)
	if err != nil {
		t.Fatal(err)
	}
	var res api.Result
	for more := true; more; {
		if more, err = r.Next(&res); err != nil {
			t.Fatal(err)
		}
	}
}

// answerRecorder is a [http.ResponseWriter] without the cost of httptest's.
type answerRecorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *answerRecorder) Header() http.Header { return r.header }

func (r *answerRecorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *answerRecorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

func parseURLs(t testing.TB, targets ...string) (urls []*url.URL) {
	for _, s := range targets {
		u, err := url.ParseRequestURI(s)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
	}
	return urls
}
