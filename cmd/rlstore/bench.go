package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/bench/load"
	"github.com/rlstore/rlstore/client"
)

// benchPolicy is the policy that bench creates: it admits everything, and its
// buckets are gone an hour after a run in which each had sixty takes.
var benchPolicy = api.Policy{Name: "bench", Limits: []api.Limit{{Rate: 1, Per: api.Duration(time.Minute), Burst: 2_000_000_000}}}

type benchOptions struct {
	load.Config
	hdr      string
	progress bool
}

func newBench(a *app) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Drive a cluster with takes, and measure it",
		Long: `bench drives a running cluster through the Go client, as a program would that
embeds it. The takes are real: they spend the tokens of the policy.

Without --rate, every caller takes as fast as it is answered (a closed loop), which
finds the most that the cluster does. With --rate, takes have their time whatever the
cluster does (an open loop), and latency is counted from that time: a stall is seen by
every take that was due meanwhile.

Ctrl-C ends it early, and prints what was measured. Exit code 0 means that takes
were decided, be they denied; those that failed are in the answer as errors.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return usagef("--%w", err)
			}
			if !cmd.Flags().Changed("progress") {
				o.progress = isTerminal(a.err)
			}
			return runBench(cmd.Context(), a, &o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Policy, "policy", "", "`name` of an existing policy (default bench, created if there is none: it admits everything)")
	flags.IntVar(&o.Keys, "keys", 100_000, "`number` of keys, of 20 bytes each")
	flags.StringVar(&o.Distribution, "distribution", load.Uniform, "`how` takes spread over the keys: uniform, zipf (exponent 0.99) or one")
	flags.IntVar(&o.Concurrency, "concurrency", 64, "`number` of callers")
	flags.IntVar(&o.Batch, "batch", 1, "`number` of takes a call; 1 is single takes, which the client coalesces")
	flags.Int64Var(&o.Cost, "cost", 1, "tokens a take asks for: a `number`")
	flags.Int64Var(&o.Rate, "rate", 0, "takes a second of all callers together, a `number` (default as fast as they are answered)")
	flags.DurationVar(&o.Duration, "duration", 5*time.Second, "`how long` to measure")
	flags.DurationVar(&o.Warmup, "warmup", time.Second, "`how long` to drive the cluster before that")
	flags.Uint64Var(&o.Seed, "seed", 1, "seed of the choice of keys, a `number`")
	flags.StringVar(&o.hdr, "hdr", "", "`file` to write the percentiles to, in HdrHistogram's text format")
	flags.BoolVar(&o.progress, "progress", false, "tell every second how it goes (default on a terminal)")
	return cmd
}

func runBench(ctx context.Context, a *app, o *benchOptions) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	var hdr *os.File
	if o.hdr != "" { // before the run, so that it is not in vain
		if hdr, err = os.Create(o.hdr); err != nil {
			return usagef("--hdr: %w", err)
		}
		defer hdr.Close()
	}
	if o.Policy, err = a.findBenchPolicy(ctx, c, o.Policy); err != nil {
		return err
	}
	var progress func(load.Progress)
	if o.progress {
		progress = a.tellProgress
	}
	r, err := load.Run(ctx, c, o.Config, progress)
	if err != nil {
		return err
	}
	if r.Unsent > 0 {
		fmt.Fprintf(a.err, "the cluster or this machine did not keep up: %d takes that were due were never sent; the latencies do not hold them\n", r.Unsent)
	}
	if hdr != nil {
		err = errors.Join(r.WriteHDR(hdr), hdr.Close())
	}
	return errors.Join(err, a.print(r, func(w io.Writer) { writeBench(w, r) }))
}

// findBenchPolicy returns the name of the policy to take from, which exists then.
func (a *app) findBenchPolicy(ctx context.Context, c *client.Client, name string) (string, error) {
	if name != "" {
		_, err := c.Policy(ctx, name)
		return name, err
	}
	name = benchPolicy.Name
	_, err := c.Policy(ctx, name)
	if errors.Is(err, client.ErrUnknownPolicy) || errors.Is(err, client.ErrNotFound) {
		if _, err = c.PutPolicy(ctx, benchPolicy); err == nil {
			fmt.Fprintf(a.err, "created the policy %s, which admits everything; 'rlstore policy delete %s' removes it\n", name, name)
		}
	}
	return name, err
}

func (a *app) tellProgress(p load.Progress) {
	fmt.Fprintf(a.err, "%4.0fs  %9.0f takes/s  p99 %s  %d denied, %d errors\n",
		p.Elapsed.Seconds(), p.TakesPerSecond, p.P99, p.Denied, p.Errors)
}

func writeBench(w io.Writer, r *load.Result) {
	how := "as fast as they are answered"
	if r.Rate > 0 {
		how = fmt.Sprintf("%d takes a second", r.Rate)
	}
	row(w, "takes/s", fmt.Sprintf("%.0f", r.TakesPerSecond))
	row(w, "takes", fmt.Sprintf("%d in %.3g s: %d allowed, %d denied", r.Takes, r.DurationS, r.Allowed, r.Denied))
	row(w, "errors", fmt.Sprintf("%d not applied, %d unknown", r.NotApplied, r.Unknown))
	l := r.Latency
	row(w, "latency", fmt.Sprintf("p50 %g ms, p90 %g ms, p99 %g ms, p99.9 %g ms, max %g ms", l.P50, l.P90, l.P99, l.P999, l.Max))
	row(w, "load", fmt.Sprintf("policy %s, cost %d, %s over %d %s (seed %d), %d %s, %d a call, %s",
		r.Policy, r.Cost, r.Distribution, r.Keys, plurals(r.Keys, "key", "keys"), r.Seed,
		r.Concurrency, plurals(r.Concurrency, "caller", "callers"), r.Batch, how))
}

// isTerminal reports whether w is a terminal, or another device that shows nothing
// to a script.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
