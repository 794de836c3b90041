// Package slogbridge lets libraries of HashiCorp log through log/slog: an
// hclog.Logger over a *slog.Logger, so that the process has one log, with one
// level and one format.
package slogbridge

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// LevelTrace is where hclog's Trace goes: below slog's Debug.
const LevelTrace = slog.LevelDebug - 4

// New returns a logger that writes to l. Keys and values become attributes, and
// a logger's name the attribute "logger". The level stays that of l's handler:
// SetLevel does nothing.
func New(l *slog.Logger) hclog.Logger { return &logger{base: l, out: l} }

// logger is immutable; With and Named return others.
type logger struct {
	base *slog.Logger // as given to New
	out  *slog.Logger // base with name and args
	name string
	args []any // those of With, for ImpliedArgs
}

func (l *logger) derive(name string, args []any) *logger {
	out := l.base
	if name != "" {
		out = out.With("logger", name)
	}
	return &logger{base: l.base, out: out.With(pairs(args)...), name: name, args: args}
}

// With returns a logger that adds args to every record.
func (l *logger) With(args ...any) hclog.Logger {
	return l.derive(l.name, slices.Concat(l.args, args))
}

// Named returns a logger whose name is l's and name, joined by a dot.
func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.derive(name, l.args)
}

// ResetNamed returns a logger whose name is name.
func (l *logger) ResetNamed(name string) hclog.Logger { return l.derive(name, l.args) }

func (l *logger) Name() string       { return l.name }
func (l *logger) ImpliedArgs() []any { return slices.Clone(l.args) }

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off {
		return
	}
	ctx, to := context.Background(), toSlog(level)
	if l.out.Enabled(ctx, to) { // before pairs, which may format values
		l.out.Log(ctx, to, msg, pairs(args)...)
	}
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

func (l *logger) enabled(level hclog.Level) bool {
	return l.out.Enabled(context.Background(), toSlog(level))
}

// SetLevel does nothing: the level belongs to slog's handler.
func (l *logger) SetLevel(hclog.Level) {}

// GetLevel is the most talkative level that is enabled.
func (l *logger) GetLevel() hclog.Level {
	for level := hclog.Trace; level <= hclog.Error; level++ {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

// StandardLogger returns a logger of package log whose lines go here.
func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

// StandardWriter returns a writer whose every Write is one record: at the
// forced level, or at the one its prefix names where levels are inferred, else
// at Info.
func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	if opts == nil {
		opts = &hclog.StandardLoggerOptions{}
	}
	return &lines{to: l, opts: *opts}
}

type lines struct {
	to   *logger
	opts hclog.StandardLoggerOptions
}

func (w *lines) Write(b []byte) (int, error) {
	text := strings.TrimRight(string(b), "\r\n")
	level := hclog.Info
	if w.opts.InferLevels || w.opts.InferLevelsWithTimestamp || w.opts.ForceLevel != hclog.NoLevel {
		level, text = cutLevel(text, w.opts.InferLevelsWithTimestamp)
	}
	if w.opts.ForceLevel != hclog.NoLevel {
		level = w.opts.ForceLevel
	}
	w.to.Log(level, text)
	return len(b), nil
}

// cutLevel takes a level such as "[WARN]" off the front of text, and what
// stands before it too where that may be a timestamp.
func cutLevel(text string, timestamp bool) (hclog.Level, string) {
	open := strings.IndexByte(text, '[')
	if open < 0 || open > 0 && !timestamp {
		return hclog.Info, text
	}
	name, rest, ok := strings.Cut(text[open+1:], "]")
	if name == "ERR" {
		name = "error"
	}
	level := hclog.LevelFromString(name)
	if !ok || level == hclog.NoLevel || level == hclog.Off {
		return hclog.Info, text
	}
	return level, strings.TrimSpace(rest)
}

// toSlog maps a level; a record without one counts as Info.
func toSlog(level hclog.Level) slog.Level {
	switch level {
	case hclog.Trace:
		return LevelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// pairs makes hclog's arguments slog's: keys become strings, hclog's own
// formatting types become text, and a value without a key gets hclog's name for
// one.
func pairs(args []any) []any {
	out := make([]any, 0, len(args)+1)
	if len(args)%2 != 0 {
		args = slices.Concat(args[:len(args)-1], []any{hclog.MissingKey, args[len(args)-1]})
	}
	for i := 0; i < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			key = fmt.Sprint(args[i])
		}
		out = append(out, key, value(args[i+1]))
	}
	return out
}

func value(v any) any {
	switch v := v.(type) {
	case hclog.Format:
		if format, ok := v[0].(string); ok {
			return fmt.Sprintf(format, v[1:]...)
		}
		return fmt.Sprint(v...)
	case hclog.Hex:
		return fmt.Sprintf("%#x", int(v))
	case hclog.Octal:
		return fmt.Sprintf("%#o", int(v))
	case hclog.Binary:
		return fmt.Sprintf("%#b", int(v))
	case hclog.Quote:
		return fmt.Sprintf("%q", string(v))
	}
	return v
}
