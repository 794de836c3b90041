package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// The exit codes, which scripts rely on.
const (
	exitOK          = 0  // done, or allowed
	exitFailed      = 1  // anything else; of policy diff, that something would change
	exitUsage       = 2  // wrong usage
	exitDenied      = 10 // the take was denied
	exitUnavailable = 11 // nothing was applied
	exitUnknown     = 12 // it may have been applied
)

// errDenied ends a command whose take was denied; the answer is printed already.
var errDenied = errors.New("denied")

// usageError is a mistake in the command line or in the configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// about names what of several things an error is of.
type about struct {
	what string
	err  error
}

func (e *about) Error() string { return e.what + ": " + sentence(e.err) }
func (e *about) Unwrap() error { return e.err }

func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errDenied):
		return exitDenied
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrOutcomeUnknown): // first: it is the more alarming one
		return exitUnknown
	case errors.Is(err, client.ErrUnavailable):
		return exitUnavailable
	}
	return exitFailed
}

// sentence is err for people: the server's own words where it refused, else
// what the client says.
func sentence(err error) string {
	var of *about
	if errors.As(err, &of) {
		return of.Error()
	}
	var p *api.Problem
	refused := !errors.Is(err, client.ErrOutcomeUnknown) && !errors.Is(err, client.ErrUnavailable)
	if !refused || !errors.As(err, &p) {
		text := err.Error()
		if !refused { // one sentence, though the client may join what it met on the way
			text = strings.NewReplacer("\n", "; ", context.DeadlineExceeded.Error(), "the time is over").Replace(text)
			text = strings.TrimPrefix(text, "rlstore is ")
		}
		return text
	}
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	for _, e := range p.Errors {
		text += fmt.Sprintf("\nline %d: %s: %s", e.Line, e.Path, e.Message)
	}
	return text
}
