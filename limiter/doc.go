// Package limiter is the front door of rlstore: it turns a batch of operations
// into decisions, whichever node it arrives at.
//
// What a caller of [Limiter.Do] may rely on:
//
//  1. Everything is a batch. One operation or ten thousand, JSON or binary, the
//     path is the same: resolve each policy into numbers, check each operation,
//     find its slot and shard, and hand every shard its part.
//  2. Nothing unchecked reaches a log. A bad operation gets an error as its
//     result and leaves its neighbours alone; in an atomic batch it refuses all.
//  3. The three outcomes stay apart. An error is an [api.Problem] whose outcome
//     says whether anything may have been applied, and once one attempt was
//     unknown, no later attempt turns that into "not applied".
//  4. What was not applied is tried again, here, for as long as the caller's
//     context allows: elections and hand-overs of leadership are not the
//     caller's business. What is unknown is tried again only if the state
//     machine recognises the repetition.
//  5. A part goes to its shard's leader: to this node's own log, or over one
//     hop, never two, to the peer that leads.
//
// The usual batch lies in one shard and has nothing wrong with it. Its
// operations go to the log as the bytes that came in, and the log's answer
// goes back as the bytes that came out.
//
// The package knows neither Raft nor HTTP: it declares what it needs of a log
// ([Log]) and of the catalog ([Catalog]), and the server joins them.
package limiter
