package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rlstore/rlstore/api"
)

// Top returns the n heaviest keys of the cluster, lately, by [api.TopDenied] or
// [api.TopTaken].
func (c *Client) Top(ctx context.Context, by string, n int) (api.Top, error) {
	var top api.Top
	query := url.Values{"by": {by}, "n": {strconv.Itoa(n)}}
	_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: "/v1/top", query: query, answer: &top})
	return top, err
}
