package api

// The kinds of events.
const (
	EventLeader      = "leader"      // a shard has another leader, or none
	EventPolicy      = "policy"      // a policy or its overrides changed
	EventEnforcement = "enforcement" // the switch of the whole cluster was set
	EventDrain       = "drain"       // a node hands over what it leads, and leads nothing
	EventMember      = "member"      // a node joined or was removed

	EventGap  = "gap"  // of a stream that can't go on where it was asked to: events may be missing
	EventSlow = "slow" // the last of a stream whose reader fell too far behind
)

// Event is one event of GET /v1/events, as one node saw it.
type Event struct {
	Type string `json:"type"`
	At   string `json:"at,omitempty"` // wall clock of the node that answers, RFC 3339

	Shard    *uint32 `json:"shard,omitempty"`    // of leader
	Node     string  `json:"node,omitempty"`     // of leader, if there is one; of drain and member
	Term     uint64  `json:"term,omitempty"`     // of leader
	Policy   string  `json:"policy,omitempty"`   // of policy
	Change   string  `json:"change,omitempty"`   // of policy, as in its history, or deleted; of member: joined, removed; of drain: begun, ended; of enforcement: what it is now
	Override string  `json:"override,omitempty"` // of policy: the key or pattern that was set or removed
	Revision uint64  `json:"revision,omitempty"` // of policy and enforcement
}
