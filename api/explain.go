package api

// ExplainRequest is the body of POST /v1/explain: a take that is not to happen.
type ExplainRequest struct {
	Policy string `json:"policy"`
	Key    string `json:"key"`
	Cost   *int64 `json:"cost,omitempty"` // nil is 1
}

// Explanation answers an [ExplainRequest]: what decides about the take, and what it
// would come to now. The state is as of its commit, as a peek's; of it, the limit
// that binds is the one that would deny.
type Explanation struct {
	Passes  bool   `json:"passes"` // the take would be allowed, whatever the enforcement is
	Cost    int64  `json:"cost"`
	State          // RetryAfterMS is after when it passes, 0 if never; its limits are always listed
	Binding string `json:"binding"` // name of the limit that binds

	Override *Override `json:"override"` // that applies to the key; null is none

	Enforcement        string `json:"enforcement"`         // that applies: the milder of the next two
	PolicyEnforcement  string `json:"policy_enforcement"`  // of the policy's document
	ClusterEnforcement string `json:"cluster_enforcement"` // of the whole cluster

	Slot   uint16  `json:"slot"`
	Shard  uint32  `json:"shard"`
	Leader *string `json:"leader"` // node id; null while there is none
}
