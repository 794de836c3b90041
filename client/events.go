package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	// silence is how long a stream may say nothing: nodes send a comment every 15 s.
	silence = 45 * time.Second
	// maxEventLine bounds a line of a stream, far above any event.
	maxEventLine = 64 << 10
)

// EventsOption configures [Client.Events].
type EventsOption func(*eventStream)

// Past begins with the events that a node remembers, its last 1024, instead of with
// the next one.
func Past() EventsOption { return func(s *eventStream) { s.past = true } }

// OnStream calls f with the base URL of each node that has given a stream, before its
// first event.
func OnStream(f func(endpoint string)) EventsOption { return func(s *eventStream) { s.opened = f } }

// Events streams what happens in the cluster, as one of its nodes sees it: elections,
// edits of policies, drains, members. It goes on until ctx or the client ends, then
// the sequence ends; the client's timeout does not bound it. The loop's body may take
// its time, but one that falls behind by more than a node remembers gets an
// [api.EventSlow] and misses what came after.
//
// A stream that breaks is opened again, first at the same node, where it goes on
// after the last event. Each node numbers its events for itself, so at another one it
// can only go on with what happens next: an [api.EventGap] tells that events may be
// missing, or may come twice.
//
// An error comes with an empty event. If it is [ErrUnavailable], no node has given a
// stream for as long as the client's timeout; whoever goes on ranging goes on trying.
// Any other error is the last element: a repetition would not help.
func (c *Client) Events(ctx context.Context, opts ...EventsOption) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		if c.closed.Load() {
			yield(api.Event{}, fail(ErrClosed, nil, ErrUnavailable))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		s := &eventStream{c: c, yield: yield}
		for _, o := range opts {
			o(s)
		}
		s.run(ctx)
	}
}

// eventStream is one call of Events. It belongs to one goroutine.
type eventStream struct {
	c      *Client
	yield  func(api.Event, error) bool
	past   bool
	opened func(endpoint string)

	at   *endpoint // whose stream was the last; nil before the first
	last string    // id of the last event of it; "" is none
	over bool      // the loop was left
}

// run opens one stream after the other, and yields what they say.
func (s *eventStream) run(ctx context.Context) {
	var wait backoff
	lost := time.Now() // since when there is no stream
	for ctx.Err() == nil {
		foreign := true // whoever answers
		var err error
		for _, e := range s.nodes() {
			var lasted bool
			lasted, err = s.follow(ctx, e)
			if s.over || ctx.Err() != nil {
				return
			}
			if lasted {
				wait, lost, foreign = backoff{}, time.Now(), false
				break
			}
			s.c.logger.Debug("rlstore: no stream of events", "node", e.base.String(), "error", err)
			foreign = foreign && hopeless(err)
		}
		switch {
		case foreign:
			s.yield(api.Event{}, err)
			return
		case time.Since(lost) >= s.c.timeout:
			lost = time.Now()
			if !s.yield(api.Event{}, fail(ErrUnavailable, cut(err), nil)) {
				return
			}
		}
		if sleep(ctx, wait.next(0)) != nil {
			return
		}
	}
}

// nodes is whom to ask, the one of the last stream first.
func (s *eventStream) nodes() []*endpoint {
	all := s.c.dir.all()
	if s.at == nil {
		return all
	}
	return append([]*endpoint{s.at}, slices.DeleteFunc(all, func(e *endpoint) bool { return e == s.at })...)
}

// follow yields what the stream of one node says until it breaks. It lasted if the
// node gave one at all; the error tells why not.
func (s *eventStream) follow(ctx context.Context, e *endpoint) (lasted bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(attemptTimeout, cancel)
	defer watchdog.Stop()
	resp, err := s.open(ctx, e)
	if err != nil {
		s.c.dir.suspect(e, err)
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var buf bytes.Buffer
		if err := read(&buf, resp); err != nil {
			return false, err
		}
		return false, refuse(problemOf(resp, buf.Bytes()))
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != api.MediaEvents {
		return false, fail(ErrInvalidRequest, &foreignError{e.base.Redacted(), fmt.Errorf("it answers with %.40q instead of events", media)}, nil)
	}
	watchdog.Reset(silence)
	if s.c.dir.now.Load() == nil {
		s.c.dir.ask() // for the other nodes, while one answers
	}
	if s.opened != nil {
		s.opened(e.base.Redacted())
	}
	moved := s.at != nil && s.at != e
	if s.at = e; moved {
		s.last = ""
		if !s.give(api.Event{Type: api.EventGap}) {
			return true, nil
		}
	}
	err = readEvents(resp.Body, func() { watchdog.Reset(silence) }, func(id string, ev api.Event) bool {
		s.last = cmp.Or(id, s.last)
		watchdog.Stop() // the loop's body may take its time
		defer watchdog.Reset(silence)
		return s.give(ev)
	})
	s.c.logger.Debug("rlstore: a stream of events has ended", "node", e.base.String(), "error", err)
	return true, nil
}

// give yields an event, and notes when the loop is left.
func (s *eventStream) give(e api.Event) bool {
	s.over = !s.yield(e, nil)
	return !s.over
}

func (s *eventStream) open(ctx context.Context, e *endpoint) (*http.Response, error) {
	at := e.base.JoinPath("/v1/events")
	if s.past && s.at == nil {
		at.RawQuery = "past=true"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, fail(ErrInvalidRequest, err, nil)
	}
	req.Header = s.c.header(4)
	req.Header.Set("Accept", api.MediaEvents)
	if s.at == e && s.last != "" {
		req.Header.Set("Last-Event-ID", s.last)
	}
	return s.c.http.Do(req)
}

// readEvents reads a stream of server-sent events until it ends, or yield returns
// false. It calls alive for each line.
func readEvents(r io.Reader, alive func(), yield func(id string, e api.Event) bool) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxEventLine)
	var id, data string
	for in.Scan() {
		alive()
		switch name, value, _ := strings.Cut(in.Text(), ":"); {
		case in.Text() == "":
			var e api.Event
			if data != "" {
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					return err
				}
				if !yield(id, e) {
					return nil
				}
			}
			id, data = "", ""
		case name == "id":
			id = strings.TrimPrefix(value, " ")
		case name == "data":
			data += strings.TrimPrefix(value, " ")
		}
	}
	return errors.Join(in.Err(), io.EOF)
}
