package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/server"
)

func newRecover(a *app) *cobra.Command {
	var dataDir string
	var from []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make a new cluster out of one node's folder, once the majority is lost for good",
		Long: `Make the data folder of a stopped node that of a new cluster, with this node as its
only member. It is for a cluster whose majority will never come back; a majority that
is only down has to be started, and loses nothing.

Without --yes it changes nothing, and tells what it found: where each shard ends, what
is damaged, and what of it would be lost. Confirmed takes that only other nodes had are
missing from the new cluster, and nobody can tell from here how many that are. Entries
of which the node did not know whether they were confirmed are all kept.

The old files are kept below damaged/ in the folder. Cut off half-way, the same command
goes on. Nodes of the old cluster are refused by the new one: start them with empty
folders and --join. See docs/repair.md.`,
		Args: between(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if dataDir == "" {
				return usagef("recover needs --data-dir")
			}
			return runRecover(a, dataDir, from, yes)
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "`folder` of the node that is to go on, which is stopped")
	cmd.Flags().StringArrayVar(&from, "from", nil, "`folder` of another node of the cluster, to take from what the first one lacks; may be repeated")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; without, only tell what was found")
	return cmd
}

func runRecover(a *app, dataDir string, from []string, yes bool) error {
	r, err := server.Recover(dataDir, from, yes)
	if err != nil {
		return err
	}
	err = a.print(r, func(w io.Writer) {
		row(w, "SHARD", "ENDS AT", "APPENDED", "FROM", "HOLDS", "LOST")
		for i := range r.Groups {
			writeRecovered(w, &r.Groups[i])
		}
	})
	for _, d := range r.Damaged {
		fmt.Fprintf(a.err, "damaged: %s\n", d)
	}
	fmt.Fprintf(a.err, "may be missing: %s.\n", r.MayBeMissing)
	if r.Groups[0].Lost {
		fmt.Fprintln(a.err, "the catalog is lost: all policies and overrides have to be applied again. Buckets keep what was taken, and count on as soon as a policy of their name is there.")
	}
	a.nextOfRecovery(r, yes)
	return err
}

// writeRecovered is the line of one shard.
func writeRecovered(w io.Writer, g *server.RecoveredGroup) {
	name, holds := "catalog", fmt.Sprintf("%d %s", g.Policies, plurals(g.Policies, "policy", "policies"))
	if g.Shard > 0 {
		name, holds = fmt.Sprint(g.Shard), fmt.Sprintf("%d %s", g.Buckets, plurals(g.Buckets, "bucket", "buckets"))
	}
	appended, source := "-", "nothing"
	if !g.Time.IsZero() {
		appended = g.Time.Format(time.DateTime) + " UTC"
	}
	switch {
	case g.Lost:
	case g.SnapshotIndex > 0 && len(g.Logs) > 0:
		source = fmt.Sprintf("snapshot at %d, log", g.SnapshotIndex)
	case g.SnapshotIndex > 0:
		source = "snapshot"
	default:
		source = "log"
	}
	row(w, name, fmt.Sprintf("index %d, term %d", g.Index, g.Term), appended, source, holds, lost(g))
}

// lost tells of a shard what the folder had and can't be read; "-" if it is all there.
func lost(g *server.RecoveredGroup) string {
	if g.Lost {
		return "all that it held: it begins anew"
	}
	var parts []string
	count := func(n int, one, several string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, plurals(n, one, several)))
		}
	}
	l := &g.Losses
	if l.Uncounted {
		parts = append(parts, fmt.Sprintf("what was in %d damaged %s of its snapshot", l.Stretches, plurals(l.Stretches, "stretch", "stretches")))
	}
	count(l.Buckets, "bucket (starts full)", "buckets (start full)")
	count(l.RequestIDs, "request id", "request ids")
	count(l.Sessions, "client session", "client sessions")
	count(l.Answers, "answer to a retry", "answers to retries")
	count(l.Holds, "reservation, permit or lease", "reservations, permits or leases")
	count(l.Settled, "settlement that is remembered", "settlements that are remembered")
	count(l.Policies, "policy, or what belongs to one", "policies, or what belongs to them")
	count(l.Parts, "override or change of a policy", "overrides or changes of policies")
	if g.Beyond > 0 {
		parts = append(parts, fmt.Sprintf("entries %d to %d", g.Index+1, g.Beyond))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// nextOfRecovery says what was done, and what to do next.
func (a *app) nextOfRecovery(r *server.Recovery, yes bool) {
	say := func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
	switch {
	case !yes && r.CutOff:
		say("an earlier recovery of this folder was cut off: the same command with --yes finishes it, and no node starts from the folder before.")
		return
	case !yes && len(r.Members) > 1:
		say("nothing was changed. If a majority of %s is lost for good, the same command with --yes makes a new cluster of %s alone.", strings.Join(r.Members, ", "), r.NodeID)
		return
	case !yes:
		say("nothing was changed. The same command with --yes makes a new cluster of what is left.")
		return
	case r.CutOff:
		say("a recovery that had been cut off is finished.")
	}
	say("%s is now the only member of the new cluster %s. What to do next:", r.NodeID, r.NewClusterID)
	if len(r.Members) > 1 {
		say("  keep every other node of the old cluster %s stopped, and move its data folder away: a majority of them would go on as the old cluster.", r.ClusterID)
	}
	say("  start %s with the flags that it had.", r.NodeID)
	if len(r.Members) > 1 {
		say("  start the others with empty data folders and --join its raft address; they may keep their ids.")
	}
	if r.Aside != "" {
		say("  delete %s once the cluster is well: the files as they were before are there.", r.Aside)
	}
}
