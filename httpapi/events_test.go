package httpapi

import (
	"bufio"
	"net/http"
	"regexp"
	"strings"
	"testing"

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

func TestStreamsOfEventsAreBounded(t *testing.T) {
	f := NewFeed()
	w := newWorld(t, func(c *Config) { c.Events = f })
	for range maxStreams {
		f.streams <- struct{}{}
	}
	wantProblem(t, w.do("GET", "/v1/events", ""), api.Overloaded, "streams")
}
