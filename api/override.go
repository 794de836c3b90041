package api

import "strings"

// MaxReason bounds the bytes of a reason and of an author's name.
const MaxReason = 256

// Override gives the keys that it matches other limits than their policy's.
//
// A key is matched by the override of that very key, else by the pattern with
// the longest prefix; only one override applies. Key is a pattern if it ends
// with '*': that '*' stands for any rest, also an empty one, and any other '*' for
// itself.
type Override struct {
	Key    string   `json:"key"`
	Limits []Limit  `json:"limits"` // in place of all of the policy's
	Reason string   `json:"reason,omitempty"`
	TTL    Duration `json:"ttl,omitempty"` // of a request: it goes away after that; 0 never

	// Set by the server.
	ExpiresInMS int64  `json:"expires_in_ms,omitempty"` // what is left of TTL, by the catalog's cluster time; 0 is for ever
	Author      string `json:"author,omitempty"`
	At          string `json:"at,omitempty"`       // wall clock of the node that took the request, RFC 3339
	Revision    uint64 `json:"revision,omitempty"` // of the policy, made by the last change of this override
}

// CutPattern tells a pattern from a key, and returns its prefix.
func CutPattern(key string) (prefix string, pattern bool) { return strings.CutSuffix(key, "*") }

// OverrideList answers GET /v1/policies/{name}/overrides: one page of them, in
// the order of their keys.
type OverrideList struct {
	Policy    string     `json:"policy"`
	Revision  uint64     `json:"revision"` // of the policy
	Overrides []Override `json:"overrides"`
	Total     int        `json:"total"`           // of the policy
	After     string     `json:"after,omitempty"` // there are more: ask again with ?after= this
}

// CheckNote says what is wrong with a reason or an author's name, or returns nil.
// The empty one is none, and fine.
func CheckNote(what, text string) error {
	if len(text) > MaxReason {
		return NewProblem(InvalidRequest, "the %s has %d bytes; the most is %d", what, len(text), MaxReason)
	}
	return checkText(what, text)
}
