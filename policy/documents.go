package policy

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// eachDocument calls fn with the root of each document that is not empty, and
// stops at the first place that is not YAML.
func (c *checker) eachDocument(text []byte, fn func(*yaml.Node)) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			line, message := syntaxError(text, err)
			// What is missing at the end is missing on the last line, while the
			// library counts one more.
			line = min(line, lastLine(text))
			c.add(&yaml.Node{Line: line}, "", "this is neither YAML nor JSON: %s", message)
			return
		}
		if len(doc.Content) == 1 && !isEmpty(doc.Content[0]) {
			fn(doc.Content[0])
		}
	}
}

// lastLine is the number of text's last line, from 1, as YAML counts lines.
func lastLine(text []byte) int {
	return 1 + strings.Count(strings.TrimSuffix(lineBreaks.Replace(string(text)), "\n"), "\n")
}

// lineBreaks are all that YAML takes for the end of a line beside "\n".
var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

// isEmpty tells a document without any content from one that says null.
func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Value == "" && n.Style&(quotedStyle|yaml.TaggedStyle) == 0 && n.Anchor == ""
}

var (
	yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)
	// The library counts lines from 1 in errors of its scanner, and from 0 in
	// those of its parser, which are these.
	fromParser = regexp.MustCompile(`^(did not find expected ('-'|key|',' or|node content|<)|found (undefined tag handle|duplicate %|incompatible))`)
	noAnchor   = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
)

// syntaxError takes the library's error apart. The line may be that where the
// broken mapping or list begins.
func syntaxError(text []byte, err error) (line int, message string) {
	message = yamlLine.ReplaceAllString(err.Error(), "")
	if m := noAnchor.FindStringSubmatch(message); m != nil {
		before, _, _ := strings.Cut(string(text), "*"+m[1])
		return 1 + strings.Count(before, "\n"), "the alias *" + clip(m[1]) + " has no anchor; write the value out"
	}
	line = 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		line, _ = strconv.Atoi(m[1]) // the pattern has digits only
		if fromParser.MatchString(message) {
			line++
		}
	}
	return line, clip(message)
}
