package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/rlstore/rlstore/api"
)

// Overrides returns all overrides of a policy, in the order of their keys. It asks
// for them page by page, so one that is set or removed meanwhile may be in it or
// not.
func (c *Client) Overrides(ctx context.Context, policy string) ([]api.Override, error) {
	path, err := policyPath(policy)
	if err != nil {
		return nil, err
	}
	all := []api.Override{}
	query := url.Values{}
	for {
		var page api.OverrideList
		_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: path + "/overrides", query: query, answer: &page})
		if err != nil {
			return nil, err
		}
		all = append(all, page.Overrides...)
		if page.After == "" {
			return all, nil
		}
		query.Set("after", page.After)
	}
}

// PutOverride gives the keys that o.Key matches limits of their own, or others than
// before. What only the server sets is ignored. [IfMatch] is about the policy's
// revision, and [Reason] is o's own.
func (c *Client) PutOverride(ctx context.Context, policy string, o api.Override, opts ...PolicyOption) (api.Override, error) {
	var stored api.Override
	path, err := policyPath(policy)
	if err != nil {
		return stored, err
	}
	cfg := policyOptions(opts)
	if o.ExpiresInMS = 0; cfg.reason != "" {
		o.Reason = cfg.reason
	}
	body, err := json.Marshal(o)
	if err != nil {
		return stored, fail(ErrInvalidPolicy, err, nil)
	}
	err = c.edit(ctx, path, &exchange{
		method: http.MethodPut, path: path + "/overrides", author: cfg.author,
		media: api.MediaJSON, body: body, ifMatch: cfg.ifMatch, answer: &stored,
	}, false, ErrRevisionConflict)
	return stored, err
}

// DeleteOverride removes the override of this very key or pattern; [ErrNotFound] if
// there is none.
func (c *Client) DeleteOverride(ctx context.Context, policy, key string, opts ...PolicyOption) error {
	path, err := policyPath(policy)
	if err != nil {
		return err
	}
	cfg := policyOptions(opts)
	query := url.Values{"key": {key}}
	if cfg.reason != "" {
		query.Set("reason", cfg.reason)
	}
	return c.edit(ctx, path, &exchange{
		method: http.MethodDelete, path: path + "/overrides", query: query, author: cfg.author, ifMatch: cfg.ifMatch,
	}, false, ErrUnknownPolicy, ErrNotFound, ErrRevisionConflict)
}
