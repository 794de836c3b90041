package fsm

import (
	"bytes"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// Bounds of the memory for client sessions, each shard's.
const (
	// SessionWindow is how long a session is kept after its last use: 10
	// minutes of cluster time, in nanoseconds. A retry that comes later is
	// taken for a new session.
	SessionWindow = 10 * 60 * 1_000_000_000
	// MaxSessions is how many are kept. When there are as many, a new one takes
	// the place of the least recently used, if that is idle for SessionIdle.
	MaxSessions = 1 << 14
	SessionIdle = 2 * 60 * 1_000_000_000 // nanoseconds
	// MaxSessionReplies is how many answers of one session are kept, and
	// MaxSessionBytes how many bytes of answers of all sessions. A session that
	// would go beyond gets overloaded until it acknowledges some.
	MaxSessionReplies = 1024
	MaxSessionBytes   = 256 << 20
)

// session is a client's memory in the shard, as in section 6.3 of Ongaro's
// dissertation.
//
// Invariant: acked < replies[0].seq < replies[1].seq and so on.
type session struct {
	epoch   uint64 // of sessions.cow; older than a capture: copy before a change
	id      [16]byte
	last    uint64 // stamp of the last use
	acked   uint64 // no answer up to this number is wanted any more
	replies []storedReply
}

// storedReply is the answer to one group. Its bytes are never changed.
type storedReply struct {
	seq   uint64
	reply []byte
}

// sessions holds the sessions in the order of their last use, which is also
// that of their stamps.
type sessions struct {
	byID     map[[16]byte]*sessionNode
	old, new *sessionNode // least and most recently used
	bytes    int          // of all replies
	cow      *cow

	max, maxReplies, maxBytes int // the constants if 0; tests set less
}

type sessionNode struct {
	*session
	older, newer *sessionNode
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// begin finds or makes the session of a group, and takes note of what it
// acknowledges. It returns the stored answer if there is one; else an error if
// the group must not be applied; else the session to store the answer in.
func (t *sessions) begin(g *api.Session, now uint64) (*session, []byte, opError) {
	n := t.byID[g.ID]
	if n != nil && expired(n.last, now, SessionWindow) {
		t.drop(n)
		n = nil
	}
	if n == nil {
		if len(t.byID) >= orDefault(t.max, MaxSessions) && !t.makeRoom(now) {
			return nil, nil, opError{api.Overloaded, "the shard keeps as many sessions as it can"}
		}
		n = t.add(&session{epoch: t.cow.epoch, id: g.ID})
	} else {
		t.unlink(n)
		t.own(n)
		t.link(n)
	}
	s := n.session
	s.last = now
	t.ack(s, g.Acked)
	if g.Seq <= s.acked {
		return nil, nil, opError{api.SessionStale, "the session has acknowledged the answer to this sequence number"}
	}
	i, found := s.search(g.Seq)
	if found {
		return nil, s.replies[i].reply, opError{}
	}
	if len(s.replies) >= orDefault(t.maxReplies, MaxSessionReplies) {
		return nil, nil, opError{api.Overloaded, "the session has too many answers that it did not acknowledge"}
	}
	for t.bytes >= orDefault(t.maxBytes, MaxSessionBytes) {
		if t.old == n || !t.makeRoom(now) {
			return nil, nil, opError{api.Overloaded, "the shard keeps as many answers of sessions as it can"}
		}
	}
	return s, nil, opError{}
}

// add adds a session as the most recently used.
func (t *sessions) add(s *session) *sessionNode {
	n := &sessionNode{session: s}
	t.byID[s.id] = n
	t.link(n)
	return n
}

// store keeps a copy of the answer to seq: reply shares its memory with the
// whole entry's.
func (t *sessions) store(s *session, seq uint64, reply []byte) {
	i, _ := s.search(seq)
	s.replies = slices.Insert(s.replies, i, storedReply{seq, bytes.Clone(reply)})
	t.bytes += len(reply)
}

func (s *session) search(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(s.replies, seq, func(r storedReply, seq uint64) int {
		switch {
		case r.seq < seq:
			return -1
		case r.seq > seq:
			return 1
		}
		return 0
	})
}

// ack raises the floor and frees what is below.
func (t *sessions) ack(s *session, acked uint64) {
	s.acked = max(s.acked, acked)
	n := 0
	for n < len(s.replies) && s.replies[n].seq <= s.acked {
		t.bytes -= len(s.replies[n].reply)
		n++
	}
	s.replies = slices.Delete(s.replies, 0, n)
}

// makeRoom drops the least recently used session if it is idle.
func (t *sessions) makeRoom(now uint64) bool {
	if t.old == nil || !expired(t.old.last, now, SessionIdle) {
		return false
	}
	t.drop(t.old)
	return true
}

// expire drops at most budget sessions that are over the window.
func (t *sessions) expire(now uint64, budget int) {
	for ; budget > 0 && t.old != nil && expired(t.old.last, now, SessionWindow); budget-- {
		t.drop(t.old)
	}
}

func (t *sessions) drop(n *sessionNode) {
	t.unlink(n)
	delete(t.byID, n.id)
	for _, r := range n.replies {
		t.bytes -= len(r.reply)
	}
}

// own makes n's session safe to change while a capture reads it.
func (t *sessions) own(n *sessionNode) {
	if n.epoch < t.cow.shared {
		s := *n.session
		s.epoch, s.replies = t.cow.epoch, slices.Clone(s.replies)
		n.session = &s
	}
}

// link makes n the most recently used.
func (t *sessions) link(n *sessionNode) {
	n.older, n.newer = t.new, nil
	if t.new != nil {
		t.new.newer = n
	} else {
		t.old = n
	}
	t.new = n
}

func (t *sessions) unlink(n *sessionNode) {
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		t.old = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		t.new = n.older
	}
}

// list returns the sessions, least recently used first, to a capture.
func (t *sessions) list() []*session {
	l := make([]*session, 0, len(t.byID))
	for n := t.old; n != nil; n = n.newer {
		l = append(l, n.session)
	}
	return l
}
