package policy

import (
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// Bounds of an override's time to live.
const (
	MinTTL = api.Duration(time.Second)
	MaxTTL = api.Duration(8784 * time.Hour)
)

// overrideFields are those that a document may hold; the last four are the
// server's, and ignored.
var overrideFields = []string{"key", "limits", "reason", "ttl", "expires_in_ms", "author", "at", "revision"}

// ParseOverride reads one override of a policy, YAML or JSON, and returns it
// normalized, or every error in it. What only the server sets is left out.
func ParseOverride(doc []byte) (api.Override, []api.FieldError) {
	list, errs := ParseOverrides(doc)
	if len(list) > 1 {
		var c checker
		c.add(firstLine, "", "the document holds %d overrides; this place takes one", len(list))
		errs = c.errors()
	}
	if len(errs) > 0 {
		return api.Override{}, errs
	}
	return list[0], nil
}

// ParseOverrides reads a file of overrides of one policy, which "---" separates.
func ParseOverrides(file []byte) ([]api.Override, []api.FieldError) {
	var c checker
	if len(file) > MaxFile {
		c.add(firstLine, "", "the file has %d bytes; the most is %d", len(file), MaxFile)
		return nil, c.errors()
	}
	var list []api.Override
	lines := map[string]int{} // where a key was first given
	c.eachDocument(file, func(n *yaml.Node) {
		before := len(c.errs)
		o := c.override(n)
		if len(c.errs) > before {
			return
		}
		if first, ok := lines[o.Key]; ok {
			c.add(n, "key", "the key %s is here already, at line %d; keep one of them", quote(o.Key), first)
			return
		}
		lines[o.Key] = n.Line
		list = append(list, o)
	})
	if len(list) == 0 && len(c.errs) == 0 {
		c.add(firstLine, "", "the document is empty; it needs at least key and limits")
	}
	if len(c.errs) > 0 {
		return nil, c.errors()
	}
	return list, nil
}

func (c *checker) override(n *yaml.Node) (o api.Override) {
	f, ok := c.mapping(n, "", "an override", overrideFields)
	if !ok {
		return o
	}
	if v, ok := f["key"]; !ok {
		c.add(n, "key", "it is missing; give a key, or a pattern such as vip:*")
	} else if v != nil {
		if o.Key, ok = c.text(v, "key"); ok {
			c.problem(v, "key", api.CheckKey(o.Key))
		}
	}
	if v, ok := f["limits"]; !ok {
		c.add(n, "limits", "it is missing; add 1 to %d limits, such as [{rate: 100, per: 1s}]", MaxLimits)
	} else if v != nil {
		o.Limits = c.limits(v, "limits")
	}
	if v := f["reason"]; v != nil {
		if o.Reason, ok = c.text(v, "reason"); ok {
			c.problem(v, "reason", api.CheckNote("reason", o.Reason))
		}
	}
	if v := f["ttl"]; v != nil {
		o.TTL, _ = c.duration(v, "ttl", MinTTL, MaxTTL)
	}
	if v := f["expires_in_ms"]; v != nil {
		c.add(v, "expires_in_ms", "the server tells it; write ttl instead, such as 720h")
	}
	return o
}

// problem adds what err, an [*api.Problem] or nil, says.
func (c *checker) problem(n *yaml.Node, path string, err error) {
	if err != nil {
		c.add(n, path, "%s", api.AsProblem(err).Detail)
	}
}

// Overrides finds the limits of keys that have their own.
type Overrides interface {
	// Override returns the set of the override that matches key, or nil.
	Override(key string) *Set
}

// ResolveOverride is [Resolve] with an override's limits in place of the policy's.
func ResolveOverride(p *api.Policy, limits []api.Limit) *Set {
	q := *p
	q.Limits = limits
	return Resolve(&q)
}

// SupportedOverride is [Supported] for an override.
func SupportedOverride(o *api.Override) error {
	return Supported(&api.Policy{
		Name: o.Key, Limits: o.Limits, Mode: modes.byDefault(), OnUnavailable: unavailables.byDefault(), Enforcement: enforcements.byDefault(),
	})
}
