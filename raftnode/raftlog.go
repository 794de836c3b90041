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
// go one level down, and the same message shows once in ten seconds.
type raftLog struct {
	slog.Handler
	seen *seenMessages
}

type seenMessages struct {
	mu     sync.Mutex // guards the next two
	last   map[string]time.Time
	closed bool // the group is closing: its broken connections are no news
}

func (s *seenMessages) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// newRaftLog returns the library's logger; closing seen silences it.
func newRaftLog(l *slog.Logger) (_ *slog.Logger, seen *seenMessages) {
	seen = &seenMessages{last: map[string]time.Time{}}
	return slog.New(raftLog{l.Handler(), seen}), seen
}

// lower is the level under which a record of the library is logged.
func lower(l slog.Level) slog.Level { return l - 4 }

// Enabled implements slog.Handler.
func (h raftLog) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(l))
}

// Handle implements slog.Handler.
func (h raftLog) Handle(ctx context.Context, r slog.Record) error {
	h.seen.mu.Lock()
	last, ok := h.seen.last[r.Message]
	repeated := ok && r.Time.Sub(last) < repeatAfter || h.seen.closed
	if !repeated {
		h.seen.last[r.Message] = r.Time
	}
	h.seen.mu.Unlock()
	if repeated {
		return nil
	}
	r.Level = lower(r.Level)
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
