package limiter

import (
	"strings"
	"sync"
)

// generations is a map of bounded size that keeps what was used recently, by
// count and without clocks: when the young half is full, it becomes the old
// half, and what the old half held is forgotten. So each of the last size
// distinct keys is there, and never more than twice as many.
type generations[V comparable] struct {
	size int

	mu         sync.Mutex
	young, old map[string]V // each at most size entries
}

func newGenerations[V comparable](size int) *generations[V] {
	return &generations[V]{size: size, young: map[string]V{}}
}

// get returns the value of key. A value found in the old half moves to the
// young one.
func (g *generations[V]) get(key string) (v V, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.locked(key)
}

func (g *generations[V]) locked(key string) (v V, ok bool) {
	if v, ok = g.young[key]; ok {
		return v, true
	}
	if v, ok = g.old[key]; ok {
		g.put(key, v)
	}
	return v, ok
}

// add returns the value that key has, or else gives it v.
func (g *generations[V]) add(key string, v V) (V, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if had, ok := g.locked(key); ok {
		return had, true
	}
	g.put(key, v)
	return v, false
}

// remove forgets key, if it has the value v.
func (g *generations[V]) remove(key string, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range []map[string]V{g.young, g.old} {
		if had, ok := m[key]; ok && had == v {
			delete(m, key)
		}
	}
}

// put stores a copy of key, which may alias a request's memory.
func (g *generations[V]) put(key string, v V) {
	if len(g.young) >= g.size {
		g.old, g.young = g.young, make(map[string]V, g.size)
	}
	g.young[strings.Clone(key)] = v
}
