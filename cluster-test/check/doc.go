// Package check says whether a history of what callers saw can be the work of
// a correct rlstore: one in which nothing is forgotten, charged twice, or
// admitted beyond the bound.
//
// It is given what each caller asked and was told ([History]) and what each
// node's state machines applied ([Replica]), both written by recorders that
// judge nothing, and shares no code with the store but the names and bounds of
// package api: it has its own decoder of log entries and its own limits: the token
// bucket in big integers, and the windows, by a calendar of its own. [Check] reports every [Violation].
//
// What is checked:
//
//  1. Replicas agree. An index of a group has the same bytes and term wherever
//     and however often it is applied; one process applies indexes in ascending
//     order; terms do not go back along a log.
//  2. Every entry is as documented, and each shard's log is replayed through an
//     oracle, in which every rule has the words that it follows beside it.
//  3. An answer that names a place in a log is the oracle's at that place, in
//     every field, and is about the operation that stands there. A duplicate
//     has the answer and the place of the first decision.
//  4. An answered operation is in the log: its place exists, and a reset, whose
//     answer names none, has one to itself between its call and its return.
//     What was asked as one atomic batch stands as one.
//  5. An applied operation was asked for: it has the answer that names it, or
//     a request of which nobody knows the outcome, which explains one operation
//     at most, and none from before its call. So whatever was said not to be
//     applied is not in the log. A node sends again what is known by the id of a
//     reservation or a permit: one request explains every place with its id.
//  6. No request id is decided twice within its window, and no number of a
//     session: the oracle remembers both, and knows a repetition. So it does with the
//     ids of holds, those that live and those that have ended.
//  7. Real time is the order of the log: what returned before something else
//     was called stands before it in its shard.
//  8. Cluster time does not go back along a log, and between two places no
//     more of it passes than on the recorder's clock, [Input.Slack] and
//     [Input.DriftPPM] aside.
//  9. In no interval a limit admits more than burst + rate*elapsed/per, what was
//     given back aside: counted from the answers alone, by cluster time and by
//     the recorder's clock, for every interval between two admissions of a
//     bucket under one revision and without a reset. Who waits acts when the wait
//     ends. A limit of windows admits at most its rate in each: of a fixed one by
//     the time of day that the shard's log gives, of a sliding one aligned to
//     cluster time. A lease and a reservation count when they are given, less what comes
//     back of them. There are never more permits than slots: by cluster time, and by
//     the recorder's clock, from the answers alone, without a log.
//  10. The catalog's log holds each edit that was answered, as it was answered,
//     and edits of a policy have revisions in the order of real time. The limits
//     in the shards' logs are those of the catalog at that revision. Operations
//     decided by a policy that was edited before they were called are counted.
//  11. What was seen of each key with few operations under one revision is
//     linearizable: some order of them, consistent with real time, makes token
//     buckets answer so. This looks at no log, and leaves keys alone that have
//     windows, takes that waited, denials in shadow, holds or syncs, or whose policy
//     was off.
//  12. What no log decided is let decide by its policy: spent from memory under the
//     modes leased and soft, by a failure rule if the policy has that one. What
//     callers spent from a lease is at most what its place in the log charged, less
//     what its holder gave back, and none of it after it expired. Over every interval
//     in which takes of a bucket were called and returned, leased ones with those of
//     the log admit no more than the limit, and soft ones the bound of
//     docs/consistency.md more, for [Input.Instances]. Under these modes leases, their
//     ends and syncs need nobody who asked. Keys that were refunded or reset are left
//     out of the intervals.
//
// What is assumed:
//
//  1. The history begins with the cluster, and holds every request that may
//     have been applied, and every edit of which it is told that it returned.
//  2. For each command that was applied anywhere, some replica in the input has
//     its entry. Indexes cannot tell: Raft's own entries leave gaps. If the
//     recorders of all replicas that applied an entry lost it, what it did looks
//     like a charge that was lost.
//  3. The recorder's clock is one, and does not jump. A caller's Call is taken
//     before it sends anything, its Return after it has the answer.
//  4. An operation that is sent again is one operation in the history if its
//     sender is one (see [Op]). Two senders that use one request id are two.
//  5. Who was answered by memory or by a failure rule had [Answer.Source] recorded.
//     A soft, open or local answer may come after a request that got none, which
//     then may have been applied once.
//  6. Limits that came with a request have the policy's name "" or the name
//     that the store gives them, which begins with "inline:".
//
// What it cannot see:
//
//  1. Which of two requests without an answer was applied, if both could be.
//  2. When the store drops a full bucket. It matters only if a router that is
//     behind brings an older revision; then either answer passes.
//  3. Whether the shard held windows of the calendar, and so slewed its time of
//     day, when no bucket is sure to have one: then either time passes, until an
//     answer tells.
//  4. The bound on the bytes of unacknowledged answers of sessions, 256 MiB of a
//     shard, beyond which the store refuses groups.
//  5. The bounds on how many holds a shard and a bucket have, beyond which the store
//     refuses more.
//  6. Whether a refusal is right: it names no place. If it was not, what was refused
//     stands in the log as done, and that is found.
//  7. What failure rules let through: it is counted, and has no bound over several
//     outages.
//  8. Stored state that no later operation looks at, such as a request id that
//     is forgotten and never repeated.
package check
