package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

// A dead peer's errors, repeated by the library twice a second, stay one line
// at a level below.
func TestRaftsLogIsLoweredAndNotRepeated(t *testing.T) {
	var out bytes.Buffer
	l, seen := newRaftLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})).With("group", 3), func() bool { return false })
	for range 10 {
		l.With("peer", "n2").Error("failed to heartbeat")
	}
	l.Warn("heartbeat timeout reached, starting election")
	l.Info("entering follower state")
	seen.close()
	l.Error("failed to decode incoming command")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), out.String())
	}
	for i, want := range []string{"level=WARN msg=\"failed to heartbeat\" group=3 peer=n2", "level=INFO msg=\"heartbeat timeout"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, want %q in it", i, lines[i], want)
		}
	}
}

// What each planned move or stop brings about is no warning, and does not hide one.
func TestOrdinaryRecordsOfRaftAreNoWarnings(t *testing.T) {
	var out bytes.Buffer
	leaving := true
	l, _ := newRaftLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), func() bool { return leaving })
	l.Error("failed to heartbeat to", "peer", "n2", "error", errors.New("connection refused"))
	leaving = false
	l.Error("peer has newer term, stopping replication", "peer", "n2")
	l.Error("failed to appendEntries to", "peer", "n2", "error", fmt.Errorf("read: %w", io.EOF))
	if out.Len() > 0 {
		t.Errorf("a warning of what is ordinary: %s", &out)
	}
	l.Error("failed to appendEntries to", "peer", "n2", "error", errors.New("i/o timeout"))
	l.Error("failed to get log", "error", io.ErrUnexpectedEOF)
	l.Error("failed to read metadata", "error", io.EOF)
	if got := strings.Count(out.String(), "level=WARN"); got != 3 {
		t.Errorf("%d warnings, want 3:\n%s", got, &out)
	}
}
