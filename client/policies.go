package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// Policies returns the whole catalog, sorted by name.
func (c *Client) Policies(ctx context.Context) (api.PolicyList, error) {
	var list api.PolicyList
	_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: "/v1/policies", answer: &list})
	return list, err
}

// Policy returns one document of the catalog.
func (c *Client) Policy(ctx context.Context, name string) (api.Policy, error) {
	var p api.Policy
	path, err := policyPath(name)
	if err != nil {
		return p, err
	}
	_, err = c.ask(ctx, &exchange{method: http.MethodGet, path: path, answer: &p})
	return p, err
}

// PutPolicy creates or replaces the policy of this name, and returns it as
// stored: with every default, and its revision. It returns once every reachable
// node applies it. Without [IfMatch], it reads the policy's revision first and changes
// that one, as all edits of a policy do: so an attempt that a node carries out long
// after it was given up undoes nothing.
func (c *Client) PutPolicy(ctx context.Context, p api.Policy, opts ...PolicyOption) (api.Policy, error) {
	p.Revision = 0 // the server's to set
	doc, err := json.Marshal(p)
	if err != nil {
		return api.Policy{}, fail(ErrInvalidPolicy, err, nil)
	}
	return c.putPolicy(ctx, p.Name, api.MediaJSON, doc, opts)
}

// PutPolicyYAML is [Client.PutPolicy] for a document in YAML, as written: the
// errors of a wrong one carry its lines, in [api.Problem.Errors].
func (c *Client) PutPolicyYAML(ctx context.Context, name string, doc []byte, opts ...PolicyOption) (api.Policy, error) {
	return c.putPolicy(ctx, name, api.MediaYAML, doc, opts)
}

func (c *Client) putPolicy(ctx context.Context, name, media string, doc []byte, opts []PolicyOption) (api.Policy, error) {
	var stored api.Policy
	path, err := policyPath(name)
	if err != nil {
		return stored, err
	}
	cfg := policyOptions(opts)
	err = c.edit(ctx, path, &exchange{
		method: http.MethodPut, path: path, query: cfg.query(), author: cfg.author,
		media: media, body: doc, ifMatch: cfg.ifMatch, answer: &stored,
	}, true, ErrRevisionConflict)
	return stored, err
}

// DeletePolicy removes a policy from the catalog.
func (c *Client) DeletePolicy(ctx context.Context, name string, opts ...PolicyOption) error {
	path, err := policyPath(name)
	if err != nil {
		return err
	}
	cfg := policyOptions(opts)
	return c.edit(ctx, path, &exchange{method: http.MethodDelete, path: path, ifMatch: cfg.ifMatch},
		false, ErrUnknownPolicy, ErrNotFound, ErrRevisionConflict)
}

// Revisions returns the last changes of a policy and of its overrides, the newest
// first.
func (c *Client) Revisions(ctx context.Context, name string) (api.RevisionList, error) {
	var list api.RevisionList
	path, err := policyPath(name)
	if err != nil {
		return list, err
	}
	_, err = c.ask(ctx, &exchange{method: http.MethodGet, path: path + "/revisions", answer: &list})
	return list, err
}

// Revert brings back the document that was in force at an earlier revision of the
// policy, as a new revision. Overrides stay as they are.
func (c *Client) Revert(ctx context.Context, name string, revision uint64, opts ...PolicyOption) (api.Policy, error) {
	var stored api.Policy
	path, err := policyPath(name)
	if err != nil {
		return stored, err
	}
	body, err := json.Marshal(api.RevertRequest{Revision: revision})
	if err != nil {
		return stored, fail(ErrInvalidRequest, err, nil)
	}
	cfg := policyOptions(opts)
	err = c.edit(ctx, path, &exchange{
		method: http.MethodPost, path: path + "/revert", query: cfg.query(), author: cfg.author,
		media: api.MediaJSON, body: body, ifMatch: cfg.ifMatch, answer: &stored,
	}, false, ErrRevisionConflict)
	return stored, err
}

// Enforcement returns the switch of the whole cluster.
func (c *Client) Enforcement(ctx context.Context) (api.Enforcement, error) {
	var e api.Enforcement
	_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: "/v1/cluster/enforcement", answer: &e})
	return e, err
}

// SetEnforcement makes every policy at most as strict as value: [api.EnforcementShadow],
// [api.EnforcementOff], or [api.EnforcementEnforce] to leave them as they are written. [IfMatch] means
// nothing here.
func (c *Client) SetEnforcement(ctx context.Context, value string, opts ...PolicyOption) (api.Enforcement, error) {
	var e api.Enforcement
	body, err := json.Marshal(api.Enforcement{Enforcement: value})
	if err != nil {
		return e, fail(ErrInvalidRequest, err, nil)
	}
	cfg := policyOptions(opts)
	_, err = c.ask(ctx, &exchange{
		method: http.MethodPut, path: "/v1/cluster/enforcement", query: cfg.query(), author: cfg.author,
		media: api.MediaJSON, body: body, answer: &e,
	})
	return e, err
}

// edit sends a change of the policy at path, whose first attempt may arrive long after
// it was given up: a node that was frozen then reads it when it wakes. Behind later
// edits it would undo them. So the change is for the revision that the policy has now,
// or for a policy that does not exist if the change creates one, and begins anew where
// somebody else was faster. The caller's own revision serves as well.
//
// unclear are the errors that an attempt of the same change may itself be the cause of.
func (c *Client) edit(ctx context.Context, path string, x *exchange, creates bool, unclear ...error) error {
	if x.ifMatch != 0 {
		doubt, err := c.ask(ctx, x)
		return doubted(doubt, err, unclear...)
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var wait backoff
	for doubt := false; ; {
		var now api.Policy
		_, err := c.ask(ctx, &exchange{method: http.MethodGet, path: path, answer: &now})
		switch {
		case err == nil:
			x.ifMatch, x.ifNew = now.Revision, false
		case errors.Is(err, ErrUnknownPolicy):
			x.ifMatch, x.ifNew = 0, creates
		default:
			return doubted(doubt, err, ErrUnavailable)
		}
		again, err := c.ask(ctx, x)
		doubt = doubt || again
		switch {
		case !errors.Is(err, ErrRevisionConflict):
			return doubted(doubt, err, unclear...)
		case sleep(ctx, wait.next(0)) != nil:
			return doubted(doubt, fail(ErrUnavailable, cut(err), c.ended(ctx)), ErrUnavailable)
		}
	}
}

// doubted replaces an error that an earlier attempt of the same call may itself
// have caused, by having been applied.
func doubted(doubt bool, err error, kinds ...error) error {
	if !doubt {
		return err
	}
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return fail(ErrOutcomeUnknown, cut(err), nil)
		}
	}
	return err
}

func policyOptions(opts []PolicyOption) (cfg policyConfig) {
	for _, o := range opts {
		o(&cfg)
	}
	return cfg
}

// policyPath is the address of a policy.
func policyPath(name string) (string, error) {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		if p == "" || p == "." || p == ".." || len(parts) > 2 {
			return "", fail(ErrInvalidRequest, fmt.Errorf("%.140q is not a policy's name", name), nil)
		}
		parts[i] = url.PathEscape(p)
	}
	return "/v1/policies/" + strings.Join(parts, "/"), nil
}
