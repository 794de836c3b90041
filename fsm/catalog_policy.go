package fsm

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// CatalogPolicy is a policy as a document and as what it resolves to, with its
// overrides and its past. It is immutable, as the view that holds it.
type CatalogPolicy struct {
	Doc api.Policy  // normalized, with its revision
	Set *policy.Set // under the cluster's enforcement, if that is milder

	overrides   *overrides // nil is none
	history     history
	enforcement string // that of Set
	made        uint64 // the catalog's revision when this was made: other than that of any other

	sets sync.Map // of overrides, by their encoding: those with equal limits share one
}

// Override implements [policy.Overrides]. Sets are made when they are first asked
// for, and kept until the policy changes.
func (p *CatalogPolicy) Override(key string) *policy.Set {
	o := p.overrides.match(key)
	if o == nil {
		return nil
	}
	if m := o.made.Load(); m != nil && m.at == p.made {
		return m.set
	}
	doc := p.Doc
	doc.Enforcement = p.enforcement
	set := policy.ResolveOverride(&doc, o.doc.Limits)
	shared, _ := p.sets.LoadOrStore(string(set.Encoded), set)
	set = shared.(*policy.Set)
	o.made.Store(&madeSet{p.made, set})
	return set
}

// Matching returns the override that applies to key. now is the catalog's cluster
// time, for what is left of it.
func (p *CatalogPolicy) Matching(key string, now uint64) (api.Override, bool) {
	o := p.exceptions().match(key)
	if o == nil {
		return api.Override{}, false
	}
	return o.at(now), true
}

// Overrides returns up to limit overrides in the order of their keys, from the
// first after the key after on, and how many the policy has in all.
func (p *CatalogPolicy) Overrides(after string, limit int, now uint64) (page []api.Override, total int) {
	list := p.exceptions().list()
	i, found := slices.BinarySearchFunc(list, after, func(o *override, key string) int { return strings.Compare(o.doc.Key, key) })
	if found {
		i++
	}
	page = []api.Override{}
	for ; i < len(list) && len(page) < limit; i++ {
		page = append(page, list[i].at(now))
	}
	return page, len(list)
}

// at is o as people see it.
func (o *override) at(now uint64) api.Override {
	doc := o.doc
	if doc.TTL = 0; o.expires != 0 {
		doc.ExpiresInMS = 1 // until it is removed, it applies
		if o.expires > now {
			doc.ExpiresInMS = int64(min((o.expires-now+999_999)/1_000_000, math.MaxInt64))
		}
	}
	return doc
}

// Revisions returns the changes that are remembered, the newest first.
func (p *CatalogPolicy) Revisions() []api.PolicyRevision { return p.history.list() }

// At returns the document that was in force at a revision of the policy, or nil
// if that is not remembered.
func (p *CatalogPolicy) At(revision uint64) *api.Policy { return p.history.at(revision) }

// exceptions is p's overrides; p may be nil.
func (p *CatalogPolicy) exceptions() *overrides {
	if p == nil || p.overrides == nil {
		return noOverrides
	}
	return p.overrides
}

// past is p's history; p may be nil.
func (p *CatalogPolicy) past() history {
	if p == nil {
		return history{}
	}
	return p.history
}

// store puts a policy, as of v's revision, into a copy of v's map.
func (v *CatalogView) store(doc api.Policy, o *overrides, h history) {
	v.Policies = maps.Clone(v.Policies)
	v.set(doc, o, h)
}

// set puts a policy, as of v's revision, into v's map, which is a copy already.
func (v *CatalogView) set(doc api.Policy, o *overrides, h history) {
	doc.Revision = v.Revision
	v.overrides += o.n - v.Policies[doc.Name].exceptions().n
	v.Policies[doc.Name] = v.resolved(doc, o, h)
}

func (v *CatalogView) resolved(doc api.Policy, o *overrides, h history) *CatalogPolicy {
	p := &CatalogPolicy{Doc: doc, history: h, made: v.Revision}
	p.enforcement = api.Milder(doc.Enforcement, v.Enforcement.Enforcement)
	doc.Enforcement = p.enforcement
	p.Set = policy.Resolve(&doc)
	if o.n > 0 {
		p.overrides, p.Set.Overrides = o, p
	}
	return p
}

// NextExpiry is when the first override expires, in cluster time, or earlier;
// [math.MaxUint64] if none does.
func (v *CatalogView) NextExpiry() uint64 {
	next := uint64(math.MaxUint64)
	for _, p := range v.Policies { // order-free: the minimum is one
		next = min(next, p.exceptions().nextExpiry())
	}
	return next
}

func (v *CatalogView) putOverride(cmd *PutOverride, now uint64) (*CatalogResult, error) {
	o := &override{doc: cmd.Override}
	if err := policy.SupportedOverride(&o.doc); err != nil {
		return nil, err
	}
	old := v.Policies[cmd.Policy]
	if p := conflict(cmd.Policy, old, cmd.IfMatch, cmd.AnyMatch, false); p != nil {
		return &CatalogResult{Err: p}, nil
	}
	if old == nil {
		return unknownPolicy(cmd.Policy), nil
	}
	all := old.exceptions()
	had := all.get(o.doc.Key)
	switch {
	case had != nil && o.doc.TTL == 0 && had.expires == 0 &&
		o.doc.Reason == had.doc.Reason && slices.Equal(o.doc.Limits, had.doc.Limits):
		stored := had.at(now)
		return &CatalogResult{Override: &stored, PolicyRevision: old.Doc.Revision, Unchanged: true}, nil
	case had == nil && v.overrides >= MaxOverrides:
		return &CatalogResult{Err: api.NewProblem(api.InvalidRequest, "the catalog holds %d overrides, and that is the most; remove one first", MaxOverrides)}, nil
	case !all.room(o.doc.Key):
		return &CatalogResult{Err: api.NewProblem(api.InvalidRequest, "the patterns of policy %s have prefixes of %d different lengths, and that is the most; use one as long as another", cmd.Policy, MaxPrefixes)}, nil
	}
	o.doc.Author, o.doc.At, o.doc.Revision = cmd.Author, cmd.At, v.Revision
	if ttl := uint64(o.doc.TTL); ttl != 0 {
		o.expires = now + min(ttl, math.MaxUint64-now)
	}
	v.store(old.Doc, all.with(o), old.history.with(&api.PolicyRevision{
		Revision: v.Revision, Change: api.OverrideSet, TimeNS: now, At: cmd.At, Author: cmd.Author, Reason: o.doc.Reason,
		Override: o.doc.Key,
	}))
	stored := o.at(now)
	return &CatalogResult{Override: &stored, Created: had == nil, PolicyRevision: v.Revision}, nil
}

func (v *CatalogView) deleteOverride(cmd *DeleteOverride, now uint64) *CatalogResult {
	old := v.Policies[cmd.Policy]
	if p := conflict(cmd.Policy, old, cmd.IfMatch, cmd.AnyMatch, false); p != nil {
		return &CatalogResult{Err: p}
	}
	if old == nil {
		return unknownPolicy(cmd.Policy)
	}
	if old.exceptions().get(cmd.Key) == nil {
		return &CatalogResult{Err: api.NewProblem(api.NotFound, "the policy %s has no override of %.140q", cmd.Policy, cmd.Key)}
	}
	v.store(old.Doc, old.overrides.without(cmd.Key), old.history.with(&api.PolicyRevision{
		Revision: v.Revision, Change: api.OverrideRemoved, TimeNS: now, At: cmd.At, Author: cmd.Author, Reason: cmd.Reason,
		Override: cmd.Key,
	}))
	return &CatalogResult{PolicyRevision: v.Revision}
}

// expireOverrides removes the overrides whose time is over. It is one change of the
// catalog, however many they are.
func (v *CatalogView) expireOverrides(now uint64) *CatalogResult {
	if v.NextExpiry() > now {
		return &CatalogResult{Unchanged: true}
	}
	v.Policies = maps.Clone(v.Policies)
	for _, old := range v.Policies { // order-free: each on its own, and none is added
		if rest, n := old.exceptions().expire(now); n > 0 {
			v.set(old.Doc, rest, old.history.with(&api.PolicyRevision{
				Revision: v.Revision, Change: api.OverridesExpired, TimeNS: now, Expired: n,
			}))
		}
	}
	return &CatalogResult{}
}

func (v *CatalogView) setEnforcement(cmd *SetEnforcement) (*CatalogResult, error) {
	if !slices.Contains(Enforcements, cmd.Enforcement) {
		return nil, errEnforcement(cmd.Enforcement)
	}
	if cmd.Enforcement == v.Enforcement.Enforcement {
		return &CatalogResult{Unchanged: true}, nil
	}
	v.Enforcement = api.Enforcement{
		Enforcement: cmd.Enforcement, Author: cmd.Author, Reason: cmd.Reason, At: cmd.At, Revision: v.Revision,
	}
	v.Policies = maps.Clone(v.Policies)
	for name, p := range v.Policies { // order-free: each is resolved on its own
		v.Policies[name] = v.resolved(p.Doc, p.exceptions(), p.history)
	}
	return &CatalogResult{}, nil
}
