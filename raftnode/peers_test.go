package raftnode

import "testing"

// A peer's answer ages by a second while thousands of entries go by. It is held
// against what was committed when it was asked, or no node would ever catch up
// with a busy shard.
func TestAPeerIsMeasuredAgainstTheMomentOfAsking(t *testing.T) {
	p := newPeers(nil)
	if lag, ok := p.lag("n2", 1); ok {
		t.Errorf("a peer that never answered is %d entries behind", lag)
	}
	asked := []groupStatus{{ID: 0, Commit: 5}, {ID: 1, Commit: 1000}, {ID: 2, Commit: 7}}
	p.measure(status{Member: Member{ID: "n2"}, Groups: []groupStatus{{ID: 0, Applied: 9}, {ID: 1, Applied: 990}}}, asked)
	for group, want := range []uint64{0, 10} {
		if lag, ok := p.lag("n2", uint32(group)); !ok || lag != want {
			t.Errorf("group %d: %d entries behind (%v), want %d", group, lag, ok, want)
		}
	}
	if lag, ok := p.lag("n2", 2); ok {
		t.Errorf("a replica that the peer does not have is %d entries behind", lag)
	}
}
