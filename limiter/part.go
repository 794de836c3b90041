package limiter

import (
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// The states of a part. It begins queued and leaves that state once.
const (
	partQueued    uint32 = iota
	partSealed           // by the log: it is going into an entry, too late to withdraw
	partWithdrawn        // by the caller: its context ended, nothing was applied
	partRefused          // by the log: Done came without Seal
)

// Part is one caller's operations for one shard, on their way through its log.
//
// The log calls Seal right before it puts the part into an entry, and Done with
// the answer. It may call Done without Seal, to refuse. It does not touch the
// part after Done, nor after a Seal that returned false.
type Part struct {
	batch *api.Batch
	sets  []*policy.Set
	state atomic.Uint32

	// Written by Done before it signals, read after.
	reply []byte
	err   error

	signal chan struct{} // capacity 1: Done never blocks
}

// newPart makes a part. Parts are not pooled: one that was withdrawn or given up
// stays in the log's hands for as long as the log likes, and one a batch costs
// nothing beside its commit.
func newPart(b *api.Batch, sets []*policy.Set) *Part {
	return &Part{batch: b, sets: sets, signal: make(chan struct{}, 1)}
}

// Batch returns the operations; their policies index Sets.
func (p *Part) Batch() *api.Batch { return p.batch }

// Sets returns the resolved limits, one for each of Batch().Policies.
func (p *Part) Sets() []*policy.Set { return p.sets }

// Seal marks the part as going into an entry. False means that its caller has
// given up: leave it out, and do not call Done.
func (p *Part) Seal() bool { return p.state.CompareAndSwap(partQueued, partSealed) }

// Done delivers the answer. A part that was withdrawn before the log refused it
// has nobody to tell, and Done does nothing.
func (p *Part) Done(reply []byte, err error) {
	if p.state.Load() != partSealed && !p.state.CompareAndSwap(partQueued, partRefused) {
		return
	}
	p.reply, p.err = reply, err
	p.signal <- struct{}{}
}

// withdraw takes the part back. True means that nothing of it was or will be
// applied.
func (p *Part) withdraw() bool { return p.state.CompareAndSwap(partQueued, partWithdrawn) }
