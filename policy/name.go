package policy

import (
	"slices"
	"strings"

	"github.com/rlstore/rlstore/api"
)

const nameRule = "it needs 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit"

// reserved can't follow a namespace: /v1/policies/ns/overrides is the address of
// the overrides of policy ns.
var reserved = []string{"overrides", "revisions", "revert"}

// CheckName says what is wrong with a policy's name, with or without a
// namespace, as an [api.InvalidRequest] problem, or returns nil.
func CheckName(name string) error {
	if wrong := wrongName(name); wrong != "" {
		return api.NewProblem(api.InvalidRequest, "the policy name %s %s", quote(name), wrong)
	}
	return nil
}

// wrongName says what is wrong with a name, as the end of a sentence that begins with
// it; "" is nothing.
func wrongName(name string) string {
	ns, rest, ok := strings.Cut(name, "/")
	switch {
	case ok && slices.Contains(reserved, rest):
		return "is reserved: its address would be that of a policy's " + rest
	case !validPart(ns) || ok && !validPart(rest):
		return "is not valid: " + nameRule + "; one namespace of the same form and a '/' may precede it"
	}
	return ""
}

// validPart matches [a-z0-9][a-z0-9._-]{0,63}.
func validPart(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}
