package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

type topOptions struct {
	by    string
	keys  int
	every time.Duration
}

func newTop(a *app) *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the heaviest keys, live",
		Long: `Show the keys that are denied most often lately, or that take the most tokens.
On a terminal the view renews itself until q or ctrl-C; otherwise, and with
-o json, it is printed once. Counts are halved every minute.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.by != api.TopDenied && o.by != api.TopTaken:
				return usagef("--by is %s or %s, not %q", api.TopDenied, api.TopTaken, o.by)
			case o.keys < 1 || o.keys > api.MaxTop:
				return usagef("--keys is 1 to %d, not %d", api.MaxTop, o.keys)
			case o.every < 100*time.Millisecond:
				return usagef("--every is at least 100ms, not %v", o.every)
			}
			return runTop(cmd.Context(), a, &o)
		},
	}
	cmd.Flags().StringVar(&o.by, "by", api.TopDenied, "rank by takes denied, or by tokens taken")
	cmd.Flags().IntVarP(&o.keys, "keys", "n", 20, "how many keys")
	cmd.Flags().DurationVar(&o.every, "every", 2*time.Second, "how often a terminal's view is renewed")
	return cmd
}

func runTop(ctx context.Context, a *app, o *topOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if out, ok := a.out.(*os.File); ok && !a.json() {
		if restore, err := readKeys(out); err == nil {
			defer restore()
			return watchTop(ctx, a, c, o)
		}
	}
	top, err := c.Top(ctx, o.by, o.keys)
	if err != nil {
		return err
	}
	return a.print(top, func(w io.Writer) { writeTop(w, &top) })
}

// watchTop draws until q, ctrl-C or the end of ctx. An answer that fails to come
// is told, and asked for again.
func watchTop(ctx context.Context, a *app, c *client.Client, o *topOptions) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	go func() { // ends with the process: a read of a terminal can't be cut off
		key := make([]byte, 1)
		for {
			if _, err := a.in.Read(key); err != nil {
				return
			}
			if key[0] == 'q' {
				stop()
				return
			}
		}
	}()
	if _, err := io.WriteString(a.out, ansiHome+ansiBelow); err != nil {
		return err
	}
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		top, err := c.Top(ctx, o.by, o.keys)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, client.ErrInvalidRequest) {
			return err
		}
		if err := drawTop(a.out, o, &top, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// The sequences of ANSI terminals.
const (
	ansiHome      = "\x1b[H" // the cursor to the upper left
	ansiEndOfLine = "\x1b[K" // clears the rest of a line
	ansiBelow     = "\x1b[J" // clears the rest of the screen
)

// drawTop replaces what is on the screen, in one write so that it does not flicker.
func drawTop(w io.Writer, o *topOptions, top *api.Top, failed error) error {
	var text strings.Builder
	if failed != nil {
		fmt.Fprintf(&text, "no answer: %s\n", sentence(failed))
	} else {
		fmt.Fprintf(&text, "heaviest keys by %s over the last minute or two, every %v; q ends\n\n", o.by, o.every)
		table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		writeTop(table, top)
		table.Flush()
	}
	lines := strings.ReplaceAll(text.String(), "\n", ansiEndOfLine+"\n")
	_, err := io.WriteString(w, ansiHome+lines+ansiBelow)
	return err
}

func writeTop(w io.Writer, top *api.Top) {
	row(w, "POLICY", "KEY", "DENIED", "TAKEN", "ERROR")
	for _, k := range top.Keys {
		row(w, k.Policy, k.Key, k.Denied, k.Taken, k.ErrorBound)
	}
	if top.OneIn > 1 {
		row(w, fmt.Sprintf("(estimates: one of %d batches is counted)", top.OneIn))
	}
	if len(top.Missing) > 0 {
		row(w, fmt.Sprintf("(without %s: no answer)", strings.Join(top.Missing, ", ")))
	}
}
