package raftnode

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A dead peer's errors, repeated by the library twice a second, stay one line
// at a level below.
func TestRaftsLogIsLoweredAndNotRepeated(t *testing.T) {
	var out bytes.Buffer
	l, seen := newRaftLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})).With("group", 3))
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
