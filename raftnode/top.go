package raftnode

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// topPatience bounds the wait for a peer's counts: an answer without them is better
// than none.
const topPatience = time.Second

// PeersTop asks every other member, all at once, for what its Config.OnTop answers.
// It returns the answers by node id, and the ids of those that gave none, sorted.
func (n *Node) PeersTop(ctx context.Context, by string) (answers map[string]json.RawMessage, missing []string) {
	ctx, cancel := context.WithTimeout(ctx, topPatience)
	defer cancel()
	answers = map[string]json.RawMessage{}
	var mu sync.Mutex // guards answers and missing
	var wg sync.WaitGroup
	for _, m := range n.peers.members() {
		if m.ID == n.cfg.NodeID {
			continue
		}
		wg.Go(func() {
			var answer json.RawMessage
			err := n.call(ctx, m.Raft, methodTop, by, &answer)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missing = append(missing, m.ID)
				return
			}
			answers[m.ID] = answer
		})
	}
	wg.Wait()
	slices.Sort(missing)
	return answers, missing
}

// top answers a peer.
func (n *Node) top(_ context.Context, by *string) (any, error) {
	if n.cfg.OnTop == nil {
		return nil, api.NewProblem(api.NotFound, "node %s counts no keys", n.cfg.NodeID)
	}
	return n.cfg.OnTop(*by)
}
