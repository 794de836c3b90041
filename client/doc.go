// Package client is the Go client of rlstore.
//
//	c, err := client.New([]string{"http://127.0.0.1:8101"})
//	d, err := c.Take(ctx, "api", "user:42", 1)
//	if err == nil && !d.Allowed {
//		// come back after d.RetryAfter
//	}
//
// It imports the standard library and the api package only. One Client serves
// a whole process: it is safe for concurrent use, and the more goroutines share
// it, the cheaper a take gets.
//
// What it does for its caller:
//
//  1. Concurrent calls travel together. Calls for keys of the same shard join
//     the batch that waits while one is on its way there (see
//     [WithMaxInFlight]). There is no timer in this: a lone take leaves at once,
//     and batches grow by themselves as the store gets busier.
//  2. It goes straight to the leader. It learns the slot map and the leaders
//     from GET /v1/cluster of any node, follows not-leader answers, and looks
//     again when a connection breaks or a newer slot map shows up. A leader
//     that it cannot reach itself it reaches through the other nodes.
//  3. It charges exactly once. Every batch has a number in a session of its
//     lane, under which the store recognises a repetition and gives the first
//     answer again. So whatever may have been applied is repeated under its
//     number, and what certainly was not is simply tried again, until the
//     context ends.
//  4. It tells the three outcomes apart: an answer; [ErrUnavailable], nothing
//     was applied and nothing will be; [ErrOutcomeUnknown], it may have been.
//     Every error that carries neither of the two applied nothing.
//
// A denial is an answer and not an error.
//
// # Time
//
// No clock of the client takes part in a decision: the store refills buckets by
// its own cluster time. Durations in answers are remaining times as of the
// commit, which is a network delay ago when they arrive.
//
// # Limits of the promises
//
// The store keeps a session for ten minutes after its last use. The client
// gives up repeating a batch of unknown outcome long before, 60 seconds after
// it first left, and reports [ErrOutcomeUnknown]. It does the same when the
// slots of such a batch move to another shard, which could not recognise it.
package client
