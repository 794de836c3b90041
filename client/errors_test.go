package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// TestErrorsAreOneLineThatSaysNothingTwice looks at those that a deadline ends.
func TestErrorsAreOneLineThatSaysNothingTwice(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)
	for _, tc := range []struct {
		name, endpoint string
		timeout        time.Duration
		put            error // the kind of an edit's error; a take is never sent
	}{
		{"dead", "http://" + dead.Addr().String(), 100 * time.Millisecond, client.ErrUnavailable},
		// Long enough to connect on a busy machine: before that nothing is sent.
		{"silent", silent.URL, 500 * time.Millisecond, client.ErrOutcomeUnknown},
	} {
		c, err := client.New([]string{tc.endpoint}, client.WithTimeout(tc.timeout))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, take := c.Take(t.Context(), "api", "k", 1)
		_, cluster := c.Cluster(t.Context())
		_, put := c.PutPolicy(t.Context(), api.Policy{Name: "p"})
		for i, err := range []error{take, cluster, put} {
			kind := client.ErrUnavailable
			if i == 2 {
				kind = tc.put
			}
			if !errors.Is(err, kind) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: error %d is %v", tc.name, i, err)
			}
			if text := err.Error(); strings.Contains(text, "\n") || strings.Count(text, context.DeadlineExceeded.Error()) > 1 {
				t.Errorf("%s: error %d reads %q", tc.name, i, text)
			}
		}
	}
}

// TestAWrongBaseURLIsToldAtOnce: who will never answer is not asked again.
func TestAWrongBaseURLIsToldAtOnce(t *testing.T) {
	f := newFake(t, 1, 1)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>welcome") }))
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	t.Cleanup(page.Close)
	t.Cleanup(other.Close)
	for _, tc := range []struct {
		name, endpoint string
		want           error
		says           string
	}{
		{"a path that is not there", f.nodes[0].URL + "/rlstore", client.ErrNotFound, "404"},
		{"a page", page.URL, client.ErrInvalidRequest, "base URL"},
		{"another API", other.URL, client.ErrInvalidRequest, "base URL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := client.New([]string{tc.endpoint}, client.WithTimeout(10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			start := time.Now()
			_, err = c.Take(t.Context(), "api", "k", 1)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("take: %v", err)
			}
			if _, err = c.Cluster(t.Context()); tc.name != "another API" && (!errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("cluster: %v", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
			// Among good ones it does no harm.
			c, err = client.New([]string{tc.endpoint, f.nodes[0].URL})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			mustTake(t, c, "k")
		})
	}
}
