package raftnode

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

// Every error that the library exports for an entry has an outcome, and only
// those raised before the append are "not applied".
func TestOutcomeOfEveryLibraryError(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want api.Code
	}{
		{raft.ErrNotLeader, api.NotLeader},
		{raft.ErrLeadershipTransferInProgress, api.NoLeader},
		{raft.ErrEnqueueTimeout, api.Overloaded},
		{raft.ErrLeadershipLost, api.OutcomeUnknown},
		{raft.ErrRaftShutdown, api.OutcomeUnknown},
		{raft.ErrAbortedByRestore, api.OutcomeUnknown},
		{errors.New("write log.db: input/output error"), api.OutcomeUnknown},
		{fmt.Errorf("wrapped: %w", raft.ErrNotLeader), api.NotLeader},
		{fmt.Errorf("wrapped: %w", raft.ErrLeadershipLost), api.OutcomeUnknown},
	} {
		p := outcome(3, tc.err)
		if p.Code != tc.want {
			t.Errorf("outcome(%v) = %s, want %s", tc.err, p.Code, tc.want)
		}
		applied := tc.want == api.OutcomeUnknown
		if (p.Outcome == api.Unknown) != applied {
			t.Errorf("outcome(%v) says %s", tc.err, p.Outcome)
		}
	}
}
