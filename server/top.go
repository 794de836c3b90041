package server

import (
	"context"
	"encoding/json"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/raftnode"
)

// tops joins the counts of this node with those of its peers.
type tops struct {
	node    *raftnode.Node
	limiter *limiter.Limiter
}

func (t tops) top(ctx context.Context, by string, n int, local bool) (api.Top, error) {
	parts := map[string]limiter.TopPart{t.node.NodeID(): t.limiter.Top(by)}
	var missing []string
	if !local {
		var answers map[string]json.RawMessage
		answers, missing = t.node.PeersTop(ctx, by)
		for id, answer := range answers {
			var p limiter.TopPart
			if json.Unmarshal(answer, &p) != nil {
				missing = append(missing, id)
				continue
			}
			parts[id] = p
		}
	}
	top := limiter.MergeTop(by, n, parts)
	top.Missing = append(top.Missing, missing...)
	return top, nil
}
