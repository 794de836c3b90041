package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// BenchmarkTake is one JSON take through the edge and the limiter, with a log
// that answers at once, beside the least that a handler of the same body does.
func BenchmarkTake(b *testing.B) {
	const body = `{"policy":"api","key":"bench:key:000000042"}`
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Policy, Key string }
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &q)
		}
		if err != nil {
			b.Error(err)
		}
		w.Header().Set("Content-Type", api.MediaJSON)
		io.WriteString(w, `{"allowed":true}`)
	})
	for name, h := range map[string]http.Handler{"edge": newWorld(b).edge, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := discard{http.Header{}}
			r := httptest.NewRequest("POST", "/v1/take", strings.NewReader(body))
			r.Header["Content-Type"] = []string{api.MediaJSON}
			for b.Loop() {
				clear(w.h)
				r.Body = io.NopCloser(strings.NewReader(body))
				h.ServeHTTP(w, r)
			}
		})
	}
}

// discard is the answer that nobody reads.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
