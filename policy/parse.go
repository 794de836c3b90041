package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// Bounds of documents.
const (
	MaxDocument = 64 << 10 // bytes of one document
	MaxFile     = 16 << 20 // bytes of a file of documents, for ParseAll
	MaxLimits   = 16       // limits of a policy
	MaxRate     = 1<<31 - 1
	MaxBurst    = 1<<31 - 1

	MinPer = api.Duration(time.Millisecond)
	MaxPer = api.Duration(8784 * time.Hour)
)

var (
	policyFields = []string{"name", "limits", "mode", "lease_ttl", "sync_interval", "hot_keys", "on_unavailable", "on_unavailable_for", "enforcement", "time_zone", "headers", "revision", "time_zone_rules"}
	limitFields  = []string{"name", "algorithm", "rate", "per", "burst", "max"}

	headers = choice{XRateLimit}

	// In the order of their numbers in package api, which has none for auto.
	modes        = choice{strict, leased, soft, Auto}
	unavailables = choice{"closed", "open", "local"}
	enforcements = choice{"enforce", "shadow", "off"}
	algorithms   = choice{tokenBucket, fixedWindow, slidingWindow, concurrency}
)

// XRateLimit is the value of a policy's headers for the X-RateLimit triple.
const XRateLimit = "x-ratelimit"

const (
	tokenBucket   = "token_bucket"
	fixedWindow   = "fixed_window"
	slidingWindow = "sliding_window"
	concurrency   = "concurrency"
)

// Parse reads one document, YAML or JSON, and returns the normalized policy, or
// every error in it. name is the one in the address, or "": a document may
// leave its name out if the address has it, and must not differ from it. The
// document's revision and time_zone_rules are ignored: the result has none.
func Parse(doc []byte, name string) (api.Policy, []api.FieldError) {
	var c checker
	if len(doc) > MaxDocument {
		c.add(firstLine, "", "the document has %d bytes; the most is %d", len(doc), MaxDocument)
		return api.Policy{}, c.errors()
	}
	var nodes []*yaml.Node
	if c.eachDocument(doc, func(n *yaml.Node) { nodes = append(nodes, n) }); len(c.errs) > 0 {
		return api.Policy{}, c.errors()
	}
	if len(nodes) == 0 {
		c.add(firstLine, "", "the document is empty; it needs at least name and limits")
		return api.Policy{}, c.errors()
	}
	p := c.policy(nodes[0], name)
	for _, n := range nodes[1:] {
		c.add(n, "", "another document begins here; this place takes one")
	}
	if len(c.errs) > 0 {
		return api.Policy{}, c.errors()
	}
	return p, nil
}

// Doc is one policy of a file of several.
type Doc struct {
	Policy api.Policy
	Line   int // where it begins
}

// ParseAll reads a file of documents that "---" separates; empty ones don't
// count. Lines are those of the file. It returns all of the policies or all of
// the errors, up to the first place that is not YAML at all.
func ParseAll(file []byte) ([]Doc, []api.FieldError) {
	var c checker
	if len(file) > MaxFile {
		c.add(firstLine, "", "the file has %d bytes; the most is %d", len(file), MaxFile)
		return nil, c.errors()
	}
	var docs []Doc
	lines := map[string]int{} // where a name was first defined
	c.eachDocument(file, func(n *yaml.Node) {
		before := len(c.errs)
		p := c.policy(n, "")
		if len(c.errs) > before {
			return
		}
		if first, ok := lines[p.Name]; ok {
			c.add(n, "name", "the policy %s is here already, at line %d; keep one of them", p.Name, first)
			return
		}
		lines[p.Name] = n.Line
		docs = append(docs, Doc{Policy: p, Line: n.Line})
	})
	if len(docs) == 0 && len(c.errs) == 0 {
		c.add(firstLine, "", "the file holds no policy")
	}
	if len(c.errs) > 0 {
		return nil, c.errors()
	}
	return docs, nil
}

// Problem is the invalid-policy problem of errs, which must not be empty.
func Problem(errs []api.FieldError) *api.Problem {
	first := errs[0]
	var place []string
	if first.Line > 0 {
		place = append(place, "line "+strconv.Itoa(first.Line))
	}
	if first.Path != "" {
		place = append(place, first.Path)
	}
	detail := first.Message
	if len(place) > 0 {
		detail = strings.Join(place, ", ") + ": " + detail
	}
	if len(errs) > 1 {
		detail = fmt.Sprintf("%d errors; the first: %s", len(errs), detail)
	}
	p := api.NewProblem(api.InvalidPolicy, "%s", detail)
	p.Errors = errs
	return p
}

// policy reads a whole document. Its result means something only if no error
// was added.
func (c *checker) policy(n *yaml.Node, name string) api.Policy {
	p := api.Policy{Name: name, Mode: modes.byDefault(), OnUnavailable: unavailables.byDefault(), Enforcement: enforcements.byDefault()}
	f, ok := c.mapping(n, "", "a policy", policyFields)
	if !ok {
		return p
	}
	c.policyName(n, f, &p)
	if limits, ok := f["limits"]; !ok {
		c.add(n, "limits", "it is missing; add 1 to %d limits, such as [{rate: 100, per: 1s}]", MaxLimits)
	} else if limits != nil {
		p.Limits = c.limits(limits, "limits")
	}
	c.mode(f, &p)
	c.unavailable(f, &p)
	if v := f["enforcement"]; v != nil {
		p.Enforcement = c.pick(v, "enforcement", enforcements)
	}
	if v := f["time_zone"]; v != nil {
		p.TimeZone = c.timeZone(v, "time_zone", p.Limits)
	}
	if v := f["headers"]; v != nil {
		p.Headers = c.headers(v, "headers")
	}
	if v := f["revision"]; v != nil {
		_, err := strconv.ParseUint(v.Value, 10, 64)
		if v.Kind != yaml.ScalarNode || v.Style&quotedStyle != 0 || err != nil {
			c.add(v, "revision", "it needs a whole number; the server sets it, so it may also be left out")
		}
	}
	return p
}

// headers reads the list of what answers tell beside the draft's fields. Without
// elements it is nil.
func (c *checker) headers(n *yaml.Node, path string) []string {
	if n.Kind != yaml.SequenceNode {
		c.add(n, path, "it needs a list, such as [%s], not %s", XRateLimit, kindOf(n))
		return nil
	}
	var list []string
	for i, v := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		s := c.pick(v, at, headers)
		if slices.Contains(list, s) {
			c.add(v, at, "%s is in the list already; remove it", quote(s))
		}
		list = append(list, s)
	}
	return list
}

// policyName settles the name between the document and the address.
func (c *checker) policyName(n *yaml.Node, f map[string]*yaml.Node, p *api.Policy) {
	address := p.Name
	if wrong := wrongName(address); address != "" && wrong != "" {
		c.add(nil, "name", "the name %s in the address %s", quote(address), wrong)
	}
	v, ok := f["name"]
	if !ok {
		if address == "" {
			c.add(n, "name", "it is missing; give the policy a name")
		}
		return
	}
	if v == nil {
		return
	}
	s, ok := c.text(v, "name")
	switch {
	case !ok:
	case wrongName(s) != "":
		c.add(v, "name", "the name %s %s", quote(s), wrongName(s))
	case address != "" && s != address:
		c.add(v, "name", "the document is named %s, the address says %s; make them equal", quote(s), quote(address))
	default:
		p.Name = s
	}
}

// limits reads a list of limits.
func (c *checker) limits(n *yaml.Node, path string) []api.Limit {
	switch {
	case n.Kind != yaml.SequenceNode:
		c.add(n, path, "it needs a list of limits, such as [{rate: 100, per: 1s}], not %s", kindOf(n))
		return nil
	case len(n.Content) == 0:
		c.add(n, path, "it is empty; it needs 1 to %d limits", MaxLimits)
		return nil
	case len(n.Content) > MaxLimits:
		c.add(n, path, "it has %d limits; the most is %d", len(n.Content), MaxLimits)
		return nil
	}
	limits := make([]api.Limit, len(n.Content))
	first := map[string]int{} // index of the limit with this name
	for i, v := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		limits[i] = c.limit(v, at)
		if limits[i].Name == "" {
			limits[i].Name = "limit-" + strconv.Itoa(i+1)
			if len(n.Content) == 1 {
				limits[i].Name = "default"
			}
		}
		if j, ok := first[limits[i].Name]; ok {
			c.add(v, at+".name", "%s is the name of %s[%d] already; give each limit its own", quote(limits[i].Name), path, j)
		} else {
			first[limits[i].Name] = i
		}
	}
	return limits
}

// limit reads one limit; its name stays "" if it has none.
func (c *checker) limit(n *yaml.Node, path string) api.Limit {
	l := api.Limit{Algorithm: algorithms.byDefault()}
	f, ok := c.mapping(n, path, "a limit", limitFields)
	if !ok {
		return l
	}
	if v := f["name"]; v != nil {
		if s, ok := c.text(v, path+".name"); ok && !validPart(s) {
			c.add(v, path+".name", "%s is not a valid name: %s", quote(s), nameRule)
		} else {
			l.Name = s
		}
	}
	if v := f["algorithm"]; v != nil {
		l.Algorithm = c.pick(v, path+".algorithm", algorithms)
	}
	if l.Algorithm == concurrency {
		c.permits(n, path, f, &l)
	} else {
		c.tokens(n, path, f, &l)
	}
	return l
}

// permits reads the numbers of a concurrency limit.
func (c *checker) permits(n *yaml.Node, path string, f map[string]*yaml.Node, l *api.Limit) {
	for _, name := range []string{"rate", "per", "burst"} {
		if v := f[name]; v != nil {
			c.add(v, path+"."+name, "a concurrency limit has no %s, only max; remove it", name)
		}
	}
	if v, ok := f["max"]; !ok {
		c.add(n, path+".max", "it is missing; add the permits that may be held at a time, such as 10")
	} else if v != nil {
		l.Max, _ = c.whole(v, path+".max", MaxBurst)
	}
}

// tokens reads the numbers of the other limits.
func (c *checker) tokens(n *yaml.Node, path string, f map[string]*yaml.Node, l *api.Limit) {
	if v := f["max"]; v != nil {
		c.add(v, path+".max", "max is for concurrency limits; a %s limit has rate and per", l.Algorithm)
	}
	rateOK, perOK := false, false
	if v, ok := f["rate"]; !ok {
		c.add(n, path+".rate", "it is missing; add the tokens that come back each per, such as 100")
	} else if v != nil {
		l.Rate, rateOK = c.whole(v, path+".rate", MaxRate)
	}
	if v, ok := f["per"]; !ok {
		c.add(n, path+".per", "it is missing; add a duration such as 1s or 24h")
	} else if v != nil && l.Algorithm == fixedWindow && v.Kind == yaml.ScalarNode && v.Value == "month" {
		l.Per = api.Month
	} else if v != nil {
		l.Per, perOK = c.duration(v, path+".per", MinPer, MaxPer)
	}
	// One token a nanosecond is the resolution of cluster time.
	if rateOK && perOK && l.Rate > int64(l.Per) {
		c.add(f["rate"], path+".rate", "%d per %s is more than 10^9 a second; lower the rate or lengthen per", l.Rate, l.Per)
	}
	v := f["burst"]
	if l.Algorithm != tokenBucket {
		if v != nil {
			c.add(v, path+".burst", "burst is for token_bucket limits; of a %s limit at most rate passes at once; remove it", l.Algorithm)
		}
		return
	}
	l.Burst = l.Rate
	if v != nil {
		l.Burst, _ = c.whole(v, path+".burst", MaxBurst)
	}
}
