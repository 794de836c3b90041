// Package lease spends tokens from memory: those of a lease that the store has
// charged, those of a bucket that is synced with the store now and then, and those
// of a local bucket for when there is no store. The Go client and the nodes use
// the same code.
//
// It is pure: it has no goroutine, no clock and no network. A driver tells it the
// time, in nanoseconds of a monotonic clock, never 0, and carries its questions:
//
//  1. NewTable makes a table. The driver sets [Config.Send], which takes an [Ask]
//     and gets it to the store in its own time, and [Config.Wake], which sees to
//     it that [Table.Tick] is called at some time.
//  2. [Table.Put] makes the entry of a key once its limits are known, such as from
//     the answer to its first take. [Table.Get] finds it; it allocates nothing and
//     takes no lock.
//  3. [Entry.Take] decides a take. Allowed and Denied are final. Store means that
//     the take is the store's to decide, as in mode strict: a lease would not pay,
//     or the cost is too large. Wait means that somebody, perhaps this very take,
//     has asked for a lease: wait for [Ask.Done], and then, if there is an
//     [Ask.Err], apply the failure rule, else call Take again. Others may have
//     been faster, so after a few rounds (three, say) send the take to the store.
//  4. For each ask the driver puts Ops, in order, into one batch for the shard of
//     the entry's key, under the policy [Entry.Policy]. It calls [Ask.Result] for
//     each result that is final, and [Ask.End] once nothing more will come: also
//     after a timeout, with a store that is away, and for an ask that it never
//     sent. Batches of a session make this exactly-once. Without one, an ask must
//     not be sent twice: let it end without a result; then what may have been
//     spent is charged (once more), and what may have been granted is given back.
//  5. What the store answers to other operations on the key goes to
//     [Entry.Learn]: from it an entry finds out that its policy has another mode.
//  6. [Table.Close] gives everything back: its asks go to Send as well, and the
//     driver waits for their End as long as it likes.
//
// # What holds
//
//   - A lease is spent at most as far as it was granted, and never from the time
//     on at which the store may let it expire: that is counted from before it was
//     asked for, and ends a 64th of its life early, for clocks that run apart. A
//     process whose clock stands still, such as one whose machine sleeps, may spend
//     later what it was granted; it is charged all the same.
//   - What is spent of a lease that ends here is told exactly, once the lease can
//     not be spent any more. Of a lease whose answer came too late, or never, that
//     is nothing.
//   - A denial is remembered until the store's own retry time, for a second at
//     most: so much later those who were denied may see a refund, a reset or an
//     edit. Those who are allowed see an edit when their lease ends.
//   - A lease without a take for half its life is given back within the next
//     quarter.
//   - With I processes that spend from one soft bucket, of burst B and rate r, and
//     the interval S of syncs, which includes the time that one takes, at most
//     (I-1)*(B+2rS) tokens pass beyond the limit, over any interval, while syncs
//     go through; of a window of rate R it is (I-1)*R a window. A soft bucket is kept
//     until it is full; a process that starts anew is another one.
package lease
