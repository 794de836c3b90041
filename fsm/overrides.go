package fsm

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

const (
	// MaxOverrides bounds the overrides of all policies together: each takes some
	// 400 bytes on every node.
	MaxOverrides = 200_000
	// MaxPrefixes bounds the different lengths that the prefixes of one policy's
	// patterns may have: a take looks each of them up that is not longer than its
	// key.
	MaxPrefixes = 64

	// overrideParts is into how many maps a policy's overrides are cut; an edit
	// copies one. It fits 100,000.
	overrideParts = 256
)

// override is one exception of a policy. But for made it is immutable.
type override struct {
	doc     api.Override // as written: with TTL, without ExpiresInMS
	expires uint64       // cluster time, nanoseconds; 0 is never

	// made is what the limits resolved to lately: sets are made when they are
	// first asked for, since each edit of a policy makes those of all its
	// overrides obsolete.
	made atomic.Pointer[madeSet]
}

type madeSet struct {
	at  uint64 // CatalogPolicy.made of whom it was made for
	set *policy.Set
}

// overrides are the exceptions of one policy. They are immutable: an edit makes
// new ones, which share what did not change.
type overrides struct {
	n       int
	parts   [overrideParts]overridePart
	lengths []prefixLength // of the patterns, the longest first

	sort   sync.Once
	sorted []*override // by key, once sort has run
}

// overridePart holds those whose key, or whose pattern's prefix, hashes to it.
type overridePart struct {
	keys     map[string]*override
	prefixes map[string]*override // without the '*'
	next     uint64               // when the first of them expires; 0 if none does
}

// prefixLength is how many patterns have a prefix of this length.
type prefixLength struct{ bytes, patterns int }

var noOverrides = new(overrides)

// newOverrides returns what holds all of list, whose keys differ.
func newOverrides(list []*override) *overrides {
	t := new(overrides)
	for _, o := range list {
		text, pattern := api.CutPattern(o.doc.Key)
		part := &t.parts[partOf(text)]
		m := &part.keys
		if pattern {
			m = &part.prefixes
		}
		if *m == nil {
			*m = map[string]*override{}
		}
		(*m)[text] = o
		t.count(o.doc.Key, 1)
	}
	for i := range t.parts {
		t.parts[i].findNext()
	}
	return t
}

func partOf(text string) int { return int(api.Hash(text) % overrideParts) }

// match returns the override that applies to key, or nil.
func (t *overrides) match(key string) *override {
	if o := t.parts[partOf(key)].keys[key]; o != nil {
		return o
	}
	for _, l := range t.lengths {
		if l.bytes > len(key) {
			continue
		}
		prefix := key[:l.bytes]
		if o := t.parts[partOf(prefix)].prefixes[prefix]; o != nil {
			return o
		}
	}
	return nil
}

// get returns the override of this very key or pattern, or nil.
func (t *overrides) get(key string) *override {
	prefix, pattern := api.CutPattern(key)
	if pattern {
		return t.parts[partOf(prefix)].prefixes[prefix]
	}
	return t.parts[partOf(key)].keys[key]
}

// with returns t with o in it, in place of the one of the same key.
func (t *overrides) with(o *override) *overrides {
	had := t.get(o.doc.Key) != nil
	u := t.edit(o.doc.Key, func(m map[string]*override, text string) { m[text] = o })
	if !had {
		u.count(o.doc.Key, 1)
	}
	return u
}

// without returns t without the override of this key, which is in it.
func (t *overrides) without(key string) *overrides {
	u := t.edit(key, func(m map[string]*override, text string) { delete(m, text) })
	u.count(key, -1)
	return u
}

// edit returns a copy of t in which change has been called with the map that key
// belongs to.
func (t *overrides) edit(key string, change func(m map[string]*override, text string)) *overrides {
	u := &overrides{n: t.n, parts: t.parts, lengths: t.lengths}
	text, pattern := api.CutPattern(key)
	part := &u.parts[partOf(text)]
	m := &part.keys
	if pattern {
		m = &part.prefixes
	}
	if *m = maps.Clone(*m); *m == nil {
		*m = map[string]*override{}
	}
	change(*m, text)
	part.findNext()
	return u
}

// count adds by to the number of overrides, and of prefixes as long as key's.
func (t *overrides) count(key string, by int) {
	t.n += by
	prefix, pattern := api.CutPattern(key)
	if !pattern {
		return
	}
	t.lengths = slices.Clone(t.lengths)
	i, found := t.lengthAt(len(prefix))
	if !found {
		t.lengths = slices.Insert(t.lengths, i, prefixLength{bytes: len(prefix)})
	}
	if t.lengths[i].patterns += by; t.lengths[i].patterns == 0 {
		t.lengths = slices.Delete(t.lengths, i, i+1)
	}
}

func (t *overrides) lengthAt(bytes int) (int, bool) {
	return slices.BinarySearchFunc(t.lengths, bytes, func(l prefixLength, b int) int { return b - l.bytes })
}

// room tells whether an override of this key keeps to [MaxPrefixes].
func (t *overrides) room(key string) bool {
	prefix, pattern := api.CutPattern(key)
	_, found := t.lengthAt(len(prefix))
	return !pattern || found || len(t.lengths) < MaxPrefixes
}

// list returns all of them in the order of their keys. The slice is shared.
func (t *overrides) list() []*override {
	t.sort.Do(func() {
		t.sorted = make([]*override, 0, t.n)
		for i := range t.parts {
			for _, m := range []map[string]*override{t.parts[i].keys, t.parts[i].prefixes} {
				for _, o := range m { // order-free: they are sorted below
					t.sorted = append(t.sorted, o)
				}
			}
		}
		slices.SortFunc(t.sorted, func(a, b *override) int { return strings.Compare(a.doc.Key, b.doc.Key) })
	})
	return t.sorted
}

// findNext sets p.next.
func (p *overridePart) findNext() {
	p.next = 0
	for _, m := range []map[string]*override{p.keys, p.prefixes} {
		for _, o := range m { // order-free: the minimum is one
			if o.expires != 0 && (p.next == 0 || o.expires < p.next) {
				p.next = o.expires
			}
		}
	}
}

// nextExpiry is when the first override expires; [math.MaxUint64] if none does.
func (t *overrides) nextExpiry() uint64 {
	next := uint64(math.MaxUint64)
	for i := range t.parts {
		if at := t.parts[i].next; at != 0 {
			next = min(next, at)
		}
	}
	return next
}

// expire returns t without those whose time is over at now, and how many went.
func (t *overrides) expire(now uint64) (*overrides, int) {
	if t.nextExpiry() > now {
		return t, 0
	}
	u := &overrides{n: t.n, parts: t.parts, lengths: t.lengths}
	for i := range u.parts {
		if p := &u.parts[i]; p.next != 0 && p.next <= now {
			p.keys, p.prefixes = u.unexpired(p.keys, now), u.unexpired(p.prefixes, now)
			p.findNext()
		}
	}
	return u, t.n - u.n
}

// unexpired returns a copy of m without what is over at now, and takes that out of
// t's count.
func (t *overrides) unexpired(m map[string]*override, now uint64) map[string]*override {
	m = maps.Clone(m)
	for text, o := range m { // order-free: each is removed on its own
		if o.expires != 0 && o.expires <= now {
			delete(m, text)
			t.count(o.doc.Key, -1)
		}
	}
	return m
}
