package server

import "github.com/rlstore/rlstore/raftnode"

// Recovery is what [Recover] found and did.
type Recovery = raftnode.Recovery

// RecoveredGroup is what it found of the catalog or of one shard.
type RecoveredGroup = raftnode.RecoveredGroup

// Recover makes a new cluster of one node out of the data folder of a node that is
// stopped, and whose cluster has lost its majority for good; without write it only
// tells what would come of it. The folders from are those of other nodes of that
// cluster, from which it takes what the first one lacks.
func Recover(dataDir string, from []string, write bool) (*Recovery, error) {
	return raftnode.Recover(raftnode.RecoverOptions{DataDir: dataDir, From: from, Write: write})
}
