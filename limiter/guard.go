package limiter

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/rlstore/rlstore/api"
)

// guardIDs is how many request ids a node remembers at least; at most it is
// twice as many, some 15 MB.
const guardIDs = 65_536

// guard refuses a request id that comes again with another kind, policy, key or
// cost, before it reaches a log.
//
// A shard's state machine does so itself inside its de-duplication window, but
// it cannot see an id that was used in another shard. The guard closes that
// gap as far as one node can see: an operation is refused if this node saw its
// id with other content among the last [guardIDs] distinct ids that it saw, be
// it as the node that was asked or as the leader that it was forwarded to. So
// reuse over two shards is let through only if the two requests met no common
// node, or so many ids lie between them. That is safe: each is then charged as
// the different request it is.
//
// An id counts as used from when it was first seen, whatever became of the
// request.
type guard struct {
	seed maphash.Seed // fingerprints are compared on this node only
	ids  *generations[uint64]
}

func newGuard(size int) *guard {
	return &guard{seed: maphash.MakeSeed(), ids: newGenerations[uint64](size)}
}

// check notes an operation that has a request id, or refuses it.
func (g *guard) check(op *api.Op, policy string) *api.Problem {
	f := g.fingerprint(op, policy)
	if had, ok := g.ids.add(op.RequestID, f); ok && had != f {
		return api.NewProblem(api.RequestIDReused,
			"request_id %q was used before with another kind, policy, key or cost", op.RequestID)
	}
	return nil
}

func (g *guard) fingerprint(op *api.Op, policy string) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(op.Cost))
	h.Write(n[:])
	h.WriteByte(byte(op.Kind))
	binary.LittleEndian.PutUint64(n[:], uint64(len(op.Key)))
	h.Write(n[:])
	h.WriteString(op.Key)
	h.WriteString(policy)
	return h.Sum64()
}
