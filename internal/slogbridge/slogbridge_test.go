package slogbridge

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// record returns a logger and what it has written, without the times.
func record(level slog.Level) (hclog.Logger, func() string) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return New(slog.New(h)), func() string { defer out.Reset(); return out.String() }
}

func TestARecordKeepsItsLevelMessageAndPairs(t *testing.T) {
	l, written := record(LevelTrace)
	for _, tt := range []struct {
		name string
		log  func()
		want string
	}{
		{"trace", func() { l.Trace("m", "k", 1) }, "level=DEBUG-4 msg=m k=1\n"},
		{"debug", func() { l.Debug("m") }, "level=DEBUG msg=m\n"},
		{"info", func() { l.Info("m") }, "level=INFO msg=m\n"},
		{"warn", func() { l.Warn("m") }, "level=WARN msg=m\n"},
		{"error", func() { l.Error("m", "error", errors.New("bad luck")) }, "level=ERROR msg=m error=\"bad luck\"\n"},
		{"no level", func() { l.Log(hclog.NoLevel, "m") }, "level=INFO msg=m\n"},
		{"off", func() { l.Log(hclog.Off, "m") }, ""},
		{"value without a key", func() { l.Info("m", "k", 1, "left") }, "level=INFO msg=m k=1 " + hclog.MissingKey + "=left\n"},
		{"key that is no string", func() { l.Info("m", 7, "v") }, "level=INFO msg=m 7=v\n"},
		{"formats", func() { l.Info("m", "f", hclog.Fmt("%d-%d", 1, 2), "h", hclog.Hex(16), "q", hclog.Quote("x")) }, `level=INFO msg=m f=1-2 h=0x10 q="\"x\""` + "\n"},
	} {
		tt.log()
		if got := written(); got != tt.want {
			t.Errorf("%s: wrote %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNamesAndImpliedPairsStayWithTheLogger(t *testing.T) {
	l, written := record(slog.LevelInfo)
	sub := l.Named("raft").With("shard", 3).Named("snapshot")
	sub.Info("m")
	if got, want := written(), "level=INFO msg=m logger=raft.snapshot shard=3\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if sub.Name() != "raft.snapshot" || len(sub.ImpliedArgs()) != 2 {
		t.Errorf("name %q, args %v", sub.Name(), sub.ImpliedArgs())
	}
	sub.ResetNamed("x").Info("m")
	if got, want := written(), "level=INFO msg=m logger=x shard=3\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	l.Info("m")
	if got, want := written(), "level=INFO msg=m\n"; got != want {
		t.Errorf("the parent wrote %q, want %q", got, want)
	}
}

func TestTheHandlerDecidesTheLevel(t *testing.T) {
	l, written := record(slog.LevelWarn)
	l.SetLevel(hclog.Trace)
	if l.IsTrace() || l.IsDebug() || l.IsInfo() || !l.IsWarn() || !l.IsError() || l.GetLevel() != hclog.Warn {
		t.Errorf("level %v", l.GetLevel())
	}
	l.Info("quiet")
	if got := written(); got != "" {
		t.Errorf("wrote %q", got)
	}
	if silent, _ := record(slog.LevelError + 1); silent.GetLevel() != hclog.Off {
		t.Errorf("a silent logger has level %v", silent.GetLevel())
	}
}

func TestLinesOfAStandardLoggerBecomeRecords(t *testing.T) {
	l, written := record(LevelTrace)
	for _, tt := range []struct {
		name, line, want string
		opts             *hclog.StandardLoggerOptions
	}{
		{"plain", "[WARN] x", `level=INFO msg="[WARN] x"`, nil},
		{"inferred", "[WARN] x", `level=WARN msg=x`, &hclog.StandardLoggerOptions{InferLevels: true}},
		{"inferred ERR", "[ERR] x", `level=ERROR msg=x`, &hclog.StandardLoggerOptions{InferLevels: true}},
		{"no level to infer", "[x] y", `level=INFO msg="[x] y"`, &hclog.StandardLoggerOptions{InferLevels: true}},
		{"timestamp", "2026/01/02 03:04:05 [DEBUG] x", `level=DEBUG msg=x`, &hclog.StandardLoggerOptions{InferLevelsWithTimestamp: true}},
		{"forced", "[WARN] x", `level=ERROR msg=x`, &hclog.StandardLoggerOptions{ForceLevel: hclog.Error}},
	} {
		l.StandardLogger(tt.opts).Println(tt.line)
		if got := strings.TrimSpace(written()); got != tt.want {
			t.Errorf("%s: wrote %q, want %q", tt.name, got, tt.want)
		}
	}
}
