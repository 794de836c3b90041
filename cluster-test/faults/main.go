// Command faults runs a cluster of real processes under a mix of faults while
// callers work on it, and checks what they saw.
//
//	faults run -seed 7 -length 2m -out DIR   one run; -runs and -parallel for many
//	faults check DIR                         check a run that was kept once more
//	faults recovery -kills 20                how long a killed leader stops its shards
//	faults kinds                             every kind of fault, and what it does
//
// README.md tells what the faults are and how to read a report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

// errViolations ends the program with 1, after the report has said why.
var errViolations = errors.New("the run shows violations")

func run(args []string) int {
	verbs := map[string]func(context.Context, []string) error{
		"run": runVerb, "check": checkVerb, "recovery": recoveryVerb, "kinds": kindsVerb,
		// What the runner starts.
		"node": nodeVerb, "callers": callersVerb,
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: faults run|check|recovery|kinds [flags]; 'faults run -h' lists the flags")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch err := verbs[args[0]](ctx, args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 2
	case err != nil:
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

func kindsVerb(context.Context, []string) error {
	for _, f := range kinds {
		fmt.Printf("%-16s %s\n", f.kind, f.about)
	}
	return nil
}
