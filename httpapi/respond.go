package httpapi

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// wrap gives a route its error responses, panics included, its metrics and its
// line in the debug log.
func (e *edge) wrap(route string, h handler) http.Handler {
	m := e.metrics.route(route)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &recorder{ResponseWriter: rw}
		start := time.Now()
		defer func() {
			took := time.Since(start)
			m.done(w.status, took)
			if e.Logger.Enabled(r.Context(), slog.LevelDebug) {
				e.Logger.Debug("request", "route", route, "method", r.Method, "status", w.status, "took", took,
					"remote", r.RemoteAddr, "request_id", w.Header().Get(api.HeaderRequestID))
			}
		}()
		err := checkQuery(route, r)
		if err == nil {
			err = e.serve(w, r, h)
		}
		if err != nil {
			e.fail(w, r, err)
		}
	})
}

// serve runs h and turns a panic into an error, unless it is net/http's own way
// to end a connection.
func (e *edge) serve(w *recorder, r *http.Request, h handler) (err error) {
	defer func() {
		p := recover()
		switch {
		case p == nil:
		case p == http.ErrAbortHandler:
			panic(p)
		default:
			e.Logger.Error("panic in a request", "path", r.URL.Path, "panic", fmt.Sprint(p),
				"request_id", w.Header().Get(api.HeaderRequestID), "stack", string(debug.Stack()))
			err = api.NewProblem(api.Internal, "the request hit a bug in the server; the log has it under this request_id")
		}
	}()
	if h.kind == bounded {
		return e.bound(w, r, h.serve)
	}
	return h.serve(w, r)
}

// fail answers with err as a problem document.
func (e *edge) fail(w *recorder, r *http.Request, err error) {
	if w.status != 0 {
		panic(http.ErrAbortHandler) // the answer has begun: only cutting it off tells the caller
	}
	p := *api.AsProblem(err)
	if p.Code == api.Internal {
		e.Logger.Error("request failed", "path", r.URL.Path, "err", err, "request_id", w.Header().Get(api.HeaderRequestID))
	}
	p.Instance = r.URL.EscapedPath()
	p.RequestID = w.Header().Get(api.HeaderRequestID)
	if p.Status == http.StatusServiceUnavailable && p.RetryAfter == 0 {
		p.RetryAfter = time.Second
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", wholeSeconds(p.RetryAfter))
	}
	drain(r)
	respond(w, p.Status, api.MediaProblem, &p)
}

// wholeSeconds is d in seconds, rounded up, as Retry-After wants it.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// respond writes v as JSON.
func respond(w http.ResponseWriter, status int, media string, v any) {
	respondBytes(w, status, media, append(encode(v), '\n'))
}

// encode is v in JSON. Its types are ours, and all encode.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// buffers recycles the memory of answers: the server copies what is written.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// respondDecision writes d as JSON.
func respondDecision(w http.ResponseWriter, status int, d *api.Decision) {
	b := buffers.Get().(*[]byte)
	*b = append(appendDecision((*b)[:0], d), '\n')
	respondBytes(w, status, api.MediaJSON, *b)
	buffers.Put(b)
}

// Decisions and states are true for this caller at this moment only. Answers
// share the value; nobody changes it.
var noStore = []string{"no-store"}

func respondBytes(w http.ResponseWriter, status int, media string, body []byte) {
	h := w.Header()
	v := []string{media, strconv.Itoa(len(body))}
	h["Content-Type"], h["Content-Length"], h["Cache-Control"] = v[:1:1], v[1:], noStore
	w.WriteHeader(status)
	w.Write(body) // an error means that the caller has gone
}

// recorder notes the status.
type recorder struct {
	http.ResponseWriter
	status int // 0 until the header is written
}

// WriteHeader implements [http.ResponseWriter].
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// saneID tells whether a caller's id can be echoed and logged as it is: 1 to 64
// printable bytes.
func saneID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		if id[i] < '!' || id[i] > '~' {
			return false
		}
	}
	return true
}

// newID makes an id: 128 random bits, which nobody has to be unable to guess.
func newID() string {
	var b [16]byte
	for i := 0; i < len(b); i += 8 {
		v := rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	var text [2 * len(b)]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}
