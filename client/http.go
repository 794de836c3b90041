package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
)

// maxAnswer bounds what is read of an answer: some 400 bytes a result.
const maxAnswer = api.MaxBody

// response is what came of an attempt: exactly one of reply, problem and err.
type response struct {
	reply   *api.Reply // aliases buf
	problem *api.Problem
	err     error
	buf     *bytes.Buffer
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// free gives the reply's memory back.
func (r *response) free() {
	if r.buf != nil && r.buf.Cap() <= 1<<20 {
		buffers.Put(r.buf)
	}
	r.buf, r.reply = nil, nil
}

// send makes one attempt.
func (c *Client) send(ctx context.Context, to target, a *attempt) *response {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	h := c.header(4)
	h["Content-Type"] = mediaBatch
	h["Accept"] = mediaBatch
	if !to.forward {
		h[api.HeaderForward] = never
	}
	reader := a.reader
	if c.ownHTTP {
		ctx, reader = a.watched(ctx, cancel), a.plain
	}
	req := (&http.Request{
		Method: http.MethodPost, URL: to.node.batch, Host: to.node.batch.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: reader(), ContentLength: int64(len(a.body)),
		GetBody: func() (io.ReadCloser, error) { return reader(), nil },
	}).WithContext(ctx)
	resp, err := c.http.Do(req)
	switch {
	case err != nil && a.stopped:
		return &response{err: errWithdrawn}
	case err != nil:
		return &response{err: err}
	}
	defer resp.Body.Close()
	if v, err := strconv.ParseUint(resp.Header.Get(api.HeaderSlotMap), 10, 64); err == nil {
		c.dir.outdated(v)
	}
	r := &response{buf: buffers.Get().(*bytes.Buffer)}
	r.buf.Reset()
	if err := read(r.buf, resp); err != nil {
		r.err = err
		return r
	}
	if resp.StatusCode != http.StatusOK {
		r.problem = problemOf(resp, r.buf.Bytes())
		return r
	}
	r.reply, r.err = api.DecodeReply(r.buf.Bytes())
	return r
}

// Header values that every batch carries. Requests share them; nobody changes
// them.
var (
	mediaBatch = []string{api.MediaBatch}
	never      = []string{"never"}
)

// header returns new headers with the credentials.
func (c *Client) header(room int) http.Header {
	h := make(http.Header, room)
	if c.authorization != nil {
		h["Authorization"] = c.authorization
	}
	return h
}

// read reads the whole body.
func read(buf *bytes.Buffer, resp *http.Response) error {
	if n := resp.ContentLength; n > 0 && n <= maxAnswer {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && n > maxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return err
}

// problemOf reads an answer that is not a success. What has no problem document
// does not come from rlstore but from something between: its status says too
// little to call the outcome known, unless it blames the request.
func problemOf(resp *http.Response, body []byte) *api.Problem {
	p := new(api.Problem)
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != api.MediaProblem || json.Unmarshal(body, p) != nil || p.Code == "" {
		code := api.OutcomeUnknown
		switch s := resp.StatusCode; {
		case s == http.StatusUnauthorized:
			code = api.Unauthorized
		case s == http.StatusForbidden:
			code = api.Forbidden
		case s == http.StatusNotFound:
			code = api.NotFound
		case s == http.StatusTooManyRequests:
			code = api.TooManyRequests
		case s >= 400 && s < 500:
			code = api.InvalidRequest
		}
		p = api.NewProblem(code, "%s answered %s: %.200q", resp.Request.URL.Host, resp.Status, body)
	}
	if p.Outcome != api.NotApplied && p.Outcome != api.Unknown {
		p.Outcome = p.Code.Info().Outcome
	}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	return p
}

// exchange is a request and its answer in JSON.
type exchange struct {
	method, path string
	query        url.Values // nil is none
	author       string     // "" is none
	media        string     // of body
	body         []byte
	ifMatch      uint64        // 0 is none
	ifNew        bool          // only if it does not exist yet
	within       time.Duration // of one attempt; 0 is attemptTimeout
	answer       any           // decoded into, if not nil
	pure         bool          // it changes nothing, though it is no GET
}

// reads tells that x changes nothing.
func (x *exchange) reads() bool { return x.pure || x.method == http.MethodGet }

// exchange sends x to one node. Its errors are of this package.
func (c *Client) exchange(ctx context.Context, to *endpoint, x *exchange) error {
	at := to.base.JoinPath(x.path)
	at.RawQuery = x.query.Encode()
	// Without a connection nothing has left. The error alone does not always tell:
	// when the context ends first, it is the context's.
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, x.method, at.String(), bytes.NewReader(x.body))
	if err != nil {
		return fail(ErrInvalidRequest, err, nil)
	}
	req.Header = c.header(4)
	req.Header.Set("Accept", api.MediaJSON)
	if x.media != "" {
		req.Header.Set("Content-Type", x.media)
	}
	if x.ifMatch != 0 {
		req.Header.Set("If-Match", `"`+strconv.FormatUint(x.ifMatch, 10)+`"`)
	}
	if d, ok := ctx.Deadline(); ok {
		// Without it a node may still look for a leader when we give up, and we would
		// not know that it found none.
		req.Header.Set(api.HeaderTimeout, max(time.Until(d), time.Millisecond).Round(time.Millisecond).String())
	}
	if x.ifNew {
		req.Header.Set("If-None-Match", "*")
	}
	if x.author != "" {
		req.Header.Set(api.HeaderAuthor, x.author)
	}
	resp, err := c.http.Do(req)
	if err != nil && !connected.Load() {
		err = &notSentError{err}
	}
	if err != nil {
		return fail(ErrOutcomeUnknown, err, nil)
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	if err := read(&buf, resp); err != nil {
		return fail(ErrOutcomeUnknown, err, nil)
	}
	if resp.StatusCode >= 300 {
		return refuse(problemOf(resp, buf.Bytes()))
	}
	if x.answer == nil {
		return nil
	}
	if err := json.Unmarshal(buf.Bytes(), x.answer); err != nil {
		kind := ErrOutcomeUnknown
		if x.reads() {
			kind = ErrInvalidRequest // by its endpoint
		}
		return fail(kind, &foreignError{at.Redacted(), err}, nil)
	}
	return nil
}

// ask sends x to one node after the other, for as long as ctx allows and a
// repetition may help and does no harm. All exchanges are idempotent, but for
// the errors of a repetition: doubt tells that an earlier attempt may have been
// the one that made x succeed.
func (c *Client) ask(ctx context.Context, x *exchange) (doubt bool, err error) {
	if c.closed.Load() {
		return false, fail(ErrClosed, nil, ErrUnavailable)
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	timeUp := func() bool {
		d, ok := ctx.Deadline()
		return ctx.Err() != nil || ok && !x.reads() && time.Until(d) < leastAttempt
	}
	var wait backoff
	for {
		foreign := true // whoever answers
		for _, e := range c.dir.all() {
			one, cancelOne := context.WithTimeout(ctx, cmp.Or(x.within, attemptTimeout))
			err = c.exchange(one, e, x)
			cancelOne()
			var p *api.Problem
			isProblem := errors.As(err, &p)
			switch {
			case err == nil:
				return doubt, nil
			case isProblem && p.Outcome == api.NotApplied && !p.Retryable:
				return doubt, err
			case !isProblem && ctx.Err() == nil:
				c.dir.suspect(e, err)
			}
			foreign = foreign && x.reads() && hopeless(err)
			if x.reads() && !foreign {
				err = fail(ErrUnavailable, cut(err), nil)
			} else {
				doubt = doubt || errors.Is(err, ErrOutcomeUnknown) && !neverSent(err)
			}
			if timeUp() {
				break
			}
		}
		if foreign {
			return doubt, err
		}
		if timeUp() || sleep(ctx, wait.next(0)) != nil || timeUp() {
			kind := ErrUnavailable
			if doubt {
				kind = ErrOutcomeUnknown
			}
			return doubt, fail(kind, cut(err), cmp.Or(c.ended(ctx), context.DeadlineExceeded))
		}
	}
}

// notSentError is that of a request which never got a connection.
type notSentError struct{ error }

// Unwrap returns why.
func (e *notSentError) Unwrap() error { return e.error }

func neverSent(err error) bool {
	var e *notSentError
	return errors.As(err, &e)
}
