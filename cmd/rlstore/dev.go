package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/server"
)

// devNodes is how many nodes dev runs: the fewest that survive the loss of one.
const devNodes = 3

// demo is the policy that dev creates: small enough to run dry by hand.
var demo = api.Policy{Name: "demo", Limits: []api.Limit{{Rate: 10, Per: api.Duration(1e9), Burst: 20}}}

type devOptions struct {
	dataDir            string
	httpPort, raftPort int
	logLevel           string
}

func newDev(a *app) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster of three nodes in this process, to try things",
		Long: `dev runs three real nodes, n1 to n3, on the loopback interface, with a policy
"demo" and inline limits allowed. Without --data-dir what they store goes with them.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, port := range []int{o.httpPort, o.raftPort} {
				if port < 1 || port > 1<<16-devNodes {
					return usagef("a port needs to be 1 to %d, for the nodes take it and the next %d, not %d", 1<<16-devNodes, devNodes-1, port)
				}
			}
			return runDev(cmd.Context(), a, &o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.dataDir, "data-dir", "", "`folder` that keeps the nodes' state (default a temporary one, removed at the end)")
	flags.IntVar(&o.httpPort, "http-port", 8101, "first `port` of the API; the nodes take it and the next two")
	flags.IntVar(&o.raftPort, "raft-port", 9101, "first `port` of the traffic between nodes, likewise")
	flags.StringVar(&o.logLevel, "log-level", "warn", "`level` of the log on stderr: debug, info, warn or error")
	return cmd
}

func runDev(ctx context.Context, a *app, o *devOptions) (err error) {
	coarseTimers()
	ctx, stop := untilSignal(ctx)
	defer stop()
	if o.dataDir == "" {
		dir, err := os.MkdirTemp("", "rlstore-dev-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dataDir = dir
	}
	var nodes []*server.Server
	for _, cfg := range devConfigs(o) {
		if err := cfg.WithDefaults().Validate(); err != nil {
			return &usageError{err}
		}
		cfg.Logger = cfg.NewLogger(a.err)
		s, err := server.New(cfg)
		if err != nil {
			return fmt.Errorf("%w (dev takes its ports from --http-port and --raft-port)", err)
		}
		nodes = append(nodes, s)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range nodes {
		g.Go(func() error { return s.Run(ctx) })
	}
	g.Go(func() error {
		for _, s := range nodes {
			select {
			case <-s.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		if err := createDemo(ctx, nodes); err != nil {
			if ctx.Err() != nil {
				return nil // stopped meanwhile
			}
			return fmt.Errorf("the policy %s could not be created: %w", demo.Name, err)
		}
		return a.welcome(o, nodes)
	})
	return g.Wait()
}

// devConfigs is the configuration of each node.
func devConfigs(o *devOptions) []server.Config {
	at := func(port, i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i)) }
	var join []string
	for i := range devNodes {
		join = append(join, at(o.raftPort, i))
	}
	var out []server.Config
	for i := range devNodes {
		id := fmt.Sprintf("n%d", i+1)
		out = append(out, server.Config{
			NodeID: id, DataDir: filepath.Join(o.dataDir, id),
			HTTPAddr: at(o.httpPort, i), RaftAddr: at(o.raftPort, i),
			BootstrapExpect: devNodes, Join: join,
			AllowInlineLimits: true, LogLevel: o.logLevel,
		})
	}
	return out
}

// createDemo creates the policy, unless the data folder brought one.
func createDemo(ctx context.Context, nodes []*server.Server) error {
	c, err := client.New([]string{nodes[0].HTTPURL()})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Policy(ctx, demo.Name)
	if errors.Is(err, client.ErrUnknownPolicy) || errors.Is(err, client.ErrNotFound) {
		_, err = c.PutPolicy(ctx, demo)
	}
	return err
}

// self is how the user would call this program again: it may not be installed.
func self() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		return "go run ./cmd/rlstore"
	}
	return "rlstore"
}

// welcome prints what to paste.
func (a *app) welcome(o *devOptions, nodes []*server.Server) error {
	var urls []string
	for _, s := range nodes {
		urls = append(urls, s.HTTPURL())
	}
	curl := fmt.Sprintf(`curl -s %s/v1/take -H 'Content-Type: application/json' -d '{"policy":"demo","key":"user:42"}'`, urls[0])
	take := self() + " take demo user:42"
	if urls[0] != "http://127.0.0.1:8101" {
		take += " --endpoints " + strings.Join(urls, ",")
	}
	answer := struct {
		Endpoints []string `json:"endpoints"`
		DataDir   string   `json:"data_dir"`
		Curl      string   `json:"curl"`
		Take      string   `json:"take"`
	}{urls, o.dataDir, curl, take}
	err := a.print(answer, func(w io.Writer) { fmt.Fprintf(w, "%s\n%s\n", curl, take) })
	fmt.Fprintf(a.err, "three nodes serve at %s, data in %s; Ctrl-C stops them\n", strings.Join(urls, ", "), o.dataDir)
	return err
}
