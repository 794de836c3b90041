package policy

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// Bounds of the trade-offs.
const (
	MinLeaseTTL = api.Duration(100 * time.Millisecond)
	MaxLeaseTTL = api.Duration(time.Hour)

	MinSyncInterval = api.Duration(10 * time.Millisecond)
	MaxSyncInterval = api.Duration(time.Minute)

	MinUnavailableFor = api.Duration(time.Second)
	MaxUnavailableFor = api.Duration(8784 * time.Hour)

	MaxHotKeys = 64

	// Five seconds are some hundred times a commit, so leases cost the log little;
	// and what a dead holder strands is back before people notice.
	defaultLeaseTTL = api.Duration(5 * time.Second)
	// What instances spend between two syncs is what soft may exceed.
	defaultSyncInterval = api.Duration(time.Second)
)

const (
	strict = "strict"
	leased = "leased"
	soft   = "soft"
	// Auto is the mode of policies whose hot keys are leased, and the others strict.
	Auto = "auto"

	closed = "closed"
)

// mode reads the mode and what belongs to it.
func (c *checker) mode(f map[string]*yaml.Node, p *api.Policy) {
	if v := f["mode"]; v != nil {
		p.Mode = c.pick(v, "mode", modes)
		if p.Mode != strict {
			c.noConcurrency(v, "mode", p)
		}
	}
	leases := p.Mode == leased || p.Mode == Auto
	if leases {
		p.LeaseTTL = defaultLeaseTTL
	}
	if v := f["lease_ttl"]; v != nil && c.belongs(v, "lease_ttl", leases, "mode leased and auto") {
		p.LeaseTTL, _ = c.millis(v, "lease_ttl", MinLeaseTTL, MaxLeaseTTL)
	}
	if p.Mode == soft {
		p.SyncInterval = defaultSyncInterval
	}
	if v := f["sync_interval"]; v != nil && c.belongs(v, "sync_interval", p.Mode == soft, "mode soft") {
		p.SyncInterval, _ = c.millis(v, "sync_interval", MinSyncInterval, MaxSyncInterval)
	}
	if v := f["hot_keys"]; v != nil && c.belongs(v, "hot_keys", p.Mode == Auto, "mode auto") {
		p.HotKeys = c.hotKeys(v, "hot_keys")
	}
}

// unavailable reads what decides when the store can't, and for how long.
func (c *checker) unavailable(f map[string]*yaml.Node, p *api.Policy) {
	if v := f["on_unavailable"]; v != nil {
		p.OnUnavailable = c.pick(v, "on_unavailable", unavailables)
		if p.OnUnavailable != closed {
			c.noConcurrency(v, "on_unavailable", p)
		}
	}
	if v := f["on_unavailable_for"]; v != nil && c.belongs(v, "on_unavailable_for", p.OnUnavailable != closed, "on_unavailable open and local") {
		p.OnUnavailableFor, _ = c.millis(v, "on_unavailable_for", MinUnavailableFor, MaxUnavailableFor)
	}
}

// noConcurrency refuses the value of a field that permits can't have: only the
// store knows how many are held.
func (c *checker) noConcurrency(n *yaml.Node, path string, p *api.Policy) {
	for i := range p.Limits {
		if p.Limits[i].Algorithm == concurrency {
			c.add(n, path, "%s is not for policies with a concurrency limit, as limits[%d] is; leave the field out", quote(n.Value), i)
			return
		}
	}
}

// belongs refuses a field that means nothing beside the others.
func (c *checker) belongs(n *yaml.Node, path string, ok bool, to string) bool {
	if !ok {
		c.add(n, path, "%s is for %s only; remove it", path, to)
	}
	return ok
}

// millis is duration, for what travels in whole milliseconds.
func (c *checker) millis(n *yaml.Node, path string, low, high api.Duration) (api.Duration, bool) {
	d, ok := c.duration(n, path, low, high)
	if ok && time.Duration(d)%time.Millisecond != 0 {
		c.add(n, path, "it needs whole milliseconds, not %s", d)
		return 0, false
	}
	return d, ok
}

// hotKeys reads a list of keys. Without elements it is nil.
func (c *checker) hotKeys(n *yaml.Node, path string) []string {
	switch {
	case n.Kind != yaml.SequenceNode:
		c.add(n, path, "it needs a list of keys, not %s", kindOf(n))
		return nil
	case len(n.Content) > MaxHotKeys:
		c.add(n, path, "it has %d keys; the most is %d", len(n.Content), MaxHotKeys)
		return nil
	}
	var keys []string
	for i, v := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !c.plain(v, at) {
			continue
		}
		key, ok := c.text(v, at)
		if !ok {
			continue
		}
		c.problem(v, at, api.CheckKey(key))
		if slices.Contains(keys, key) {
			c.add(v, at, "%s is in the list already; remove it", quote(key))
		}
		keys = append(keys, key)
	}
	return keys
}

// supportedModes is the part of [Supported] that is about trade-offs.
func supportedModes(p *api.Policy) error {
	permits := slices.ContainsFunc(p.Limits, func(l api.Limit) bool { return l.Algorithm == concurrency })
	if permits && (p.Mode != strict || p.OnUnavailable != closed) {
		return fmt.Errorf("policy %q: a concurrency limit with mode %q and on_unavailable %q", p.Name, p.Mode, p.OnUnavailable)
	}
	leases := p.Mode == leased || p.Mode == Auto
	for _, f := range []struct {
		field string
		value api.Duration
		want  bool
	}{{"lease_ttl", p.LeaseTTL, leases}, {"sync_interval", p.SyncInterval, p.Mode == soft}} {
		if f.want && f.value < api.Duration(time.Millisecond) || !f.want && f.value != 0 {
			return fmt.Errorf("policy %q: %s is %s in mode %q", p.Name, f.field, f.value, p.Mode)
		}
	}
	if p.OnUnavailableFor < 0 || p.OnUnavailableFor != 0 && p.OnUnavailable == closed {
		return fmt.Errorf("policy %q: on_unavailable_for is %s with on_unavailable %q", p.Name, p.OnUnavailableFor, p.OnUnavailable)
	}
	if len(p.HotKeys) > 0 && p.Mode != Auto {
		return fmt.Errorf("policy %q: hot_keys in mode %q", p.Name, p.Mode)
	}
	return nil
}

// resolveModes fills in the trade-offs of a set. An override may bring a
// concurrency limit into any policy: then the store alone decides.
func resolveModes(p *api.Policy, info *api.SetInfo) {
	for _, l := range info.Limits {
		if l.Algorithm == api.Concurrency {
			return
		}
	}
	millis := func(d api.Duration) int64 { return time.Duration(d).Milliseconds() }
	switch p.Mode {
	case leased:
		info.Mode, info.LeaseTTL = api.Leased, millis(p.LeaseTTL)
	case soft:
		info.Mode, info.SyncInterval = api.Soft, millis(p.SyncInterval)
	}
	info.Unavailable = uint8(max(0, slices.Index(unavailables, p.OnUnavailable)))
	if info.Unavailable != api.FailClosed {
		info.UnavailableFor = millis(p.OnUnavailableFor)
	}
}
