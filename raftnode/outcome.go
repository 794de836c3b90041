package raftnode

import (
	"errors"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

// outcome maps every error that the Raft library gives for an entry to one of
// the three outcomes. Only the errors that the library raises before it appends
// an entry are "not applied"; whatever else may have been replicated, and may
// yet be committed by the next leader, is "unknown".
func outcome(group uint32, err error) *api.Problem {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return notLeader(group)
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return api.NewProblem(api.NoLeader, "shard %d is handing its leadership over", group)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return api.NewProblem(api.Overloaded, "the log of shard %d takes no more entries now", group)
	}
	// ErrLeadershipLost, ErrRaftShutdown, ErrAbortedByRestore, errors of the
	// log store, and what a later version of the library may add.
	return api.NewProblem(api.OutcomeUnknown, "the entry of shard %d was proposed, and its commit is not known: %v", group, err)
}

// notLeader is what a group answers that this node does not lead; nothing was
// applied.
func notLeader(group uint32) *api.Problem {
	p := api.NewProblem(api.NotLeader, "this node does not lead shard %d", group)
	p.Shard = &group
	return p
}
