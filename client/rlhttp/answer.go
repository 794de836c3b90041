package rlhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rlstore/rlstore/client"
)

// quotaExceeded is the problem type of a denial, by
// draft-ietf-httpapi-ratelimit-headers.
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// problem is a problem document of RFC 9457.
type problem struct {
	Type     string   `json:"type,omitempty"` // "" is about:blank
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Instance string   `json:"instance"`
	Violated []string `json:"violated-policies,omitempty"` // the limits that deny
}

func respondProblem(w http.ResponseWriter, r *http.Request, status int, kind, title string, violated []string) {
	body, err := json.Marshal(problem{Type: kind, Title: title, Status: status, Instance: r.URL.EscapedPath(), Violated: violated})
	if err != nil { // strings and a number
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body) // an error means that the caller has gone
}

func respondDenied(w http.ResponseWriter, r *http.Request, d client.Decision) {
	var violated []string
	for _, l := range limits(&d) {
		if l.RetryAfter > 0 {
			violated = append(violated, l.Name)
		}
	}
	respondProblem(w, r, http.StatusTooManyRequests, quotaExceeded, "Request cannot be satisfied as assigned quota has been exceeded", violated)
}

// undecided tells whether a request passes that the store could not decide, and
// answers it if not.
func (c *config) undecided(w http.ResponseWriter, r *http.Request, err error) bool {
	outage := errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown)
	switch {
	case outage && c.open:
		return true
	case outage:
		w.Header().Set("Retry-After", "1")
		respondProblem(w, r, http.StatusServiceUnavailable, "", "The rate limit of this request cannot be checked at present", nil)
	case errors.Is(err, client.ErrInvalidRequest): // its key or its cost, which come from the request
		respondProblem(w, r, http.StatusBadRequest, "", "The request cannot be charged to whom it names", nil)
	default:
		respondProblem(w, r, http.StatusInternalServerError, "", "The rate limit of this request is not set up rightly", nil)
	}
	return false
}

// limits is every limit of a decision. If there is one only, the client does not
// tell its name; it is called as its policy.
func limits(d *client.Decision) []client.LimitState {
	if len(d.Limits) > 0 {
		return d.Limits
	}
	return []client.LimitState{{Name: d.Policy, Limit: d.Limit, Remaining: d.Remaining, RetryAfter: d.RetryAfter, ResetAfter: d.ResetAfter}}
}

// setHeaders sets the fields of draft-ietf-httpapi-ratelimit-headers: of each
// limit its quota q, and what is left, r, with the seconds t until it is full, or
// on a denial until the take passes. Names of policies and limits need no escapes.
// A decision that nobody made has none.
func setHeaders(h http.Header, d *client.Decision) {
	if d.Limit == 0 {
		return
	}
	var policies, states []byte
	for i, l := range limits(d) {
		if i > 0 {
			policies = append(policies, ", "...)
			states = append(states, ", "...)
		}
		policies = strconv.AppendQuoteToASCII(policies, l.Name)
		policies = append(policies, ";q="...)
		policies = strconv.AppendInt(policies, l.Limit, 10)
		wait := l.ResetAfter
		if !d.Allowed && l.RetryAfter > 0 {
			wait = l.RetryAfter
		}
		states = strconv.AppendQuoteToASCII(states, l.Name)
		states = append(states, ";r="...)
		states = strconv.AppendInt(states, l.Remaining, 10)
		states = append(states, ";t="...)
		states = append(states, seconds(wait)...)
	}
	// Not by Set, which would write "Ratelimit".
	h["RateLimit-Policy"], h["RateLimit"] = []string{string(policies)}, []string{string(states)}
}

// seconds is d in whole seconds, rounded up.
func seconds(d time.Duration) string {
	s := d / time.Second
	if d%time.Second > 0 {
		s++
	}
	return strconv.FormatInt(int64(s), 10)
}
