package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// maxErrors bounds the errors listed for one document.
const maxErrors = 100

// checker collects the errors of a document while it is read.
type checker struct {
	errs []api.FieldError
	// inline: the text is a request's, whose lines nobody knows.
	inline bool
}

// firstLine is where errors of a whole document or file stand.
var firstLine = &yaml.Node{Line: 1}

func (c *checker) add(n *yaml.Node, path, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	c.errs = append(c.errs, api.FieldError{Line: line, Path: path, Message: fmt.Sprintf(format, args...)})
}

// errors returns what was found in the order of lines, at most [maxErrors].
func (c *checker) errors() []api.FieldError {
	slices.SortStableFunc(c.errs, func(a, b api.FieldError) int { return a.Line - b.Line })
	if more := len(c.errs) - maxErrors; more > 0 {
		c.errs = append(c.errs[:maxErrors:maxErrors], api.FieldError{
			Line: c.errs[maxErrors].Line, Message: fmt.Sprintf("%d more errors are not listed; fix the others first", more),
		})
	}
	return c.errs
}

// plain refuses what YAML has beyond JSON's model.
func (c *checker) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		c.add(n, path, "YAML aliases are not supported; write the value out")
	case n.Anchor != "":
		c.add(n, path, "YAML anchors are not supported; remove &%s", clip(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		c.add(n, path, "YAML tags are not supported; remove %s", clip(n.Tag))
	default:
		return true
	}
	return false
}

// mapping returns the fields of n by name. Its values are plain; unknown and
// repeated fields are reported and left out. ok is false if n is no mapping.
func (c *checker) mapping(n *yaml.Node, path, what string, known []string) (fields map[string]*yaml.Node, ok bool) {
	if !c.plain(n, path) {
		return nil, false
	}
	if n.Kind != yaml.MappingNode {
		c.add(n, path, "%s is a mapping of fields (%s), not %s", what, strings.Join(known, ", "), kindOf(n))
		return nil, false
	}
	fields = make(map[string]*yaml.Node, len(known))
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !c.plain(key, path) {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			c.add(key, path, "the name of a field is text, not %s", kindOf(key))
			continue
		}
		name := key.Value
		at := join(path, clip(name))
		if first, seen := lines[name]; seen {
			where := fmt.Sprintf(", at line %d", first)
			if c.inline {
				where = ""
			}
			c.add(key, at, "this field is here already%s; keep one of them", where)
			continue
		}
		lines[name] = key.Line
		switch {
		case !slices.Contains(known, name):
			c.add(key, at, "%s", unknownField(name, known))
		case c.plain(value, at):
			fields[name] = value
		default:
			fields[name] = nil // present, and its error is reported
		}
	}
	return fields, true
}

func unknownField(name string, known []string) string {
	switch name {
	case "<<":
		return "YAML merge keys are not supported; write the fields out"
	}
	return fmt.Sprintf("unknown field %s; the fields here are %s", quote(name), strings.Join(known, ", "))
}

// text returns the string that n holds.
func (c *checker) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		c.add(n, path, "it needs text, not %s", kindOf(n))
	case n.ShortTag() == "!!null":
		c.add(n, path, "it has no value; give it one or remove the field")
	case n.ShortTag() != "!!str":
		c.add(n, path, "it needs text, not %s; put it in quotes", kindOf(n))
	default:
		return n.Value, true
	}
	return "", false
}

var digits = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

const quotedStyle = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// whole returns the whole number between 1 and limit that n holds.
func (c *checker) whole(n *yaml.Node, path string, limit int64) (int64, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		c.add(n, path, "it needs a whole number, not %s", kindOf(n))
	case n.Style&quotedStyle != 0 && digits.MatchString(n.Value):
		c.add(n, path, "it needs a whole number, not text; remove the quotes")
	case n.ShortTag() == "!!null":
		c.add(n, path, "it has no value; give it a whole number or remove the field")
	case n.Style&quotedStyle != 0 || !digits.MatchString(n.Value):
		c.add(n, path, "it needs a whole number in plain digits, such as 100, not %s", quote(n.Value))
	default:
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err == nil && v >= 1 && v <= limit {
			return v, true
		}
		c.add(n, path, "it needs to be 1 to %d, not %s", limit, clip(n.Value))
	}
	return 0, false
}

// duration returns the time span between low and high that n holds.
func (c *checker) duration(n *yaml.Node, path string, low, high api.Duration) (api.Duration, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		c.add(n, path, "it needs a duration such as 1s or 24h, not %s", kindOf(n))
	case n.ShortTag() == "!!null":
		c.add(n, path, "it has no value; give it a duration such as 1s")
	case digits.MatchString(n.Value):
		c.add(n, path, "a duration needs its unit, such as %ss or %sms", clip(n.Value), clip(n.Value))
	case n.Value == "month":
		c.add(n, path, "month is for fixed_window limits; use a duration such as 24h")
	default:
		v, err := time.ParseDuration(n.Value)
		if err != nil {
			c.add(n, path, "%s is not a duration; write one such as 500ms, 1s, 1m30s or 24h", quote(n.Value))
		} else if d := api.Duration(v); d < low || d > high {
			c.add(n, path, "it needs to be %s to %s, not %s", low, high, d)
		} else {
			return d, true
		}
	}
	return 0, false
}

// choice is the closed set of values of a field; the first is the default.
type choice []string

func (ch choice) byDefault() string { return ch[0] }

// pick returns the value that n holds, or the default if it holds none.
func (c *checker) pick(n *yaml.Node, path string, ch choice) string {
	s, ok := c.text(n, path)
	switch {
	case !ok:
	case slices.Contains(ch, s):
		return s
	default:
		c.add(n, path, "%s is not a value of this field; it takes %s", quote(s), strings.Join(ch, ", "))
	}
	return ch.byDefault()
}

// kindOf names what n holds, for messages.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// clip bounds what a message repeats of a document.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func quote(s string) string { return strconv.Quote(clip(s)) }
