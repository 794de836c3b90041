package httpapi

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	feedSize = 1024 // events that are remembered; a change of every leader is a handful
	// maxStreams bounds the streams of a node: each holds a connection.
	maxStreams = 64
	// heartbeat is the pace of comments that keep a connection from looking idle.
	heartbeat = 15 * time.Second
	// streamWrite is how long a reader may take for what it is sent.
	streamWrite = 10 * time.Second
)

// Feed is the last events of a node. It is safe for concurrent use.
type Feed struct {
	boot    string // names this feed in ids, other than that of any other
	streams chan struct{}

	mu     sync.Mutex    // guards what follows
	next   uint64        // number of the next event; the first is 1
	ring   [][]byte      // of event n: ring[n % feedSize]
	more   chan struct{} // closed by the next event, and by Close
	closed bool
}

// NewFeed returns a feed without events.
func NewFeed() *Feed {
	return &Feed{
		boot: newID()[:12], streams: make(chan struct{}, maxStreams),
		next: 1, ring: make([][]byte, feedSize), more: make(chan struct{}),
	}
}

// Add appends an event; the oldest is forgotten.
func (f *Feed) Add(e api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.ring[f.next%feedSize] = fmt.Appendf(nil, "id: %s-%d\nevent: %s\ndata: %s\n\n", f.boot, f.next, e.Type, encode(e))
	f.next++
	close(f.more)
	f.more = make(chan struct{})
}

// Close ends every stream, once it has sent what there is.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.more)
	}
}

// since returns the events from number at on, and what number comes after them.
// It is late if at is forgotten already, and then there are none; ended, if no more
// will come.
func (f *Feed) since(at uint64) (text []byte, next uint64, more <-chan struct{}, late, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if late = at+feedSize < f.next; late {
		return nil, f.next, f.more, true, f.closed
	}
	for ; at < f.next; at++ {
		text = append(text, f.ring[at%feedSize]...)
	}
	return text, at, f.more, false, f.closed
}

// start is the number to begin with: after the event that a caller saw last, or with
// the next one, or with the first that is remembered. A gap tells that the event is not one of this feed's last.
func (f *Feed) start(lastID string, past bool) (at uint64, gap bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := max(f.next, feedSize+1) - feedSize
	switch {
	case lastID != "":
	case past:
		return oldest, false
	default:
		return f.next, false
	}
	boot, number, _ := strings.Cut(lastID, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || boot != f.boot || n >= f.next || n+1 < oldest {
		return oldest, true
	}
	return n + 1, false
}

// events streams what happens, as server-sent events. It is not one of the requests
// in flight: it ends when the caller goes, falls behind, or the node stops.
func (e *edge) events(w http.ResponseWriter, r *http.Request) error {
	follow, err := yesOrNo(r, "follow", true)
	if err != nil {
		return err
	}
	past, err := yesOrNo(r, "past", !follow)
	if err != nil {
		return err
	}
	select {
	case e.Events.streams <- struct{}{}:
		defer func() { <-e.Events.streams }()
	default:
		return api.NewProblem(api.Overloaded, "%d streams of events are open on this node, which is as many as it takes", maxStreams)
	}
	e.metrics.streams.Inc()
	defer e.metrics.streams.Dec()
	at, gap := e.Events.start(r.Header.Get("Last-Event-ID"), past)
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the server's would end the request
	w.Header().Set("Content-Type", api.MediaEvents)
	w.Header()["Cache-Control"] = noStore
	w.WriteHeader(http.StatusOK)
	send := func(text []byte) bool {
		rc.SetWriteDeadline(time.Now().Add(streamWrite))
		_, err := w.Write(text)
		return err == nil && rc.Flush() == nil
	}
	hello := []byte(": events of this node\n\n")
	if gap {
		hello = special(api.EventGap)
	}
	if r.Method == http.MethodHead || !send(hello) {
		return nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		text, next, more, late, ended := e.Events.since(at)
		if late {
			e.metrics.droppedEvents.Add(float64(next - at))
			send(special(api.EventSlow))
			return nil
		}
		if len(text) > 0 && !send(text) {
			e.metrics.droppedEvents.Add(float64(next - at))
			return nil
		}
		if at = next; ended || !follow {
			return nil
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return nil
		case <-beat.C:
			if !send([]byte(":\n\n")) {
				return nil
			}
		}
	}
}

// yesOrNo is a parameter of the query that is true or false; its bare name is true.
func yesOrNo(r *http.Request, name string, unset bool) (bool, error) {
	switch v, err := parameter(r, name); {
	case err != nil:
		return false, err
	case v == "" && !r.URL.Query().Has(name):
		return unset, nil
	case v == "", v == "true", v == "false":
		return v != "false", nil
	default:
		return false, api.NewProblem(api.InvalidRequest, "%s: %.40q is neither true nor false", name, v)
	}
}

// special is an event of one stream only, without an id.
func special(kind string) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, encode(api.Event{Type: kind}))
}
