package policy

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// ParseInline resolves the limits that a request brings along, a JSON array
// under the rules of a policy's limits. Its errors are [api.InvalidPolicy]
// problems; they have no lines.
//
// The set's policy is "inline:" and a canonical text of the limits, which no
// policy's name can be. Hence requests whose limits are equal, however written,
// share a key's bucket, and others never do. Its revision is 0.
func ParseInline(jsonLimits []byte) (*Set, error) {
	c := checker{inline: true}
	var limits []api.Limit
	switch {
	case len(jsonLimits) > MaxDocument:
		c.add(nil, "limits", "it has %d bytes; the most is %d", len(jsonLimits), MaxDocument)
	case !json.Valid(jsonLimits):
		c.add(nil, "limits", "this is not JSON")
	default:
		c.eachDocument(jsonLimits, func(n *yaml.Node) { limits = c.limits(n, "limits") })
		if len(limits) == 0 && len(c.errs) == 0 {
			c.add(nil, "limits", "it needs a list of limits")
		}
	}
	if errs := c.errors(); len(errs) > 0 {
		for i := range errs {
			errs[i].Line = 0
		}
		return nil, Problem(errs)
	}
	p := api.Policy{Name: inlineName(limits), Limits: limits}
	return Resolve(&p), nil
}

// inlineName is "inline:name=rate/per/burst" with a comma between limits; of the
// other algorithms "name=algorithm:rate/per" or "name=concurrency:max". None of
// its parts can hold one of its separators, so it is unambiguous.
func inlineName(limits []api.Limit) string {
	var b strings.Builder
	b.WriteString("inline:")
	for i, l := range limits {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l.Name)
		b.WriteByte('=')
		if l.Algorithm != tokenBucket {
			b.WriteString(l.Algorithm)
			b.WriteByte(':')
		}
		if l.Algorithm == concurrency {
			b.WriteString(strconv.FormatInt(l.Max, 10))
			continue
		}
		b.WriteString(strconv.FormatInt(l.Rate, 10))
		b.WriteByte('/')
		b.WriteString(l.Per.String())
		if l.Algorithm == tokenBucket {
			b.WriteByte('/')
			b.WriteString(strconv.FormatInt(l.Burst, 10))
		}
	}
	return b.String()
}
