package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

func TestScriptsCanTellFailuresApartByTheirExitCode(t *testing.T) {
	refused := api.NewProblem(api.UnknownPolicy, "there is no policy %q", "x")
	for _, tt := range []struct {
		name string
		err  error
		code int
		says string
	}{
		{"done", nil, 0, ""},
		{"denied", errDenied, 10, "denied"},
		{"unavailable", errors.Join(client.ErrUnavailable, context.DeadlineExceeded), 11, "unavailable, nothing was applied; the time is over"},
		{"unknown", fmt.Errorf("%w: %w", client.ErrOutcomeUnknown, context.Canceled), 12, "it is unknown whether rlstore applied this: context canceled"},
		{"some unknown, some not applied", errors.Join(client.ErrUnavailable, client.ErrOutcomeUnknown), 12, "unavailable, nothing was applied; it is unknown whether rlstore applied this"},
		{"usage", usagef("no"), 2, "no"},
		{"refused", fmt.Errorf("%w: %w", client.ErrUnknownPolicy, refused), 1, `there is no policy "x"`},
		{"refused one of several", &about{"policy x", refused}, 1, `policy x: there is no policy "x"`},
		{"unavailable for one of several", &about{"policy x", client.ErrUnavailable}, 11, "policy x: unavailable, nothing was applied"},
		{"without details", api.NewProblem(api.NotFound, ""), 1, "There is nothing at this address"},
		{"with several faults", &api.Problem{Detail: "2 errors", Errors: []api.FieldError{{Line: 3, Path: "mode", Message: "no"}}}, 1, "2 errors\nline 3: mode: no"},
		{"anything else", errors.New("boom"), 1, "boom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.code {
				t.Errorf("exit code %d, want %d", got, tt.code)
			}
			if tt.err != nil && sentence(tt.err) != tt.says {
				t.Errorf("says %q, want %q", sentence(tt.err), tt.says)
			}
		})
	}
}
