package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// newsroom is nodes that stream events as a test writes them, in a bubble.
type newsroom struct {
	t     *testing.T
	asked chan *http.Request // for streams that were given

	mu      sync.Mutex
	down    map[string]bool // by host
	refuse  *api.Problem    // of every stream
	streams []*io.PipeWriter
}

func newNewsroom(t *testing.T) *newsroom {
	return &newsroom{t: t, asked: make(chan *http.Request, 100), down: map[string]bool{}}
}

// RoundTrip implements [http.RoundTripper].
func (n *newsroom) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down[r.URL.Host] || r.URL.Path != "/v1/events" {
		return nil, syscall.ECONNREFUSED
	}
	if n.refuse != nil {
		w := httptest.NewRecorder()
		writeProblem(w, n.refuse)
		return w.Result(), nil
	}
	body, stream := io.Pipe()
	context.AfterFunc(r.Context(), func() { stream.CloseWithError(r.Context().Err()) })
	n.streams = append(n.streams, stream)
	n.asked <- r
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {api.MediaEvents}}, Body: body, Request: r}, nil
}

// say writes to the stream that was opened last.
func (n *newsroom) say(text string) {
	n.mu.Lock()
	stream := n.streams[len(n.streams)-1]
	n.mu.Unlock()
	if _, err := io.WriteString(stream, text); err != nil {
		n.t.Errorf("%q: %v", text, err)
	}
}

// hangUp ends the last stream.
func (n *newsroom) hangUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[len(n.streams)-1].Close()
}

// set changes what happens from now on.
func (n *newsroom) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// watch ranges over the events of two nodes until the returned function is called,
// which waits for the end.
func (n *newsroom) watch(opts ...client.EventsOption) (<-chan string, context.CancelFunc) {
	c, err := client.New([]string{"http://n1", "http://n2"}, client.WithTimeout(3*time.Second), client.WithHTTPClient(&http.Client{Transport: n}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithCancel(n.t.Context())
	got, over := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(over)
		for e, err := range c.Events(ctx, opts...) {
			switch {
			case errors.Is(err, client.ErrUnavailable):
				got <- "unavailable"
			case err != nil:
				got <- err.Error()
			default:
				got <- strings.TrimSpace(e.Type + " " + e.Policy)
			}
		}
		got <- "the end"
	}()
	return got, func() { cancel(); <-over }
}

func event(id, policy string) string {
	return fmt.Sprintf("id: %s\nevent: policy\ndata: {\"type\":\"policy\",\"policy\":%q}\n\n", id, policy)
}

func (n *newsroom) expect(got <-chan string, want string) {
	n.t.Helper()
	if is := <-got; is != want {
		n.t.Errorf("got %q, want %q", is, want)
	}
}

func TestEventsGoOnAfterTheLastOneAtTheSameNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNewsroom(t)
		got, stop := n.watch(client.Past())
		first := <-n.asked
		if first.URL.RawQuery != "past=true" || first.Header.Get("Last-Event-ID") != "" {
			t.Error(first.URL, first.Header)
		}
		n.say(": hello\n\n" + event("x-1", "a") + event("x-2", "b"))
		n.expect(got, "policy a")
		n.expect(got, "policy b")
		n.say("id: x-3\nevent: pol") // and that is all of it
		n.hangUp()
		again := <-n.asked
		if again.URL.Host != first.URL.Host || again.URL.RawQuery != "" || again.Header.Get("Last-Event-ID") != "x-2" {
			t.Error(again.URL, again.Header)
		}
		n.say(event("x-3", "c"))
		n.expect(got, "policy c")
		stop()
		n.expect(got, "the end")
	})
}

func TestEventsOfAnotherNodeBeginWithAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNewsroom(t)
		got, stop := n.watch(client.Past())
		first := <-n.asked
		n.say(event("x-1", "a"))
		n.expect(got, "policy a")
		n.set(func() { n.down[first.URL.Host] = true })
		n.hangUp()
		other := <-n.asked
		if other.URL.Host == first.URL.Host || other.URL.RawQuery != "" || other.Header.Get("Last-Event-ID") != "" {
			t.Error(other.URL, other.Header)
		}
		n.expect(got, "gap")
		n.say(event("y-1", "b"))
		n.expect(got, "policy b")
		stop()
		n.expect(got, "the end")
	})
}

// The client's timeout is 3 s, and a stream may be silent for 45.
func TestAStreamLastsForAsLongAsItIsHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNewsroom(t)
		got, stop := n.watch()
		<-n.asked
		for range 20 {
			time.Sleep(40 * time.Second)
			n.say(":\n\n")
		}
		n.say(event("x-1", "a"))
		n.expect(got, "policy a")
		if len(n.asked) != 0 {
			t.Error("it was opened again")
		}
		silent := time.Now()
		if again := <-n.asked; again.Header.Get("Last-Event-ID") != "x-1" {
			t.Error(again.Header)
		}
		if d := time.Since(silent); d < 45*time.Second || d > 46*time.Second {
			t.Errorf("a silent stream was left after %v", d)
		}
		stop()
		n.expect(got, "the end")
	})
}

func TestAClusterThatIsDownIsToldOfAndTriedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNewsroom(t)
		n.set(func() { n.refuse = api.NewProblem(api.Overloaded, "64 streams are open") })
		start := time.Now()
		got, stop := n.watch()
		n.expect(got, "unavailable")
		n.expect(got, "unavailable")
		if d := time.Since(start); d < 6*time.Second || d > 7*time.Second {
			t.Errorf("after %v", d)
		}
		n.set(func() { n.refuse = nil })
		<-n.asked
		n.say(event("x-1", "a"))
		n.expect(got, "policy a")
		n.set(func() { n.refuse = api.NewProblem(api.Unauthorized, "show a token") })
		n.hangUp()
		if last := <-got; !strings.Contains(last, "show a token") {
			t.Errorf("got %q", last)
		}
		n.expect(got, "the end")
		stop()
	})
}

func TestEventsEndWithTheirLoopAndTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNewsroom(t)
		c, err := client.New([]string{"http://n1"}, client.WithHTTPClient(&http.Client{Transport: n}))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			r := <-n.asked
			n.say(event("x-1", "a"))
			<-r.Context().Done()
		}()
		for range c.Events(t.Context()) {
			break
		}
		go func() {
			<-n.asked
			c.Close()
		}()
		for _, err := range c.Events(t.Context()) {
			t.Error(err)
		}
		for _, err := range c.Events(t.Context()) {
			if !errors.Is(err, client.ErrClosed) {
				t.Error(err)
			}
		}
	})
}
