package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// maxTags bounds the revisions of an If-Match: each is an attempt of its own.
const maxTags = 8

// etag is a revision as an entity tag.
func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// unchanged tells whether If-None-Match names the entity tag, by the weak
// comparison of RFC 9110, 8.8.3.2. What is not a list of tags names none.
func unchanged(r *http.Request, tag string) bool {
	lines := r.Header.Values("If-None-Match")
	if len(lines) == 0 {
		return false
	}
	star, tags, ok := entityTags(lines)
	return ok && (star || slices.ContainsFunc(tags, func(t string) bool { return strings.TrimPrefix(t, "W/") == tag }))
}

// answeredUnchanged gives the answer its ETag, and answers 304 if that is all that the
// caller needs.
func answeredUnchanged(w http.ResponseWriter, r *http.Request, revision uint64) bool {
	tag := etag(revision)
	w.Header()["ETag"] = []string{tag}
	if !unchanged(r, tag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// conditions reads the headers that guard an edit. Any one of those returned
// suffices.
func conditions(r *http.Request) ([]Condition, error) {
	match, none := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	switch {
	case len(match) > 0 && len(none) > 0:
		return nil, api.NewProblem(api.InvalidRequest, "give one of If-Match and If-None-Match")
	case len(none) > 0:
		if star, _, _ := entityTags(none); !star {
			return nil, api.NewProblem(api.InvalidRequest, "If-None-Match takes only * here: the policy must not exist yet")
		}
		return []Condition{{NoneMatch: true}}, nil
	case len(match) == 0:
		return []Condition{{}}, nil
	}
	star, tags, ok := entityTags(match)
	switch {
	case !ok:
		return nil, api.NewProblem(api.InvalidRequest, `If-Match takes revisions in quotes, such as "7", or *`)
	case star:
		return []Condition{{AnyMatch: true}}, nil
	}
	var revisions []uint64
	for _, t := range tags {
		// A weak tag matches nothing here: the comparison is the strong one.
		if v, err := strconv.ParseUint(strings.Trim(t, `"`), 10, 64); err == nil && etag(v) == t {
			revisions = append(revisions, v)
		}
	}
	slices.Sort(revisions)
	revisions = slices.Compact(revisions)
	switch n := len(revisions); {
	case n == 0:
		return nil, api.NewProblem(api.RevisionConflict, "If-Match: %.80s is not a revision that a policy can have", strings.Join(match, ", "))
	case n > maxTags:
		return nil, api.NewProblem(api.InvalidRequest, "If-Match takes at most %d revisions, not %d", maxTags, n)
	}
	var conds []Condition
	for i := range revisions {
		conds = append(conds, Condition{IfMatch: &revisions[len(revisions)-1-i]}) // the newest is the likeliest
	}
	return conds, nil
}

// firstThat calls edit with one condition after the other until one does not fail.
func firstThat(conds []Condition, edit func(Condition) error) error {
	var err error
	for _, c := range conds {
		if err = edit(c); err == nil || api.AsProblem(err).Code != api.RevisionConflict {
			return err
		}
	}
	return err
}

// entityTags reads the field lines of a "#entity-tag" or "*" (RFC 9110, 13.1.1):
// star stands for *, and ok is false for anything else. Weak tags keep their W/.
func entityTags(lines []string) (star bool, tags []string, ok bool) {
	rest := strings.Join(lines, ",")
	if strings.Trim(rest, " \t") == "*" {
		return true, nil, true
	}
	for {
		rest = strings.TrimLeft(rest, " \t,") // a list may have empty elements
		if rest == "" {
			return false, tags, len(tags) > 0
		}
		weak := ""
		if after, ok := strings.CutPrefix(rest, "W/"); ok {
			weak, rest = "W/", after
		}
		if rest == "" || rest[0] != '"' {
			return false, nil, false
		}
		end := 1 + strings.IndexByte(rest[1:], '"')
		if end == 0 || strings.ContainsAny(rest[:end], " \t") {
			return false, nil, false
		}
		tags = append(tags, weak+rest[:end+1])
		rest = strings.TrimLeft(rest[end+1:], " \t")
		if rest != "" && rest[0] != ',' {
			return false, nil, false
		}
	}
}
