package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

type watchOptions struct {
	types  []string
	past   bool
	events int
}

func newWatch(a *app) *cobra.Command {
	var o watchOptions
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print what happens in the cluster, as it happens",
		Long: `Print elections, edits of policies, drains and changes of the members, a line each,
as one node sees them, until ctrl-C; with -o json an object a line. --timeout bounds
the search for a node that answers, not the stream. If the node goes away, another one
is watched, after a line "gap", since events may be missing.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, t := range o.types {
				if !slices.Contains(eventTypes, t) {
					return usagef("--type is one of %s, not %q", strings.Join(eventTypes, ", "), t)
				}
			}
			if o.events < 0 {
				return usagef("--events is 1 or more, or 0 for no end, not %d", o.events)
			}
			return runWatch(cmd.Context(), a, &o)
		},
	}
	cmd.Flags().StringSliceVar(&o.types, "type", nil, "only these `types` of events, comma-separated: "+strings.Join(eventTypes, ", "))
	cmd.Flags().BoolVar(&o.past, "past", false, "begin with the events that the node remembers")
	cmd.Flags().IntVarP(&o.events, "events", "n", 0, "end after so many; 0 is never")
	return cmd
}

// eventTypes are those of events in the cluster; the others are of streams.
var eventTypes = []string{api.EventLeader, api.EventPolicy, api.EventEnforcement, api.EventDrain, api.EventMember}

func runWatch(ctx context.Context, a *app, o *watchOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	watching, left := false, o.events
	opts := []client.EventsOption{client.OnStream(func(endpoint string) {
		watching = true
		fmt.Fprintf(a.err, "watching %s\n", endpoint)
	})}
	if o.past {
		opts = append(opts, client.Past())
	}
	for e, err := range c.Events(ctx, opts...) {
		switch {
		case errors.Is(err, client.ErrUnavailable) && watching:
			fmt.Fprintf(a.err, "rlstore: still trying: %s\n", sentence(err))
			continue
		case err != nil:
			return err
		}
		// Those of the stream itself are always told.
		if len(o.types) > 0 && !slices.Contains(o.types, e.Type) && slices.Contains(eventTypes, e.Type) {
			continue
		}
		if err := a.print(e, func(w io.Writer) { writeEvent(w, &e) }); err != nil {
			return err
		}
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// writeEvent tells of an event in one line.
func writeEvent(w io.Writer, e *api.Event) {
	var what string
	switch e.Type {
	case api.EventLeader:
		var shard uint32
		if e.Shard != nil {
			shard = *e.Shard
		}
		what = fmt.Sprintf("shard %d has no leader", shard)
		if e.Node != "" {
			what = fmt.Sprintf("shard %d is led by %s, term %d", shard, e.Node, e.Term)
		}
	case api.EventPolicy:
		what = fmt.Sprintf("%s %s, revision %d", e.Policy, e.Change, e.Revision)
		if e.Override != "" {
			what = fmt.Sprintf("%s %s %s, revision %d", e.Policy, e.Change, e.Override, e.Revision)
		}
	case api.EventEnforcement:
		what = fmt.Sprintf("the whole cluster is set to %s, revision %d", e.Change, e.Revision)
	case api.EventDrain, api.EventMember:
		what = e.Node + " " + e.Change
	case api.EventGap:
		what = "events may be missing here"
	case api.EventSlow:
		what = "this reader is too slow: events are missing here"
	}
	row(w, strings.TrimSpace(e.At+"  "+e.Type+"  "+what))
}
