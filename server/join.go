package server

import (
	"context"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/raftnode"
)

// members is the node's part in the cluster for the API.
type members struct {
	*raftnode.Node
	limiter *limiter.Limiter
}

// StandDown implements httpapi.Members. A node that leads nothing any more is about
// to go, and so spends nothing from memory either.
func (m members) StandDown(ctx context.Context) error {
	if err := m.Node.StandDown(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	m.limiter.GiveBack(ctx)
	return nil
}

// shardLogs is the node's shards for the limiter.
type shardLogs struct{ node *raftnode.Node }

func (s shardLogs) Leader(shard uint32) limiter.Leader {
	m, local, known := s.node.Leader(shard)
	return limiter.Leader{ID: m.ID, HTTP: m.HTTP, Local: local, Known: known}
}

func (s shardLogs) Submit(shard uint32, p *limiter.Part) { s.node.Submit(shard, p) }

func (s shardLogs) Forward(ctx context.Context, nodeID string, shard uint32, batch []byte) ([]byte, error) {
	return s.node.Forward(ctx, nodeID, shard, batch)
}

func (s shardLogs) StalePeek(shard uint32, op api.Op, set *policy.Set) ([]byte, time.Duration, error) {
	return s.node.StalePeek(shard, op, set)
}
