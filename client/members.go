package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
)

// changeTimeout bounds one attempt to change members or leaders: above the 5 s in
// which a node answers, for cut off and begun again it would take longer.
const changeTimeout = 6 * time.Second

// Transfer moves the leadership of a shard, 0 is the catalog, to the node to, or
// to the least loaded one if to is "". It returns the new leader once that one
// serves.
func (c *Client) Transfer(ctx context.Context, shard uint32, to string) (leader string, err error) {
	body, err := json.Marshal(api.TransferRequest{To: to})
	if err != nil {
		return "", fail(ErrInvalidRequest, err, nil)
	}
	var answer api.TransferResponse
	_, err = c.ask(ctx, &exchange{
		method: http.MethodPost, path: fmt.Sprintf("/v1/cluster/shards/%d/transfer", shard),
		media: api.MediaJSON, body: body, within: changeTimeout, answer: &answer,
	})
	return answer.Leader, err
}

// Drain has a node lead nothing until it is restarted; it goes on answering. It
// returns the cluster as that node sees it then. It is an [ErrInvalidRequest] if the
// cluster does not name such a node.
func (c *Client) Drain(ctx context.Context, id string) (api.Cluster, error) {
	before, err := c.Cluster(ctx)
	if err != nil {
		return before, err
	}
	at := slices.IndexFunc(before.Nodes, func(n api.ClusterNode) bool { return n.ID == id })
	if at < 0 {
		return before, refuse(api.NewProblem(api.NotFound, "there is no node %.64q in this cluster", id))
	}
	to, err := parseEndpoint(before.Nodes[at].HTTP)
	if err != nil {
		return before, err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var after api.Cluster
	err = c.exchange(ctx, to, &exchange{method: http.MethodPost, path: "/v1/node/drain", answer: &after})
	if neverSent(err) {
		err = fail(ErrUnavailable, cut(err), nil)
	}
	return after, err
}

// AddMember makes a node that runs a member of the cluster, as it announces itself.
// It returns the cluster with it; the node gets its votes once it has caught up.
func (c *Client) AddMember(ctx context.Context, m api.MemberRequest) (api.Cluster, error) {
	var cluster api.Cluster
	if err := m.Check(); err != nil {
		return cluster, refuseLocally(err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return cluster, fail(ErrInvalidRequest, err, nil)
	}
	_, err = c.ask(ctx, &exchange{
		method: http.MethodPost, path: "/v1/cluster/members", media: api.MediaJSON, body: body,
		within: changeTimeout, answer: &cluster,
	})
	return cluster, err
}

// RemoveMember takes a node out of the cluster for good: its id may not come
// back. It returns the cluster without it.
func (c *Client) RemoveMember(ctx context.Context, id string) (api.Cluster, error) {
	var cluster api.Cluster
	if err := api.CheckNodeID(id); err != nil {
		return cluster, refuseLocally(err)
	}
	_, err := c.ask(ctx, &exchange{
		method: http.MethodDelete, path: "/v1/cluster/members/" + id, within: changeTimeout, answer: &cluster,
	})
	return cluster, err
}
