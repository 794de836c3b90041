package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is the program: what it is connected to, and the flags of every verb.
type app struct {
	in       io.Reader
	out, err io.Writer // data; prose
	lookup   func(string) (string, bool)

	globals
}

// run executes one command line and returns the exit code.
func (a *app) run(args []string) int {
	root := a.command()
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err != nil && !errors.Is(err, errDenied) && !errors.Is(err, errDiffers) {
		text := sentence(err)
		var usage *usageError
		if errors.As(err, &usage) {
			text += fmt.Sprintf("; see '%s --help'", cmd.CommandPath())
		}
		for line := range strings.Lines(text) {
			fmt.Fprintf(a.err, "rlstore: %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	return exitCode(err)
}

func (a *app) command() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "rlstore",
		Short: "A replicated store of rate limits",
		Long: `rlstore keeps rate limits in a replicated log: many servers share one limit,
and a lost machine neither forgets nor charges twice.

Exit codes: 0 done or allowed, 10 denied, 11 unavailable and nothing applied,
12 outcome unknown, 2 wrong usage, 1 anything else. Data goes to stdout, prose to
stderr. The flags below may be set in the environment too, as RLSTORE_ENDPOINTS.`,
		SilenceErrors: true, // run reports them
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return runVersion(a)
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.Flags().BoolVar(&version, "version", false, "tell this program's version, as the command does")
	a.globals.register(root.PersistentFlags())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return a.globals.complete(cmd, a.lookup)
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newServe(a), newDev(a),
		newTake(a), newPeek(a), newRefund(a), newReset(a), newExplain(a),
		group("policy", "Read and change the catalog of policies",
			newPolicyList(a), newPolicyGet(a), newPolicyApply(a), newPolicyDiff(a), newPolicyDelete(a), newPolicyLint(a),
			newPolicyHistory(a), newPolicyRevert(a),
			group("override", "Give single keys of a policy limits of their own",
				newOverrideSet(a), newOverrideList(a), newOverrideRemove(a))),
		group("cluster", "Look at the cluster, and change who leads what",
			newClusterStatus(a), newClusterJoin(a), newClusterRemove(a), newClusterTransfer(a),
			newClusterEnforcement(a)),
		group("node", "Change what one node does", newNodeDrain(a)),
		newRecover(a),
		newTop(a), newWatch(a),
		newBench(a),
		group("config", "Look at a node's configuration", newConfigPrint(a)),
		newVersion(a),
	)
	root.SetHelpCommand(newHelp())
	addCompletion(root)
	return root
}

// group is a command that only holds others.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short}
	needsVerb(g, verbs)
	g.AddCommand(verbs...)
	return g
}

// needsVerb makes g itself, without one of its verbs, wrong usage.
func needsVerb(g *cobra.Command, verbs []*cobra.Command) {
	g.Args = noSuchCommand
	g.RunE = func(*cobra.Command, []string) error {
		var names []string
		for _, v := range verbs {
			names = append(names, v.Name())
		}
		return usagef("%s needs a command: %s", g.Name(), strings.Join(names, ", "))
	}
}

// noSuchCommand refuses arguments of a command that takes only commands.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usagef("there is no command %q", args[0])
}

// flagError is a wrong flag as wrong usage. What begins with a '-' and a digit is
// a COST where there is one: no flag does.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && strings.Contains(cmd.Use, "COST") {
		if s := unknown.GetSpecifiedShortnames(); s != "" && s[0] >= '0' && s[0] <= '9' {
			_, err = parseCost("-" + s)
			return err
		}
	}
	return &usageError{err}
}

// between takes from least to most arguments; most < 0 is any number. Its
// sentence shows those that the command's Use names.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		_, want, _ := strings.Cut(cmd.Use, " ")
		if want == "" {
			want = "no arguments"
		}
		return usagef("%s takes %s, not %d %s", cmd.Name(), want, len(args), plurals(len(args), "argument", "arguments"))
	}
}

func plurals(n int, one, several string) string {
	if n == 1 {
		return one
	}
	return several
}

// given collects the flags that were set, by name.
func given(flags *pflag.FlagSet) map[string]string {
	set := map[string]string{}
	flags.Visit(func(f *pflag.Flag) { set[f.Name] = f.Value.String() })
	return set
}
