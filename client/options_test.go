package client_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

func TestCredentialsAndTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			writeProblem(w, api.NewProblem(api.Unauthorized, "no"))
			return
		}
		w.Write([]byte(`{"version":"v1","added_later":true}`))
	}))
	defer s.Close()
	trust := s.Client().Transport.(*http.Transport).TLSClientConfig
	for token, want := range map[string]error{"secret": nil, "": client.ErrUnauthorized} {
		c, err := client.New([]string{s.URL}, client.WithTLS(trust), client.WithToken(token))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.Version(t.Context()); !errors.Is(err, want) || err == nil && v.Version != "v1" {
			t.Error(v, err)
		}
		if want != nil {
			if _, err := c.Take(t.Context(), "api", "k", 1); !errors.Is(err, want) {
				t.Error(err)
			}
		}
		c.Close()
		if _, err := client.New([]string{s.URL}, client.WithTLS(&tls.Config{}), client.WithHTTPClient(s.Client())); !errors.Is(err, client.ErrInvalidRequest) {
			t.Error(err)
		}
	}
}

func TestNewChecksItsArguments(t *testing.T) {
	for _, endpoints := range [][]string{nil, {""}, {"127.0.0.1:8101"}, {"ftp://x"}, {"http://"}, {"http://x?y"}, {"http://ok", "::"}} {
		if c, err := client.New(endpoints); !errors.Is(err, client.ErrInvalidRequest) || c != nil {
			t.Errorf("%q: %v", endpoints, err)
		}
	}
	for _, o := range []client.Option{client.WithTimeout(0), client.WithMaxInFlight(0)} {
		if _, err := client.New([]string{"http://x"}, o); !errors.Is(err, client.ErrInvalidRequest) {
			t.Error(err)
		}
	}
}
