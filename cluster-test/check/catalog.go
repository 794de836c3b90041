package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// setKey is a policy at a revision.
type setKey struct {
	policy   string
	revision uint64
}

// catalog is what group 0 holds, replayed: "Every effective change raises the
// catalog's one revision by 1, and a policy's revision is the catalog's as of
// its last change."
type catalog struct {
	seen     bool // there is a log of it
	revision uint64
	mapped   bool // there is a slot map
	current  map[string]*api.Policy
	docs     map[setKey]*api.Policy // all that ever were
	sets     map[setKey]*resolved   // what they resolve to
	deleted  map[string]int         // times, by name
	removed  map[string]bool        // members, by id

	now         uint64                          // cluster time
	overrides   map[string]map[string]*override // by policy and key
	renewed     map[setKey]bool                 // revisions that changes of overrides made
	enforcement string
}

// override is one of a policy, with the cluster time at which it expires.
type override struct {
	api.Override
	expires uint64 // 0 is never
}

// resolved is what a policy and its overrides are at a revision.
type resolved struct {
	policy    *numbers
	overrides map[string]*numbers // by key or pattern
}

// of is what decides about a key: "key or a pattern with a trailing *; the longest
// match wins", and an exact key before any pattern.
func (r *resolved) of(key string) *numbers {
	if s := r.overrides[key]; s != nil && !strings.HasSuffix(key, "*") {
		return s
	}
	best, decides := -1, r.policy
	for pattern, s := range r.overrides {
		prefix, ok := strings.CutSuffix(pattern, "*")
		if ok && strings.HasPrefix(key, prefix) && len(prefix) > best {
			best, decides = len(prefix), s
		}
	}
	return decides
}

// has says whether some key is decided by s.
func (r *resolved) has(s *numbers) bool {
	if s.same(r.policy) {
		return true
	}
	for _, o := range r.overrides {
		if s.same(o) {
			return true
		}
	}
	return false
}

func newCatalog() *catalog {
	return &catalog{
		current: map[string]*api.Policy{}, docs: map[setKey]*api.Policy{},
		sets: map[setKey]*resolved{}, deleted: map[string]int{},
		removed: map[string]bool{}, overrides: map[string]map[string]*override{}, renewed: map[setKey]bool{}, enforcement: "enforce",
	}
}

// catalogBody is the JSON of the catalog's entries, all kinds in one.
type catalogBody struct {
	ClusterID string      `json:"cluster_id"`
	SlotMap   api.SlotMap `json:"slot_map"`
	Policy    api.Policy  `json:"policy"`
	Name      string      `json:"name"`
	IfMatch   *uint64     `json:"if_match"`
	AnyMatch  bool        `json:"any_match"`
	NoneMatch bool        `json:"none_match"`
	ID        string      `json:"id"` // of a removed member

	Override    api.Override `json:"override"`
	Key         string       `json:"key"`
	Enforcement string       `json:"enforcement"`

	Author     string `json:"author"`
	Reason     string `json:"reason"`
	At         string `json:"at"`
	RevertedTo uint64 `json:"reverted_to"`
}

// maxPolicies is how many policies a catalog holds.
const maxPolicies = 10_000

// replay applies the catalog's log.
func (c *catalog) replay(log *groupLog, r *Report) {
	c.seen = true
	for _, e := range log.entries {
		d, err := decode(e.Data, nil)
		if err == nil && d.kind < entryInit {
			r.add(BadEntry, "index %d of the catalog: its kind is %d, one of a shard", e.Index, d.kind)
			return
		}
		var body catalogBody
		if err == nil {
			dec := json.NewDecoder(bytes.NewReader(d.body))
			dec.DisallowUnknownFields()
			err = dec.Decode(&body)
		}
		if err != nil {
			r.add(BadEntry, "index %d of the catalog: %v", e.Index, err)
			return
		}
		c.now = max(c.now, d.stamp)
		switch d.kind {
		case entryPutOverride:
			c.putOverride(&body)
		case entryDeleteOverride:
			if old := c.current[body.Name]; old != nil && body.meets(old) && c.overrides[old.Name][body.Key] != nil {
				delete(c.overrides[old.Name], body.Key)
				c.revision++
				c.renew(old)
			}
		case entryExpire:
			c.expire()
		case entryEnforcement:
			if body.Enforcement != c.enforcement {
				c.enforcement = body.Enforcement
				c.revision++
			}
		case entryInit: // "It has an effect only while the catalog has no slot map"
			if !c.mapped {
				c.mapped = true
				c.revision++
			}
		case entryPut:
			c.put(&body)
		case entryRemove:
			if !c.removed[body.ID] {
				c.revision++
				c.removed[body.ID] = true
			}
		case entryDelete:
			if old := c.current[body.Name]; old != nil && body.meets(old) {
				c.revision++
				delete(c.current, body.Name)
				delete(c.overrides, body.Name)
				c.deleted[body.Name]++
			}
		}
	}
	r.Revisions = int(c.revision)
}

func (c *catalog) put(body *catalogBody) {
	doc := body.Policy
	old := c.current[doc.Name]
	if !body.meets(old) || old == nil && len(c.current) >= maxPolicies {
		return
	}
	if old != nil {
		if doc.Revision = old.Revision; reflect.DeepEqual(&doc, old) {
			return // "all was as the command wants it already"
		}
	}
	c.revision++
	doc.Revision = c.revision
	c.current[doc.Name] = &doc
	c.know(&doc)
}

// meets says whether the conditions of a command hold for old, nil if there is
// no such policy.
func (b *catalogBody) meets(old *api.Policy) bool {
	if old == nil {
		return b.IfMatch == nil && !b.AnyMatch
	}
	return (b.IfMatch == nil || *b.IfMatch == old.Revision) && !b.NoneMatch
}

func (c *catalog) know(doc *api.Policy) {
	key := setKey{doc.Name, doc.Revision}
	r := &resolved{policy: resolve(doc), overrides: map[string]*numbers{}}
	for pattern, o := range c.overrides[doc.Name] {
		under := *doc
		under.Limits = o.Limits
		r.overrides[pattern] = resolve(&under)
	}
	c.docs[key], c.sets[key] = doc, r
}

// renew gives a policy the revision of a change of its overrides, of which no
// history tells.
func (c *catalog) renew(old *api.Policy) {
	doc := *old
	doc.Revision = c.revision
	c.current[doc.Name] = &doc
	c.know(&doc)
	c.renewed[setKey{doc.Name, doc.Revision}] = true
}

// maxOverrides and maxPrefixes bound the overrides of the catalog, and the lengths
// of the prefixes in one policy.
const (
	maxOverrides = 200_000
	maxPrefixes  = 64
)

func (c *catalog) putOverride(body *catalogBody) {
	doc, o := c.current[body.Name], &override{Override: body.Override}
	if doc == nil || !body.meets(doc) {
		return
	}
	all := c.overrides[doc.Name]
	had := all[o.Key]
	total, lengths := 0, map[int]bool{}
	for _, of := range c.overrides {
		total += len(of)
	}
	for key := range all {
		if prefix, ok := strings.CutSuffix(key, "*"); ok {
			lengths[len(prefix)] = true
		}
	}
	prefix, pattern := strings.CutSuffix(o.Key, "*")
	switch {
	case had != nil && had.expires == 0 && o.TTL == 0 && had.Reason == o.Reason && reflect.DeepEqual(had.Limits, o.Limits):
		return // "all was as the command wants it already"
	case had == nil && total >= maxOverrides, pattern && !lengths[len(prefix)] && len(lengths) >= maxPrefixes:
		return
	}
	if o.TTL != 0 {
		o.expires = c.now + uint64(o.TTL)
	}
	if all == nil {
		all = map[string]*override{}
		c.overrides[doc.Name] = all
	}
	all[o.Key] = o
	c.revision++
	c.renew(doc)
}

// expire removes what is over. "It is one change of the catalog, however many they
// are."
func (c *catalog) expire() {
	touched := map[string]bool{}
	for name, all := range c.overrides {
		for key, o := range all {
			if o.expires != 0 && o.expires <= c.now {
				delete(all, key)
				touched[name] = true
			}
		}
	}
	if len(touched) > 0 {
		c.revision++
	}
	for name := range touched {
		c.renew(c.current[name])
	}
}

// edits compares the recorded edits with the catalog's log.
func (c *checker) edits() {
	byName := map[string][]*Edit{}
	known := map[setKey]bool{}
	unknown := map[string]bool{}
	deletions := map[string]int{}
	for i := range c.h.Edits {
		e := &c.h.Edits[i]
		switch {
		case e.Outcome != Done:
			unknown[e.Name] = unknown[e.Name] || e.Outcome == Unknown
		case e.Deletion:
			deletions[e.Name]++
		case e.Policy != nil:
			key := setKey{e.Name, e.Policy.Revision}
			known[key] = true
			byName[e.Name] = append(byName[e.Name], e)
			if !c.catalog.seen {
				c.catalog.know(e.Policy)
			} else if doc := c.catalog.docs[key]; doc == nil || !reflect.DeepEqual(doc, e.Policy) {
				c.report.add(LostEdit, "edit %d stored policy %s as revision %d, and the catalog's log has another document there, or none", i, e.Name, e.Policy.Revision)
			}
		}
	}
	for name, n := range deletions {
		if c.catalog.seen && n > c.catalog.deleted[name] && !unknown[name] {
			c.report.add(LostEdit, "policy %s was deleted %d times, and the catalog's log has %d", name, n, c.catalog.deleted[name])
		}
	}
	for key := range c.catalog.docs {
		if !known[key] && !unknown[key.policy] && !c.catalog.renewed[key] {
			c.report.UnrecordedEdits++
		}
	}
	for name, edits := range byName {
		slices.SortFunc(edits, func(a, b *Edit) int { return cmp.Compare(a.Call, b.Call) })
		newest := newestBefore(edits)
		for _, e := range edits {
			if r := newest(e.Call); r > e.Policy.Revision {
				c.report.add(EditsInverted, "an edit of %s that was called at %d ns got revision %d, though one that had returned has %d", name, e.Call, e.Policy.Revision, r)
			}
		}
	}
}

// newestBefore returns a function that tells the highest revision of edits that
// had returned before a time. It must be asked with times that ascend.
func newestBefore(edits []*Edit) func(ns int64) uint64 {
	byReturn := slices.SortedFunc(slices.Values(edits), func(a, b *Edit) int { return cmp.Compare(a.Return, b.Return) })
	var newest uint64
	return func(ns int64) uint64 {
		for len(byReturn) > 0 && byReturn[0].Return < ns {
			newest = max(newest, byReturn[0].Policy.Revision)
			byReturn = byReturn[1:]
		}
		return newest
	}
}

// numbersOf returns what a policy resolved to for a key at a revision, or nil.
func (c *checker) numbersOf(policy, key string, revision uint64) *numbers {
	if r := c.catalog.sets[setKey{policy, revision}]; r != nil {
		return r.of(key)
	}
	return nil
}

// setAt returns the same, and for limits that are in no catalog what a shard's
// log has, as far as it was read.
func (c *checker) setAt(policy, key string, revision uint64) *numbers {
	if s := c.numbersOf(policy, key, revision); s != nil {
		return s
	}
	for _, s := range c.sets {
		if s.policy == policy && s.revision == revision && s.refusal == "" {
			return s
		}
	}
	return nil
}

// checkSets checks that the sets of limits in the shards' logs are those of the
// catalog.
func (c *checker) checkSets() {
	for _, s := range c.sets {
		doc := c.catalog.sets[setKey{s.policy, s.revision}]
		switch {
		case s.revision == 0 && s.refusal == api.UnknownPolicy:
		case strings.HasPrefix(s.policy, inlinePrefix):
			// "inline:name=rate/per/burst with a comma between limits"
			if s.policy != inlineName(s) || s.revision != 0 {
				c.report.add(UnknownLimits, "the inline limits %s are not those of their name", s)
			}
		case doc == nil && !c.catalog.seen:
			c.report.SetsUnseen++
		case doc == nil:
			c.report.add(UnknownLimits, "the limits %s are in a shard's log, and the catalog never had that revision of the policy", s)
		case !doc.has(s):
			c.report.add(UnknownLimits, "the limits %s are in a shard's log, and in the catalog they are %s, or those of its %d overrides", s, doc.policy, len(doc.overrides))
		}
	}
}

// checkOverrides checks that each operation of a log has the limits that the
// catalog gives its key, at the revision that it names.
func (c *checker) checkOverrides(places []*place) {
	for _, p := range places {
		s := p.op.set
		if want := c.numbersOf(s.policy, p.op.key, s.revision); want != nil && !s.same(want) {
			c.report.add(UnknownLimits, "%s has the limits %s, and the catalog gives the key %s", p.describe(), s, want)
		}
	}
}

func inlineName(s *numbers) string {
	var parts []string
	for _, l := range s.limits {
		parts = append(parts, l.name+"="+strconv.FormatInt(l.rate, 10)+"/"+api.Duration(l.per).String()+"/"+strconv.FormatInt(l.burst, 10))
	}
	return inlinePrefix + strings.Join(parts, ",")
}

// stalePolicies finds operations that were called after an edit of their policy
// had returned, and were yet decided by an older revision.
func (c *checker) stalePolicies() {
	byName := map[string][]*Edit{}
	for i := range c.h.Edits {
		if e := &c.h.Edits[i]; e.Outcome == Done && e.Policy != nil {
			byName[e.Name] = append(byName[e.Name], e)
		}
	}
	ops := map[string][]int{}
	for at, p := range c.placed {
		op := &c.h.Ops[at]
		if p != nil && op.placed() && !op.Stale && !op.acts() && !op.Answer.Duplicate && byName[op.Policy] != nil {
			ops[op.Policy] = append(ops[op.Policy], at)
		}
	}
	for name, list := range ops {
		slices.SortFunc(list, func(a, b int) int { return cmp.Compare(c.h.Ops[a].Call, c.h.Ops[b].Call) })
		newest := newestBefore(byName[name])
		for _, at := range list {
			op := &c.h.Ops[at]
			if r := newest(op.Call); op.Answer.Revision < r {
				c.report.StalePolicyUses++
				if c.in.StrictPolicies {
					c.report.add(StalePolicy, "%s was decided by revision %d, after an edit had returned with revision %d", op.describe(at), op.Answer.Revision, r)
				}
			}
		}
	}
}
