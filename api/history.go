package api

// The kinds of changes of a policy.
const (
	PolicyCreated    = "created"
	PolicyEdited     = "edited"
	PolicyReverted   = "reverted"
	OverrideSet      = "override-set"
	OverrideRemoved  = "override-removed"
	OverridesExpired = "overrides-expired"
)

// PolicyRevision is one change of a policy or of its overrides.
type PolicyRevision struct {
	Revision uint64 `json:"revision"`
	Change   string `json:"change"`
	TimeNS   uint64 `json:"time_ns"`          // cluster time of the catalog
	At       string `json:"at,omitempty"`     // wall clock of the node that took the request, RFC 3339
	Author   string `json:"author,omitempty"` // as the request told it
	Reason   string `json:"reason,omitempty"`

	Document   *Policy `json:"document,omitempty"`    // as stored; not of a change of overrides
	RevertedTo uint64  `json:"reverted_to,omitempty"` // of a revert: the revision whose document it took
	Override   string  `json:"override,omitempty"`    // key or pattern that was set or removed
	Expired    int     `json:"expired,omitempty"`     // overrides that went away by their time
}

// RevisionList answers GET /v1/policies/{name}/revisions, the newest first.
type RevisionList struct {
	Policy    string           `json:"policy"`
	Revision  uint64           `json:"revision"` // the present one
	Revisions []PolicyRevision `json:"revisions"`
}

// RevertRequest is the body of POST /v1/policies/{name}/revert.
type RevertRequest struct {
	Revision uint64 `json:"revision"`
}

// What a policy's limits do, from the mildest to the strictest.
const (
	EnforcementOff     = "off"     // nothing: takes are allowed, and not counted
	EnforcementShadow  = "shadow"  // count, and allow what they would deny
	EnforcementEnforce = "enforce" // deny
)

// Enforcement is the switch of the whole cluster, the body of PUT and the answer
// of GET /v1/cluster/enforcement. It makes policies milder, never stricter.
type Enforcement struct {
	Enforcement string `json:"enforcement"`

	// Of the last change; set by the server.
	Author   string `json:"author,omitempty"`
	Reason   string `json:"reason,omitempty"`
	At       string `json:"at,omitempty"`       // wall clock of the node that took the request, RFC 3339
	Revision uint64 `json:"revision,omitempty"` // of the catalog
}

// Milder returns the milder of two enforcements. What it does not know counts as
// [EnforcementEnforce].
func Milder(a, b string) string {
	for _, e := range []string{EnforcementOff, EnforcementShadow} {
		if a == e || b == e {
			return e
		}
	}
	return EnforcementEnforce
}
