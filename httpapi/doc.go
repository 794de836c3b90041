// Package httpapi is the HTTP edge of a node.
//
// It turns requests, JSON or binary, into batches for the limiter and replies
// into responses, and serves the catalog and the node's state. It decides
// nothing: a rule about limits, shards or leaders belongs below.
//
// Promises to callers:
//
//  1. The router serves exactly [api.Routes]. Everything else is a problem
//     document, as is every error: RFC 9457 with the fields of [api.Problem].
//  2. Every response carries X-Request-Id, and a problem carries it too. What is
//     no request to net/http is answered by that, without either.
//  3. Input is strict: a body with an unknown or repeated field, null, broken
//     UTF-8, or anything after its end is refused whole, with a detail that
//     names the field.
//  4. A denial is a 200. Other statuses of a take are asked for.
//  5. A request ends within its time and its memory: bodies, requests in
//     flight, and the time of each are bounded.
package httpapi
