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
// An id counts as used from when it was first seen. If its request was refused, so
// that nothing was applied, it is free again.
type guard struct {
	seed maphash.Seed // fingerprints are compared on this node only
	ids  *generations[uint64]
}

func newGuard(size int) *guard {
	return &guard{seed: maphash.MakeSeed(), ids: newGenerations[uint64](size)}
}

// usedID is an id that was noted for operation at of a batch, whose memory it aliases.
type usedID struct {
	at    int
	id    string
	print uint64
}

// check notes operation at of a batch, which has a request id, or refuses it. An id
// that was not known is added to used.
func (g *guard) check(used []usedID, at int, op *api.Op, policy string) ([]usedID, *api.Problem) {
	f := g.fingerprint(op, policy)
	switch had, ok := g.ids.add(op.RequestID, f); {
	case !ok:
		return append(used, usedID{at, op.RequestID, f}), nil
	case had != f:
		return used, api.NewProblem(api.RequestIDReused,
			"request_id %q was used before with another kind, policy, key or cost", op.RequestID)
	}
	return used, nil
}

// forget frees ids whose operations were not applied.
func (g *guard) forget(used []usedID) {
	for _, u := range used {
		g.ids.remove(u.id, u.print)
	}
}

// conclude frees those of used whose operations were refused: all by err, or those
// that have such a result in reply.
func (g *guard) conclude(used []usedID, reply []byte, err error) {
	if len(used) == 0 {
		return
	}
	if err != nil {
		if api.AsProblem(err).Outcome == api.NotApplied {
			g.forget(used)
		}
		return
	}
	r, err := api.DecodeReply(reply)
	if err != nil {
		return
	}
	var res api.Result
	for at := 0; len(used) > 0; at++ {
		if ok, err := r.Next(&res); !ok || err != nil {
			return
		}
		if at != used[0].at {
			continue
		}
		if res.Status == api.StatusError && res.Code.Info().Outcome == api.NotApplied {
			g.forget(used[:1])
		}
		used = used[1:]
	}
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
