package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// scripted answers each request by f, without a network, and notes it.
func scripted(t *testing.T, f func(r *http.Request, body string) (status int, answer any)) (c *client.Client, asked func() string) {
	var last string
	store := &fake{local: map[string]http.Handler{"store": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		last = fmt.Sprintf("%s %s %s%s %s", r.Method, r.URL.RequestURI(), r.Header.Get(api.HeaderAuthor), r.Header.Get("If-Match"), body)
		status, answer := f(r, string(body))
		if p, ok := answer.(*api.Problem); ok {
			writeProblem(w, p)
			return
		}
		w.WriteHeader(status)
		if answer != nil {
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				t.Error(err)
			}
		}
	})}}
	c, err := client.New([]string{"http://store"}, client.WithHTTPClient(&http.Client{Transport: store}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, func() string { return last }
}

func TestOverridesComePageByPage(t *testing.T) {
	c, _ := scripted(t, func(r *http.Request, _ string) (int, any) {
		page := api.OverrideList{Policy: "p", Total: 5}
		first := map[string]int{"": 0, "k1*": 2, "k3*": 4}[r.URL.Query().Get("after")]
		for i := first; i < min(first+2, 5); i++ {
			page.Overrides = append(page.Overrides, api.Override{Key: fmt.Sprintf("k%d*", i)})
		}
		if first < 4 {
			page.After = page.Overrides[1].Key
		}
		return 200, page
	})
	list, err := c.Overrides(t.Context(), "p")
	if err != nil || len(list) != 5 || list[4].Key != "k4*" {
		t.Error(list, err)
	}
}

func TestEditsOfTheCatalogSayWhoAndWhy(t *testing.T) {
	c, asked := scripted(t, func(r *http.Request, _ string) (int, any) {
		if r.Method == "DELETE" {
			return 204, nil
		}
		return 200, map[string]any{}
	})
	who, why := client.Author("ann"), client.Reason("a trial")
	for want, call := range map[string]func() error{
		`PUT /v1/policies/ns/p/overrides ann"7" {"key":"vip:*","limits":null,"reason":"a trial","ttl":"1h"}`: func() error {
			_, err := c.PutOverride(t.Context(), "ns/p", api.Override{Key: "vip:*", TTL: api.Duration(time.Hour), ExpiresInMS: 7}, who, why, client.IfMatch(7))
			return err
		},
		`DELETE /v1/policies/p/overrides?key=vip%3A%2A&reason=a+trial ann `: func() error { return c.DeleteOverride(t.Context(), "p", "vip:*", who, why) },
		`POST /v1/policies/p/revert?reason=a+trial ann {"revision":3}`: func() error {
			_, err := c.Revert(t.Context(), "p", 3, who, why)
			return err
		},
		`PUT /v1/cluster/enforcement?reason=a+trial ann {"enforcement":"shadow"}`: func() error {
			_, err := c.SetEnforcement(t.Context(), api.EnforcementShadow, who, why)
			return err
		},
		`GET /v1/policies/p/revisions  `: func() error {
			_, err := c.Revisions(t.Context(), "p")
			return err
		},
		`GET /v1/cluster/enforcement  `: func() error {
			_, err := c.Enforcement(t.Context())
			return err
		},
		`GET /v1/top?by=taken&n=3  `: func() error {
			_, err := c.Top(t.Context(), api.TopTaken, 3)
			return err
		},
		`POST /v1/explain  {"policy":"p","key":"k","cost":2}`: func() error {
			_, err := c.Explain(t.Context(), "p", "k", 2)
			return err
		},
	} {
		if err := call(); err != nil || asked() != want {
			t.Errorf("it asked %s, want %s: %v", asked(), want, err)
		}
	}
	for _, name := range []string{"", "a/b/c"} {
		_, list := c.Overrides(t.Context(), name)
		_, put := c.PutOverride(t.Context(), name, api.Override{Key: "k"})
		_, revisions := c.Revisions(t.Context(), name)
		_, revert := c.Revert(t.Context(), name, 1)
		for i, err := range []error{list, put, c.DeleteOverride(t.Context(), name, "k"), revisions, revert} {
			if !errors.Is(err, client.ErrInvalidRequest) {
				t.Errorf("%q, call %d: %v", name, i, err)
			}
		}
	}
}

func TestRepeatedChangesOfOverridesTellNoLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where attempts fit into any timeout
		answers := []api.Code{api.OutcomeUnknown, api.NotFound}
		c, _ := scripted(t, func(r *http.Request, _ string) (int, any) {
			if r.Method == http.MethodGet {
				return 200, api.Policy{Name: "p", Revision: 8}
			}
			code := answers[0]
			if len(answers) > 1 {
				answers = answers[1:]
			}
			return 0, api.NewProblem(code, "scripted")
		})
		if err := c.DeleteOverride(t.Context(), "p", "k"); !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("the first attempt may have removed it, and the client says %v", err)
		}
		if err := c.DeleteOverride(t.Context(), "p", "k"); !errors.Is(err, client.ErrNotFound) {
			t.Error(err)
		}
		answers = []api.Code{api.OutcomeUnknown}
		// An explanation changes nothing, so nothing about it is unknown.
		if _, err := c.Explain(t.Context(), "p", "k", 1); !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) {
			t.Error(err)
		}
		if _, err := c.SetEnforcement(t.Context(), "off"); !errors.Is(err, client.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "scripted") {
			t.Error(err)
		}
	})
}
