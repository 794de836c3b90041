package main

import (
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestAStateTellsOnlyWhatIsKnown(t *testing.T) {
	for want, s := range map[string]api.State{
		"allowed  3 of 5 left, full in 2ms (policy p, revision 7, shard 1 index 9)\n": {
			Policy: "p", PolicyRevision: 7, Limit: 5, Remaining: 3, ResetAfterMS: 2, Commit: api.Commit{Shard: 1, Index: 9}},
		"allowed  3 of 5 left, full in 2ms (policy p, revision 7)\n": { // of a local bucket
			Policy: "p", PolicyRevision: 7, Limit: 5, Remaining: 3, ResetAfterMS: 2},
		"allowed (policy p, revision 7)\n": {Policy: "p", PolicyRevision: 7}, // by the rule open
	} {
		var out strings.Builder
		if writeState(&out, "allowed", s); out.String() != want {
			t.Errorf("got  %swant %s", out.String(), want)
		}
	}
}
