package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// readFile reads a file, or standard input for "-".
func (a *app) readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(a.in)
	}
	return os.ReadFile(path)
}

// linted is one file's part of the answer.
type linted struct {
	File     string           `json:"file"`
	Policies []string         `json:"policies"`
	Notes    []lintNote       `json:"notes,omitempty"`
	Errors   []api.FieldError `json:"errors"`
}

// lintNote is what a limit of a policy that is not strict gives up.
type lintNote struct {
	Policy string `json:"policy"`
	Mode   string `json:"mode"`
	Limit  string `json:"limit"`

	// Of soft: by how many tokens it can be exceeded, over any interval, for each
	// instance but one that spends.
	ExceededBy int64 `json:"exceeded_by,omitempty"`
	// Of leased and auto: how many tokens holders that die can keep from others, and
	// for how long.
	Stranded      int64 `json:"stranded,omitempty"`
	StrandedForMS int64 `json:"stranded_for_ms,omitempty"`
}

// lintNotes says what a policy gives up.
func lintNotes(p *api.Policy) (notes []lintNote) {
	for _, l := range policy.Resolve(p).Limits {
		n := lintNote{Policy: p.Name, Mode: p.Mode, Limit: l.Name}
		switch {
		case p.SyncInterval > 0:
			n.ExceededBy = policy.SoftBound(&l, time.Duration(p.SyncInterval), 2)
		case p.LeaseTTL > 0:
			n.Stranded, n.StrandedForMS = l.Burst, api.Millis(time.Duration(p.LeaseTTL))
		default:
			continue
		}
		notes = append(notes, n)
	}
	return notes
}

func (n *lintNote) String() string {
	place := fmt.Sprintf("  %s (%s), limit %s: ", n.Policy, n.Mode, n.Limit)
	if n.ExceededBy > 0 {
		return place + fmt.Sprintf("exceeded by at most %d for each instance but one: %d with 3 instances, %d with 10",
			n.ExceededBy, 2*n.ExceededBy, 9*n.ExceededBy)
	}
	return place + fmt.Sprintf("never exceeded; holders that die keep at most %d from others, for at most %s", n.Stranded, span(n.StrandedForMS))
}

func newPolicyLint(a *app) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check files of policies without a server; - is standard input",
		RunE: func(_ *cobra.Command, args []string) error {
			files = append(files, args...)
			if len(files) == 0 {
				return usagef("lint needs a FILE")
			}
			return runPolicyLint(a, files)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "`file` of policies; may be repeated")
	return cmd
}

func runPolicyLint(a *app, files []string) error {
	var answer []linted
	faults := 0
	for _, path := range files {
		// A file that can't be read is wrong, and the others are checked.
		var docs []policy.Doc
		var errs []api.FieldError
		if text, err := a.readFile(path); err != nil {
			errs = []api.FieldError{{Message: reason(err)}}
		} else {
			docs, errs = policy.ParseAll(text)
		}
		l := linted{File: path, Policies: []string{}, Errors: []api.FieldError{}}
		for _, d := range docs {
			l.Policies = append(l.Policies, d.Policy.Name)
			l.Notes = append(l.Notes, lintNotes(&d.Policy)...)
		}
		l.Errors = append(l.Errors, errs...)
		a.explain(path, errs)
		faults += len(errs)
		answer = append(answer, l)
	}
	err := a.print(map[string]any{"files": answer}, func(w io.Writer) {
		for _, l := range answer {
			if len(l.Errors) == 0 {
				row(w, l.File, fmt.Sprintf("%d good %s", len(l.Policies), plurals(len(l.Policies), "policy", "policies")))
				for i := range l.Notes {
					fmt.Fprintln(w, &l.Notes[i])
				}
			}
		}
	})
	if faults > 0 {
		err = errors.Join(err, fmt.Errorf("%d %s", faults, plurals(faults, "error", "errors")))
	}
	return err
}

// reason is why a file can't be read, without its name.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return "can't read it: " + err.Error()
}

// explain writes errors of a file as file:line: path: what is wrong.
func (a *app) explain(file string, errs []api.FieldError) {
	for _, e := range errs {
		place := file
		if e.Line > 0 {
			place = fmt.Sprintf("%s:%d", file, e.Line)
		}
		if e.Path != "" {
			place += ": " + e.Path
		}
		fmt.Fprintf(a.err, "%s: %s\n", place, e.Message)
	}
}
