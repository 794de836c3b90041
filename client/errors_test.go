package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// TestErrorsAreOneLineThatSaysNothingTwice looks at those that a deadline ends.
func TestErrorsAreOneLineThatSaysNothingTwice(t *testing.T) {
	dead := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	silent := func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far) // until near is closed
		return near, nil
	}
	for _, tc := range []struct {
		name string
		dial func(context.Context, string, string) (net.Conn, error)
		put  error // the kind of an edit's error; a take is never sent
	}{
		{"dead", dead, client.ErrUnavailable},
		{"silent", silent, client.ErrOutcomeUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, err := client.New([]string{"http://n1"}, client.WithTimeout(500*time.Millisecond),
				client.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: tc.dial}}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, take := c.Take(t.Context(), "api", "k", 1)
			_, cluster := c.Cluster(t.Context())
			_, put := c.PutPolicy(t.Context(), api.Policy{Name: "p"}, client.IfMatch(1))
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
		})
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
			c, err := client.New([]string{tc.endpoint}, client.WithTimeout(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Take(t.Context(), "api", "k", 1)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("take: %v", err)
			}
			if _, err = c.Cluster(t.Context()); tc.name != "another API" && (!errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("cluster: %v", err)
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
