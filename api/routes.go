package api

// Route is one method and path of the HTTP API. The same table serves the
// router, the client and the documentation's test.
type Route struct {
	Name   string
	Method string
	Path   string // gorilla/mux template
	About  string
}

// Media types.
const (
	MediaJSON    = "application/json"
	MediaYAML    = "application/yaml"
	MediaProblem = "application/problem+json"
	MediaEvents  = "text/event-stream"
	MediaBatch   = "application/vnd.rlstore.batch"
)

// Headers that rlstore defines or leans on.
const (
	HeaderRequestID = "X-Request-Id"
	HeaderForward   = "X-Rlstore-Forward" // "never": answer not-leader instead of forwarding
	HeaderAuthor    = "X-Rlstore-Author"  // who edits, for a policy's history; as the caller tells it
	HeaderTimeout   = "X-Rlstore-Timeout" // how long the caller waits, as a Go duration; within that it hears what is known
	// HeaderSlotMap carries, on every binary answer, the slot map's version,
	// so that a client learns of a newer map without asking.
	HeaderSlotMap = "X-Rlstore-Slot-Map"
)

// PolicyName is the path pattern of a policy's name, with or without a
// namespace.
const PolicyName = `{name:[^/]+(?:/[^/]+)?}`

// Routes is every route of this version.
var Routes = []Route{
	{"take", "POST", "/v1/take", "one decision"},
	{"take-batch", "POST", "/v1/take/batch", "many decisions, in order"},
	{"peek", "POST", "/v1/peek", "a bucket's state"},
	{"refund", "POST", "/v1/refund", "give tokens back"},
	{"reset", "POST", "/v1/reset", "forget a bucket"},
	{"explain", "POST", "/v1/explain", "why a take would be decided as it would"},
	{"reserve", "POST", "/v1/reservations", "take an estimate, to be settled by what it comes to"},
	{"reservation-commit", "POST", "/v1/reservations/{id}/commit", "settle a reservation by its cost"},
	{"reservation-cancel", "POST", "/v1/reservations/{id}/cancel", "give a reservation back"},
	{"acquire", "POST", "/v1/permits", "take a slot of a concurrency limit for a time"},
	{"permit-renew", "POST", "/v1/permits/{id}/renew", "keep a permit for longer"},
	{"permit-release", "POST", "/v1/permits/{id}/release", "give a permit's slot back"},
	{"policy-list", "GET", "/v1/policies", "every policy"},
	{"policy-post", "POST", "/v1/policies", "create or replace a policy, under the name in its document"},
	// Before those of policies: behind a namespace these words are no policy's name.
	{"override-list", "GET", "/v1/policies/" + PolicyName + "/overrides", "the keys of a policy that have limits of their own"},
	{"override-put", "PUT", "/v1/policies/" + PolicyName + "/overrides", "add or replace one override"},
	{"override-delete", "DELETE", "/v1/policies/" + PolicyName + "/overrides", "remove one override"},
	{"policy-revisions", "GET", "/v1/policies/" + PolicyName + "/revisions", "the last changes of a policy"},
	{"policy-revert", "POST", "/v1/policies/" + PolicyName + "/revert", "bring an earlier document back"},
	{"policy-get", "GET", "/v1/policies/" + PolicyName, "one policy"},
	{"policy-put", "PUT", "/v1/policies/" + PolicyName, "create or replace a policy"},
	{"policy-delete", "DELETE", "/v1/policies/" + PolicyName, "delete a policy"},
	{"cluster", "GET", "/v1/cluster", "nodes, shards, leaders, slot map"},
	{"enforcement-get", "GET", "/v1/cluster/enforcement", "the switch of the whole cluster"},
	{"enforcement-put", "PUT", "/v1/cluster/enforcement", "make every policy milder, or end that"},
	{"member-add", "POST", "/v1/cluster/members", "add a node that runs"},
	{"member-remove", "DELETE", "/v1/cluster/members/{id}", "remove a node for good"},
	{"leader-transfer", "POST", "/v1/cluster/shards/{id}/transfer", "move a leader"},
	{"node-drain", "POST", "/v1/node/drain", "have the node that is asked lead nothing"},
	{"top", "GET", "/v1/top", "the heaviest keys"},
	{"events", "GET", "/v1/events", "what happens, as it happens"},
	{"livez", "GET", "/livez", "the process runs"},
	{"readyz", "GET", "/readyz", "the node can serve"},
	{"metrics", "GET", "/metrics", "Prometheus metrics"},
	{"version", "GET", "/v1/version", "the build"},
	{"openapi", "GET", "/openapi.yaml", "the description of all this"},
}

// Queries is the parameters of the query that each route knows, by the route's name;
// a route that is not in it knows none.
var Queries = map[string][]string{
	"take":            {"deny_status"},
	"peek":            {"consistency"},
	"reserve":         {"deny_status"},
	"acquire":         {"deny_status"},
	"policy-post":     {"reason"},
	"policy-put":      {"reason"},
	"policy-revert":   {"reason"},
	"override-list":   {"after", "limit"},
	"override-delete": {"key", "reason"},
	"enforcement-put": {"reason"},
	"top":             {"by", "n", "node"},
	"events":          {"follow", "past"},
	"livez":           {"verbose"},
	"readyz":          {"verbose"},
}
