package check

import (
	"container/list"

	"github.com/rlstore/rlstore/api"
)

// What a shard remembers of request ids and of sessions. The bounds are those
// that fsm/dedup.go and fsm/session.go document, in nanoseconds of cluster
// time; a shard's 256 MiB of unacknowledged answers are not counted here.
const (
	idWindow      = 5 * 60 * 1_000_000_000
	maxIDs        = 1 << 18
	sessionWindow = 10 * 60 * 1_000_000_000
	sessionIdle   = 2 * 60 * 1_000_000_000
	maxSessions   = 1 << 14
	maxAnswers    = 1024 // of one session
)

// idMemory remembers the last maxIDs operations that were decided under a
// request id, each for idWindow.
type idMemory struct {
	byID  map[string]rememberedID
	added int
	max   int // maxIDs; tests set less
}

type rememberedID struct {
	place *place
	n     int // how many were added before it
}

func newIDMemory() idMemory { return idMemory{byID: map[string]rememberedID{}, max: maxIDs} }

// recall returns the place of the first decision under op's id, or why the id
// can't be used for op, or neither if the id is not known.
func (m *idMemory) recall(op *logOp, now uint64) (*place, api.Code) {
	r, ok := m.byID[op.requestID]
	if op.requestID == "" || !ok || now-r.place.time >= idWindow || m.added-r.n > m.max {
		return nil, ""
	}
	// "A new revision of the policy is the same policy."
	if f := r.place.op; f.kind != op.kind || f.set.policy != op.set.policy || f.key != op.key || f.cost != op.cost {
		return nil, api.RequestIDReused
	}
	return r.place, ""
}

func (m *idMemory) add(p *place) {
	m.byID[p.op.requestID] = rememberedID{p, m.added}
	m.added++
}

// sessionMemory remembers the answers to the groups of sessions, as section 6.3
// of Ongaro's dissertation has it.
type sessionMemory struct {
	byID  map[[16]byte]*list.Element
	byUse *list.List // of *sessionState, the least recently used first
}

type sessionState struct {
	id    [16]byte
	last  uint64 // cluster time of the last use
	acked uint64
	first map[uint64]*place // by number: the first operation of the answered group
}

func newSessionMemory() sessionMemory {
	return sessionMemory{byID: map[[16]byte]*list.Element{}, byUse: list.New()}
}

// begin finds what to do with a group of a session: it was answered at first;
// or it fails with code; or, with neither, it is to be applied and then
// remembered in s.
func (m *sessionMemory) begin(g *logGroup, now uint64) (s *sessionState, first *place, code api.Code) {
	// "kept after its last use: 10 minutes of cluster time"
	for e := m.byUse.Front(); e != nil && now-e.Value.(*sessionState).last >= sessionWindow; e = m.byUse.Front() {
		m.drop(e)
	}
	e := m.byID[g.session]
	if e == nil {
		// "When there are as many, a new one takes the place of the least
		// recently used, if that is idle for SessionIdle."
		if len(m.byID) >= maxSessions {
			old := m.byUse.Front()
			if now-old.Value.(*sessionState).last < sessionIdle {
				return nil, nil, api.Overloaded
			}
			m.drop(old)
		}
		e = m.byUse.PushBack(&sessionState{id: g.session, first: map[uint64]*place{}})
		m.byID[g.session] = e
	}
	m.byUse.MoveToBack(e)
	s = e.Value.(*sessionState)
	s.last = now
	// "the state machine forgets those, and refuses to apply them ever again"
	s.acked = max(s.acked, g.acked)
	for seq := range s.first {
		if seq <= s.acked {
			delete(s.first, seq)
		}
	}
	switch first, known := s.first[g.seq]; {
	case g.seq <= s.acked:
		return nil, nil, api.SessionStale
	case known:
		return nil, first, ""
	case len(s.first) >= maxAnswers:
		return nil, nil, api.Overloaded
	}
	return s, nil, ""
}

func (m *sessionMemory) drop(e *list.Element) {
	delete(m.byID, e.Value.(*sessionState).id)
	m.byUse.Remove(e)
}
