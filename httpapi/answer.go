package httpapi

import (
	"math"
	"math/bits"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
)

// answer is one result on its way into JSON.
type answer struct {
	kind api.Kind // of what makes a hold; else it does not matter
	key  string
	res  api.Result
	set  *api.SetInfo // nil if the result tells nothing of a bucket
}

// state is what every answer tells of the bucket. The limits are listed when
// there are several, or if always.
func (a *answer) state(always bool) api.State {
	bind, info := &a.res.Limits[a.res.Binding], &a.set.Limits[a.res.Binding]
	s := api.State{
		Policy: a.set.Policy, Key: a.key,
		Limit: info.Burst, Remaining: bind.Remaining,
		RetryAfterMS: ceil(bind.RetryAfter, 1e3), ResetAfterMS: ceil(bind.ResetAfter, 1e3),
		Mode: a.set.ModeName(), Source: api.SourceStore, PolicyRevision: a.set.Revision,
		Commit: a.res.Commit,
	}
	if always || len(a.set.Limits) > 1 {
		for i, l := range a.res.Limits {
			s.Limits = append(s.Limits, api.LimitState{
				Name: a.set.Limits[i].Name, Limit: a.set.Limits[i].Burst, Remaining: l.Remaining,
				RetryAfterMS: ceil(l.RetryAfter, 1e3), ResetAfterMS: ceil(l.ResetAfter, 1e3),
			})
		}
	}
	return s
}

func (a *answer) decision() api.Decision {
	d := api.Decision{
		Allowed: a.res.Status == api.StatusAllowed || a.res.Status == api.StatusHeld, State: a.state(false), Duplicate: a.res.Duplicate,
		WaitMS: ceil(a.res.Wait, 1e3), Shadowed: a.res.Shadowed,
	}
	d.Source = a.set.SourceName()
	return d
}

// denial is a decision in the form of a problem document.
type denial struct {
	api.Decision
	*api.Problem
	Violated []string `json:"violated-policies"` // the limits that deny
}

// quotaExceeded is the problem type of a denial, and violated-policies its
// member, by draft-ietf-httpapi-ratelimit-headers.
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// respondTake answers a take, a denial with the status that the caller chose.
func (a *answer) respondTake(w http.ResponseWriter, r *http.Request, denied int) error {
	d := a.decision()
	a.setRateLimit(w.Header())
	if d.Allowed || denied == http.StatusOK {
		if a.kind.MakesHold() {
			respond(w, http.StatusOK, api.MediaJSON, a.withHold(d))
		} else {
			respondDecision(w, http.StatusOK, &d)
		}
		return nil
	}
	wait := a.res.Limits[a.res.Binding].RetryAfter
	w.Header().Set("Retry-After", strconv.FormatInt(ceil(wait, 1e6), 10))
	if denied != http.StatusTooManyRequests {
		respondDecision(w, denied, &d)
		return nil
	}
	format := "the limit %q of policy %q has %d of %d tokens left; the same take passes in %d ms"
	if a.set.Limits[a.res.Binding].Algorithm == api.Concurrency {
		format = "the limit %q of policy %q has %d of %d permits left; the same request passes in %d ms at the latest, if nobody renews"
	}
	p := api.NewProblem(api.QuotaExceeded, format,
		a.set.Limits[a.res.Binding].Name, d.Policy, d.Remaining, d.Limit, d.RetryAfterMS)
	p.Type = quotaExceeded
	p.Instance = r.URL.EscapedPath()
	p.RequestID = w.Header().Get(api.HeaderRequestID)
	full := denial{Decision: d, Problem: p}
	for i := range a.res.Limits {
		if a.res.Limits[i].RetryAfter > 0 {
			full.Violated = append(full.Violated, a.set.Limits[i].Name)
		}
	}
	respond(w, denied, api.MediaProblem, full)
	return nil
}

// setRateLimit sets the fields of draft-ietf-httpapi-ratelimit-headers: of each
// limit its quota q and the seconds w in which it fills or which a window lasts,
// and what is left, r,
// with the seconds t until it is full, or on a denial until the take passes.
func (a *answer) setRateLimit(h http.Header) {
	policies := make([]byte, 0, 64)
	states := make([]byte, 0, 64)
	for i := range a.res.Limits {
		l, info := &a.res.Limits[i], &a.set.Limits[i]
		if i > 0 {
			policies = append(policies, ", "...)
			states = append(states, ", "...)
		}
		policies = appendQuoted(policies, info.Name)
		policies = append(policies, ";q="...)
		policies = strconv.AppendInt(policies, info.Burst, 10)
		if info.Algorithm != api.Concurrency { // which fills when permits come back
			policies = append(policies, ";w="...)
			policies = strconv.AppendInt(policies, fillSeconds(info), 10)
		}
		wait := l.ResetAfter
		if a.res.Status == api.StatusDenied && l.RetryAfter > 0 {
			wait = l.RetryAfter
		}
		states = appendQuoted(states, info.Name)
		states = append(states, ";r="...)
		states = strconv.AppendInt(states, l.Remaining, 10)
		states = append(states, ";t="...)
		states = strconv.AppendInt(states, min(ceil(wait, 1e6), maxField), 10)
	}
	// Not by Set, which would write "Ratelimit".
	v := []string{string(policies), string(states)}
	h["RateLimit-Policy"], h["RateLimit"] = v[:1:1], v[1:]
}

// setXRateLimit sets the fields that many clients know from before the draft: of
// the limit that binds what it is, what is left, and the seconds until it is full,
// or on a denial until the take passes.
func (a *answer) setXRateLimit(h http.Header) {
	l, info := &a.res.Limits[a.res.Binding], &a.set.Limits[a.res.Binding]
	wait := l.ResetAfter
	if a.res.Status == api.StatusDenied && l.RetryAfter > 0 {
		wait = l.RetryAfter
	}
	// Not by Set, which would write "X-Ratelimit".
	h["X-RateLimit-Limit"] = []string{strconv.FormatInt(info.Burst, 10)}
	h["X-RateLimit-Remaining"] = []string{strconv.FormatInt(l.Remaining, 10)}
	h["X-RateLimit-Reset"] = []string{strconv.FormatInt(ceil(wait, 1e6), 10)}
}

// maxField is the largest integer of a structured field (RFC 9651, 3.3.1).
const maxField = 999_999_999_999_999

// longestMonth is what a window of a month tells as its length, in seconds.
const longestMonth = 31 * 24 * 3600

// fillSeconds is how long an empty bucket takes to fill, or how long a window
// lasts, rounded up.
func fillSeconds(l *api.LimitInfo) int64 {
	switch {
	case l.Algorithm == api.FixedWindow && l.Per == 0:
		return longestMonth
	case l.Algorithm != api.TokenBucket:
		return ceil(uint64(l.Per), uint64(time.Second))
	}
	hi, lo := bits.Mul64(uint64(l.Burst), uint64(l.Per))
	if l.Rate < 1 || hi >= uint64(l.Rate) {
		return maxField
	}
	ns, rem := bits.Div64(hi, lo, uint64(l.Rate))
	if rem > 0 && ns < math.MaxUint64 {
		ns++
	}
	return min(ceil(ns, uint64(time.Second)), maxField)
}

// appendQuoted appends s as a structured field's string, which is ASCII only.
func appendQuoted(dst []byte, s string) []byte {
	if s == "" {
		s = "default"
	}
	dst = append(dst, '"')
	for _, c := range []byte(s) {
		switch {
		case strings.IndexByte(`"\`, c) >= 0:
			dst = append(dst, '\\', c)
		case c >= ' ' && c <= '~':
			dst = append(dst, c)
		default:
			dst = append(dst, '?')
		}
	}
	return append(dst, '"')
}

// ceil is v in a coarser unit, rounded up.
func ceil(v, unit uint64) int64 {
	q := v / unit
	if v%unit != 0 {
		q++
	}
	return int64(min(q, math.MaxInt64))
}
