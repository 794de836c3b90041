package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// print writes v as one JSON object, or calls table, as --output says.
func (a *app) print(v any, table func(w io.Writer)) error {
	if a.json() {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

// apiState is the client's state in the API's JSON shape.
func apiState(s client.State) api.State {
	out := api.State{
		Policy: s.Policy, Key: s.Key, Limit: s.Limit, Remaining: s.Remaining,
		RetryAfterMS: api.Millis(s.RetryAfter), ResetAfterMS: api.Millis(s.ResetAfter),
		Mode: s.Mode, Source: s.Source, PolicyRevision: s.PolicyRevision, Commit: s.Commit,
	}
	for _, l := range s.Limits {
		out.Limits = append(out.Limits, api.LimitState{
			Name: l.Name, Limit: l.Limit, Remaining: l.Remaining,
			RetryAfterMS: api.Millis(l.RetryAfter), ResetAfterMS: api.Millis(l.ResetAfter),
		})
	}
	return out
}

// writeState tells of a bucket in one line, and one more for each limit where
// there are several: "allowed  199 of 200 left, full in 10ms (policy api, …)".
func writeState(w io.Writer, verdict string, s api.State) {
	fmt.Fprint(w, verdict)
	if s.Limit > 0 { // else nobody counted: the rule is open
		fmt.Fprintf(w, "  %s", level(s.Remaining, s.Limit, s.RetryAfterMS, s.ResetAfterMS))
	}
	fmt.Fprintf(w, " (policy %s, revision %d", s.Policy, s.PolicyRevision)
	if s.Commit.Index > 0 { // else it is in no log
		fmt.Fprintf(w, ", shard %d index %d", s.Commit.Shard, s.Commit.Index)
	}
	fmt.Fprint(w, ")\n")
	if len(s.Limits) < 2 {
		return
	}
	for _, l := range s.Limits {
		row(w, "  "+l.Name, level(l.Remaining, l.Limit, l.RetryAfterMS, l.ResetAfterMS))
	}
}

func level(remaining, limit, retryMS, resetMS int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d left", remaining, limit)
	if retryMS > 0 {
		fmt.Fprintf(&b, ", retry in %s", span(retryMS))
	}
	if resetMS > 0 {
		fmt.Fprintf(&b, ", full in %s", span(resetMS))
	} else {
		b.WriteString(", full")
	}
	return b.String()
}

func span(ms int64) api.Duration { return api.Duration(time.Duration(ms) * time.Millisecond) }
