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
	sets     map[setKey]*numbers    // what they resolve to
	deleted  map[string]int         // times, by name
	removed  map[string]bool        // members, by id
}

func newCatalog() *catalog {
	return &catalog{
		current: map[string]*api.Policy{}, docs: map[setKey]*api.Policy{},
		sets: map[setKey]*numbers{}, deleted: map[string]int{},
		removed: map[string]bool{},
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
		switch d.kind {
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
	c.docs[key], c.sets[key] = doc, resolve(doc)
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
		if !known[key] && !unknown[key.policy] {
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

// numbersOf returns what a policy resolved to at a revision, or nil.
func (c *checker) numbersOf(policy string, revision uint64) *numbers {
	return c.catalog.sets[setKey{policy, revision}]
}

// setAt returns the same, and for limits that are in no catalog what a shard's
// log has, as far as it was read.
func (c *checker) setAt(policy string, revision uint64) *numbers {
	if s := c.numbersOf(policy, revision); s != nil {
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
		doc := c.numbersOf(s.policy, s.revision)
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
		case !s.same(doc):
			c.report.add(UnknownLimits, "the limits %s are in a shard's log, and in the catalog they are %s", s, doc)
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
		if p != nil && op.placed() && !op.Stale && !op.Answer.Duplicate && byName[op.Policy] != nil {
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
