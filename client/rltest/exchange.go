package rltest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"

	"github.com/rlstore/rlstore/api"
)

// exchange carries one request to the handler and its answer back, in this goroutine.
func (s *Store) exchange(r *http.Request, refuse bool) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.GotConn != nil {
		t.GotConn(httptrace.GotConnInfo{})
	}
	w := &answer{header: http.Header{}}
	if refuse {
		p := api.NewProblem(api.NoLeader, "the store of rltest is in an outage")
		body, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		w.header.Set("Content-Type", api.MediaProblem)
		w.WriteHeader(p.Status)
		w.body.Write(body)
	} else {
		in := r.Clone(r.Context()) // a transport must not change its request
		if in.Body == nil {
			in.Body = http.NoBody
		}
		s.ServeHTTP(w, in)
	}
	header := http.Header{} // as net/http reads them off the wire
	for name, values := range w.header {
		for _, v := range values {
			header.Add(name, v)
		}
	}
	return &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// answer is a response writer into memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (w *answer) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements [http.ResponseWriter].
func (w *answer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
