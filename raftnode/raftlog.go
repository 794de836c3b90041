package raftnode

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// repeatAfter is how long the same message of one group stays unrepeated.
const repeatAfter = 10 * time.Second

// raftLog is a handler for what the Raft library logs of one group. The library
// warns of every election and reports every heartbeat to a dead peer as an
// error, in each group; we say ourselves what an operator needs. So its records
// go one level down, what is ordinary two, and the same message shows once in ten
// seconds.
type raftLog struct {
	slog.Handler
	seen *seenMessages
}

type seenMessages struct {
	leaving func() bool // the node hands its leaderships over, as others may do

	mu     sync.Mutex // guards the next two
	last   map[seenMessage]time.Time
	closed bool // the group is closing: its broken connections are no news
}

// seenMessage has the level, so that an ordinary one does not hide its like.
type seenMessage struct {
	text  string
	level slog.Level
}

func (s *seenMessages) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// newRaftLog returns the library's logger, on a node of which leaving tells whether it
// stops; closing seen silences it.
func newRaftLog(l *slog.Logger, leaving func() bool) (_ *slog.Logger, seen *seenMessages) {
	seen = &seenMessages{leaving: leaving, last: map[seenMessage]time.Time{}}
	return slog.New(raftLog{l.Handler(), seen}), seen
}

// lower is the level under which a record of the library is logged.
func lower(l slog.Level) slog.Level { return l - 4 }

// callFailed are the library's messages about a call that failed with an error.
var callFailed = map[string]bool{
	"failed to appendEntries to":              true,
	"failed to pipeline appendEntries":        true,
	"failed to start pipeline replication to": true,
	"failed to heartbeat to":                  true,
	"failed to make requestVote RPC":          true,
}

// isOrdinary tells whether the library says what each planned move of a leadership, or
// each stop of a peer, brings about: a leader hears of the next one, or a connection
// ends. A peer that is in trouble fails the next call as well, and by other errors.
func isOrdinary(r slog.Record) (yes bool) {
	if r.Message == "peer has newer term, stopping replication" {
		return true
	}
	if callFailed[r.Message] {
		r.Attrs(func(a slog.Attr) bool {
			err, ok := a.Value.Any().(error)
			yes = yes || ok && hasEnded(err)
			return !yes
		})
	}
	return yes
}

// Enabled implements slog.Handler.
func (h raftLog) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(l))
}

// Handle implements slog.Handler.
func (h raftLog) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	if isOrdinary(r) || callFailed[r.Message] && h.seen.leaving() {
		r.Level = lower(r.Level)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	message := seenMessage{r.Message, r.Level}
	h.seen.mu.Lock()
	last, ok := h.seen.last[message]
	repeated := ok && r.Time.Sub(last) < repeatAfter || h.seen.closed
	if !repeated {
		h.seen.last[message] = r.Time
	}
	h.seen.mu.Unlock()
	if repeated {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h raftLog) WithAttrs(a []slog.Attr) slog.Handler {
	return raftLog{h.Handler.WithAttrs(a), h.seen}
}

// WithGroup implements slog.Handler.
func (h raftLog) WithGroup(name string) slog.Handler {
	return raftLog{h.Handler.WithGroup(name), h.seen}
}
