package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Setting is one key of the configuration. It is the flag --Name, the variable
// [Setting.Env] and the key Name of the file.
type Setting struct {
	Name  string
	About string // for help; a word in backquotes names the value
	Bool  bool   // the flag needs no value

	field func(*Config) any // *string, *int, *bool or *[]string
}

// Settings is every key, in the order of their documentation.
var Settings = []Setting{
	{Name: "node-id", About: "stable `name` of this node (default made at the first start, kept in the data folder)", field: func(c *Config) any { return &c.NodeID }},
	{Name: "data-dir", About: "`folder` that keeps the node's state", field: func(c *Config) any { return &c.DataDir }},
	{Name: "http-addr", About: "`host:port` that the API listens on", field: func(c *Config) any { return &c.HTTPAddr }},
	{Name: "http-advertise", About: "`host:port` or URL where others reach the API (default http-addr)", field: func(c *Config) any { return &c.HTTPAdvertise }},
	{Name: "raft-addr", About: "`host:port` that the traffic between nodes listens on", field: func(c *Config) any { return &c.RaftAddr }},
	{Name: "raft-advertise", About: "`host:port` where other nodes reach this one (default raft-addr)", field: func(c *Config) any { return &c.RaftAdvertise }},
	{Name: "bootstrap-expect", About: "start a new cluster when this `number` of nodes see each other; 0 is never", field: func(c *Config) any { return &c.BootstrapExpect }},
	{Name: "join", About: "raft `addresses` of any nodes, comma-separated; its own may be among them", field: func(c *Config) any { return &c.Join }},
	{Name: "shards", About: "`number` of bucket shards of a new cluster", field: func(c *Config) any { return &c.Shards }},
	{Name: "allow-inline-limits", Bool: true, About: "let a take bring its own limits instead of a policy", field: func(c *Config) any { return &c.AllowInlineLimits }},
	{Name: "log-store", About: "`store` of the entries of the logs: bolt or wal", field: func(c *Config) any { return &c.LogStore }},
	{Name: "log-level", About: "`level`: debug, info, warn or error", field: func(c *Config) any { return &c.LogLevel }},
	{Name: "log-format", About: "`format`: text or json", field: func(c *Config) any { return &c.LogFormat }},
}

// Env is the environment variable of the setting.
func (s Setting) Env() string {
	return "RLSTORE_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Default is the text of the setting's default, for help: "" where it has none
// or follows from another.
func (s Setting) Default() string {
	c := defaults()
	switch p := s.field(&c).(type) {
	case *string:
		return *p
	case *int:
		return strconv.Itoa(*p)
	}
	return ""
}

// defaults is the configuration before anything is read or derived.
func defaults() Config {
	c := Config{}.WithDefaults()
	c.HTTPAdvertise, c.RaftAdvertise, c.Logger = "", "", nil
	return c
}

// Sources is where a configuration is read from: flags win over the
// environment, the environment over the file, the file over defaults.
type Sources struct {
	File  string                      // a YAML file; empty is none
	Env   func(string) (string, bool) // such as os.LookupEnv; nil is none
	Flags map[string]string           // those that were given, by name
}

// origin is where a setting was found; the zero origin is its default.
type origin struct {
	source string // flag, env or file
	place  string // the flag, the variable, or file:line
}

// label is how an error names a setting.
func (o origin) label(name string) string {
	switch o.source {
	case "flag", "env":
		return o.place
	case "file":
		return o.place + ": " + name
	}
	return name
}

// Load reads, completes and validates a configuration. Every fault of the
// sources is in the error, each with its place.
//
// Of the environment it looks at the variables of [Settings] only, and takes
// an empty one as not set. It does not refuse other variables with the prefix:
// Kubernetes itself sets some, such as RLSTORE_PORT for a service rlstore.
func Load(src Sources) (Config, error) {
	c := defaults()
	c.origins = map[string]origin{}
	var errs []error
	if src.File != "" {
		errs = append(errs, c.loadFile(src.File)...)
	}
	for _, s := range Settings {
		if src.Env != nil {
			if v, _ := src.Env(s.Env()); v != "" {
				errs = append(errs, c.set(s, v, origin{"env", s.Env()}))
			}
		}
		if v, ok := src.Flags[s.Name]; ok {
			errs = append(errs, c.set(s, v, origin{"flag", "--" + s.Name}))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	c = c.derive()
	return c, c.Validate()
}

// set stores a setting that was given as text.
func (c *Config) set(s Setting, text string, o origin) error {
	c.origins[s.Name] = o
	switch p := s.field(c).(type) {
	case *string:
		*p = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%s: %q is not a whole number", o.label(s.Name), text)
		}
		*p = n
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%s: %q is not true or false", o.label(s.Name), text)
		}
		*p = b
	case *[]string:
		*p = nil
		for v := range strings.SplitSeq(text, ",") {
			if v = strings.TrimSpace(v); v != "" {
				*p = append(*p, v)
			}
		}
	}
	return nil
}

// loadFile stores the settings of a YAML file.
func (c *Config) loadFile(path string) []error {
	text, err := os.ReadFile(path)
	if err != nil {
		return []error{fmt.Errorf("the configuration cannot be read: %w", err)}
	}
	return c.readYAML(path, text)
}

// readYAML stores the settings of a YAML text; path is for messages.
func (c *Config) readYAML(path string, text []byte) []error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // nothing but comments
	} else if err != nil {
		return []error{fmt.Errorf("%s: %w", path, err)}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return []error{fmt.Errorf("%s: a configuration is one YAML document", path)}
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s:%d: a configuration is a mapping of settings, such as \"node-id: n1\"", path, top.Line)}
	}
	var errs []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		place := fmt.Sprintf("%s:%d", path, key.Line)
		at := slices.IndexFunc(Settings, func(s Setting) bool { return s.Name == key.Value })
		if at < 0 {
			errs = append(errs, fmt.Errorf("%s: unknown key %q%s", place, key.Value, hint(key.Value)))
			continue
		}
		if first, twice := c.origins[key.Value]; twice {
			errs = append(errs, fmt.Errorf("%s: %s is set twice, first at %s", place, key.Value, first.place))
			continue
		}
		if err := c.setNode(Settings[at], value, origin{"file", place}); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// hint proposes the key that an unknown one was probably meant to be.
func hint(key string) string {
	fold := strings.NewReplacer("_", "", "-", "", ".", "", " ", "")
	for _, s := range Settings {
		if strings.EqualFold(fold.Replace(s.Name), fold.Replace(key)) {
			return fmt.Sprintf("; did you mean %q?", s.Name)
		}
	}
	return ""
}

// setNode stores a setting that was given as a YAML value. Types are strict:
// a number in quotes is a mistake that is cheap to mend and dear to guess at.
func (c *Config) setNode(s Setting, n *yaml.Node, o origin) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	wrong := func(want string) error {
		return fmt.Errorf("%s needs %s", o.label(s.Name), want)
	}
	switch p := s.field(c).(type) {
	case *string:
		if n.ShortTag() != "!!str" {
			return wrong("a string")
		}
	case *int:
		if n.ShortTag() != "!!int" {
			return wrong("a whole number")
		}
	case *bool:
		if n.ShortTag() != "!!bool" {
			return wrong("true or false")
		}
	case *[]string:
		if n.Kind == yaml.SequenceNode {
			c.origins[s.Name] = o
			*p = nil
			for _, e := range n.Content {
				if e.ShortTag() != "!!str" {
					return wrong("a list of strings")
				}
				*p = append(*p, e.Value)
			}
			return nil
		}
		if n.ShortTag() != "!!str" {
			return wrong("a list of strings")
		}
	}
	return c.set(s, n.Value, o)
}

// Effective is the value that a setting came to have.
type Effective struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`  // string, int, bool or []string
	Origin string `json:"origin"` // default, file with its line, env with the variable, or flag
}

// Effective lists every setting of a loaded configuration.
func (c Config) Effective() []Effective {
	var out []Effective
	for _, s := range Settings {
		origin := "default"
		if o := c.origins[s.Name]; o.source != "" {
			origin = o.source + " " + o.place
		}
		var v any
		switch p := s.field(&c).(type) {
		case *string:
			v = *p
		case *int:
			v = *p
		case *bool:
			v = *p
		case *[]string:
			v = append([]string{}, *p...) // never null
		}
		out = append(out, Effective{s.Name, v, origin})
	}
	return out
}

// WriteYAML writes every setting as a configuration file that [Load] accepts,
// each with its origin in a comment.
func (c Config) WriteYAML(w io.Writer) error {
	top := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range c.Effective() {
		var value yaml.Node
		if err := value.Encode(e.Value); err != nil {
			return err
		}
		if value.Kind == yaml.SequenceNode {
			value.Style = yaml.FlowStyle
		}
		value.LineComment = e.Origin
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: e.Name}, &value)
	}
	return yaml.NewEncoder(w).Encode(top)
}
