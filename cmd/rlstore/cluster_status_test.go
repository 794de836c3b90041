package main

import (
	"io"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestNothingIsClaimedOfAReplicaThatNobodyReaches(t *testing.T) {
	leader := "n1"
	s := api.Cluster{
		NodeID: "n1",
		Nodes:  []api.ClusterNode{{ID: "n1"}, {ID: "n2", Reachable: true}, {ID: "n3"}, {ID: "n4", Reachable: true}, {ID: "n5", Reachable: true}},
		Shards: []api.ShardStatus{{ID: 1, Leader: &leader, Term: 3, Members: []api.MemberStatus{
			{ID: "n1", Voter: true, CommitIndex: 20, AppliedIndex: 20},
			{ID: "n2", Voter: true, CommitIndex: 20, AppliedIndex: 18, Lag: 2},
			{ID: "n3", Voter: true, Lag: 20},
			{ID: "n4"},
			{ID: "n5", Lag: 20, Repairing: true},
		}}},
		SlotMap: api.EvenSlotMap(1),
	}
	var out strings.Builder
	a := &app{out: &out, globals: globals{output: "table"}}
	if err := a.print(s, func(w io.Writer) { writeShards(w, s) }); err != nil {
		t.Fatal(err)
	}
	want := `SHARD  SLOTS   LEADER  TERM  REPLICA                  COMMIT  APPLIED  LAG
1      0-4095  n1      3     n1                       20      20       0
1      0-4095  n1      3     n2                       20      18       2
1      0-4095  n1      3     n3                       -       -        -
1      0-4095  n1      3     n4 (no vote)             0       0        0
1      0-4095  n1      3     n5 (no vote, repairing)  0       0        20
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
