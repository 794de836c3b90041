package rlhttp_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/rlstore/rlstore/client/rlhttp"
	"github.com/rlstore/rlstore/client/rltest"
)

func Example() {
	store, err := rltest.Open("name: api\nlimits: [{rate: 1, per: 1m}]")
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	c := store.Client() // in production: client.New(endpoints)

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	limit := rlhttp.New(c, "api",
		rlhttp.WithKey(rlhttp.ByIP(netip.MustParsePrefix("10.0.0.0/8"))),
		rlhttp.WithSkip(func(r *http.Request) bool { return r.URL.Path == "/healthz" }))
	handler := limit(mux)

	for range 2 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.1:4711" // the load balancer
		r.Header.Set("X-Forwarded-For", "192.0.2.7")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Printf("%d %s retry after %qs\n", w.Code, field(w.Header(), "RateLimit"), w.Header().Get("Retry-After"))
	}
	// Output:
	// 200 ["api";r=0;t=60] retry after ""s
	// 429 ["api";r=0;t=60] retry after "60"s
}
