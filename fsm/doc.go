// Package fsm holds the replicated state machines of rlstore. This page is the
// contract of [Buckets], the machine of one shard, which decides every take.
//
// The machine is pure: what it does follows from the entries it has applied
// and from nothing else. There is no clock in it, no float, no randomness, no
// goroutine, and no effect of the order of a Go map. Two machines that applied
// the same entries hold the same state and gave the same answers, whether or
// not one of them was restored from a snapshot on the way; what differs is
// only the layout in memory, which nothing can see.
//
// The caller does this:
//
//  1. It makes entries with [EntryWriter] (operations), [EncodeOwn] (which
//     slots the shard owns) or [EncodeTick] (nothing but time), stamps them with
//     cluster time as it seals them, and has Raft commit them.
//  2. It gives each committed entry to [Buckets.Apply] once, in the order of
//     the log, from one goroutine. Apply keeps nothing of the entry's bytes.
//     Applied.Replies holds one encoded reply for each group, that is for each
//     call of [EntryWriter.Add], in that order; the replies are the caller's.
//  3. When Apply returns an error it stops the replica. The entry was made by a
//     newer version, or is damaged; to skip it would be to diverge. The machine
//     refuses everything after it, and refuses to be captured.
//  4. For a snapshot it calls [Buckets.Capture] on the goroutine that applies,
//     [Capture.WriteTo] on any other, and [Capture.Release] in the end, also
//     after an error. Apply goes on meanwhile: it copies the pages that it
//     changes.
//  5. To restore it calls [Buckets.Restore], which replaces the state as a whole
//     or, on an error, not at all.
//  6. From any goroutine it may call [Buckets.PeekStale] and [Buckets.Stats].
//  7. While Stats shows buckets, request ids, sessions or holds and no operations
//     arrive, it proposes a tick now and then, so that what is over is dropped.
//
// The machine promises this:
//
//  1. Time is that of the entries, and it never goes back: a stamp behind the
//     last one counts as the last one.
//  2. An operation brings the numbers it is decided by, its [policy.Set]. The
//     machine knows no policies. A bucket is named by the set's policy and the
//     key; see bucket.go for what becomes of it when the numbers change.
//  3. A take charges all limits of its bucket or none. A denied take, a peek,
//     and an operation that fails change nothing.
//  4. An atomic group passes as a whole or charges nothing.
//  5. An operation on a slot that the shard does not own is refused, hence
//     applied nowhere.
//  6. An operation with a request id is applied once within [DedupWindow], and
//     a group of a session once within [SessionWindow] of the session's last
//     use; a repetition gets the first answer.
//  7. A hold, which is a reservation, a permit or a lease, is made once under its
//     id and settled once; see holds.go. No permit is given while as many live as
//     a concurrency limit of its bucket allows. What passes through a bucket and
//     the holders of its leases, taken together, keeps to its limits over every
//     interval; see leased.go.
//  8. Whatever it holds is bounded by a constant, but for the buckets; and of
//     those it drops each one that is full and has no holds, for a full bucket
//     and no bucket decide alike. The work of an entry is bounded by the
//     entry's size, not by the size of the state; but one that corrects the clock
//     takes out every lease that is overdue.
//  9. State that cannot be is put right where it is met: the bucket starts
//     afresh, and [Stats] counts it by [ResetReason].
package fsm
