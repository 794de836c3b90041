package httpapi

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rlstore/rlstore/api"
)

var eventID = regexp.MustCompile(`id: (\S+)\n`)

func TestEventsResumeAfterTheLastOneSeen(t *testing.T) {
	f := NewFeed()
	w := newWorld(t, func(c *Config) { c.Events = f })
	for _, p := range []string{"a", "b", "c"} {
		f.Add(api.Event{Type: api.EventPolicy, Policy: p})
	}
	all := w.do("GET", "/v1/events?follow=false", "")
	ids := eventID.FindAllStringSubmatch(all.body, -1)
	if all.Header.Get("Content-Type") != api.MediaEvents || len(ids) != 3 {
		t.Fatalf("%s %s", all.Status, all.body)
	}
	rest := w.do("GET", "/v1/events?follow=false", "", "Last-Event-ID: "+ids[1][1])
	if !strings.Contains(rest.body, `"policy":"c"`) || strings.Contains(rest.body, `"policy":"b"`) || strings.Contains(rest.body, "event: gap") {
		t.Errorf("after the second: %s", rest.body)
	}
	other := w.do("GET", "/v1/events?follow=false", "", "Last-Event-ID: elsewhere-2")
	if !strings.Contains(other.body, "event: gap") || !strings.Contains(other.body, `"policy":"a"`) {
		t.Errorf("after an event of another node: %s", other.body)
	}
	for range feedSize {
		f.Add(api.Event{Type: api.EventDrain})
	}
	late := w.do("GET", "/v1/events?follow=false", "", "Last-Event-ID: "+ids[0][1])
	if !strings.Contains(late.body, "event: gap") || strings.Count(late.body, "event: drain") != feedSize {
		t.Errorf("after a forgotten event: %.200s", late.body)
	}
	if _, _, _, fell, _ := f.since(1); !fell {
		t.Error("a reader of a forgotten event is not late")
	}
	wantProblem(t, w.do("GET", "/v1/events?follow=maybe", ""), api.InvalidRequest, "follow")
	if r := w.do("GET", "/v1/events?follow=false&past=false", ""); strings.Contains(r.body, "event:") {
		t.Errorf("without what is past: %s", r.body)
	}
}

func TestABareParameterIsTrue(t *testing.T) {
	for query, want := range map[string]bool{"": false, "?past": true, "?past=": true, "?past=true": true, "?past=false": false} {
		got, err := yesOrNo(httptest.NewRequest("GET", "/v1/events"+query, nil), "past", false)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", query, got, err, want)
		}
	}
}

func TestAStreamOfEventsFollowsUntilTheFeedEnds(t *testing.T) {
	f := NewFeed()
	w := newWorld(t, func(c *Config) { c.Events = f })
	resp, err := http.Get(w.server.URL + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	f.Add(api.Event{Type: api.EventDrain, Node: "n1", Change: "begun"})
	f.Close()
	f.Add(api.Event{Type: api.EventDrain, Node: "n2"}) // has no effect
	var data []string
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		if d, ok := strings.CutPrefix(in.Text(), "data: "); ok {
			data = append(data, d)
		}
	}
	if len(data) != 1 || data[0] != `{"type":"drain","node":"n1","change":"begun"}` {
		t.Errorf("it had %q", data)
	}
}

// streamWriter is a connection in a bubble, that may be stuck.
type streamWriter struct {
	*httptest.ResponseRecorder
	stuck    bool
	gate     chan struct{} // nil, or what the next write waits for
	deadline time.Time
}

func (w *streamWriter) Write(b []byte) (int, error) {
	if w.stuck {
		time.Sleep(time.Until(w.deadline))
		return 0, os.ErrDeadlineExceeded
	}
	if w.gate != nil {
		<-w.gate
	}
	return w.ResponseRecorder.Write(b)
}
func (w *streamWriter) SetReadDeadline(time.Time) error    { return nil }
func (w *streamWriter) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }

// In a bubble, where a node has seen one event and a reader is up to date.
func inStream(t *testing.T, f func(e *edge, w *streamWriter, over <-chan struct{})) {
	world := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		e := world.edge
		e.Events = NewFeed()
		w, over := &streamWriter{ResponseRecorder: httptest.NewRecorder()}, make(chan struct{})
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			defer close(over)
			e.ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx))
		}()
		synctest.Wait()
		if n := testutil.ToFloat64(e.metrics.streams); n != 1 {
			t.Errorf("%v streams are open", n)
		}
		f(e, w, over)
		leave()
		<-over
		if n := testutil.ToFloat64(e.metrics.streams); n != 0 || len(e.Events.streams) != 0 {
			t.Errorf("%v streams are open after the end", n)
		}
	})
}

func TestAStreamWithoutEventsIsKeptAlive(t *testing.T) {
	inStream(t, func(e *edge, w *streamWriter, over <-chan struct{}) {
		time.Sleep(3*heartbeat + time.Second)
		e.Events.Add(api.Event{Type: api.EventDrain, Node: "n1", Change: "begun"})
		synctest.Wait()
		if got := w.Body.String(); strings.Count(got, ":\n\n") != 3 || !strings.HasSuffix(got, "-1\nevent: drain\ndata: {\"type\":\"drain\",\"node\":\"n1\",\"change\":\"begun\"}\n\n") {
			t.Errorf("the stream is %q", got)
		}
	})
}

func TestAReaderThatTakesNothingIsCutOff(t *testing.T) {
	inStream(t, func(e *edge, w *streamWriter, over <-chan struct{}) {
		w.stuck = true
		start := time.Now()
		e.Events.Add(api.Event{Type: api.EventDrain, Node: "n1"})
		<-over
		if d := time.Since(start); d != streamWrite {
			t.Errorf("it was cut off after %v", d)
		}
		if n := testutil.ToFloat64(e.metrics.droppedEvents); n != 1 {
			t.Errorf("%v events count as dropped", n)
		}
	})
}

func TestAReaderThatFallsBehindIsToldSo(t *testing.T) {
	inStream(t, func(e *edge, w *streamWriter, over <-chan struct{}) {
		w.gate = make(chan struct{})
		e.Events.Add(api.Event{Type: api.EventPolicy, Policy: "the last"})
		synctest.Wait() // while it is being sent, more come than are remembered
		for range feedSize + 5 {
			e.Events.Add(api.Event{Type: api.EventDrain, Node: "n1"})
		}
		close(w.gate)
		<-over
		if got := w.Body.String(); !strings.HasSuffix(got, "\"policy\":\"the last\"}\n\nevent: slow\ndata: {\"type\":\"slow\"}\n\n") {
			t.Errorf("the stream ends with %q", got[max(0, len(got)-200):])
		}
		if n := testutil.ToFloat64(e.metrics.droppedEvents); n != feedSize+5 {
			t.Errorf("%v events count as dropped", n)
		}
	})
}

func TestStreamsOfEventsAreBounded(t *testing.T) {
	f := NewFeed()
	w := newWorld(t, func(c *Config) { c.Events = f })
	for range maxStreams {
		f.streams <- struct{}{}
	}
	wantProblem(t, w.do("GET", "/v1/events", ""), api.Overloaded, "streams")
}
