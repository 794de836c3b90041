package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/raftnode"
	"github.com/rlstore/rlstore/server"
)

const (
	referenceFile = "../../docs/reference.md"
	readmeFile    = "../../README.md"
)

// tableRow is one row of a table: its cells without the spaces around them.
type tableRow []string

// code returns the texts in backquotes of a cell.
func (r tableRow) code(cell int) []string {
	var out []string
	for i, s := range strings.Split(r[cell], "`") {
		if i%2 == 1 {
			out = append(out, s)
		}
	}
	return out
}

// tables returns the rows, heads left out, of the tables in a section of the
// reference whose first column is named head.
func tables(t *testing.T, section, head string) []tableRow {
	t.Helper()
	_, text, ok := strings.Cut("\n"+readFile(t, referenceFile), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", referenceFile, section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows []tableRow
	first := "" // column of the table that we are in
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			first = ""
			continue
		}
		var row tableRow
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		switch {
		case first == "":
			first = row[0]
		case first == head && !strings.HasPrefix(row[0], "---"):
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("the section %q of %s has no table of a %q", section, referenceFile, head)
	}
	return rows
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// compare reports what is there and not in the reference, and the reverse.
func compare(t *testing.T, what string, have, documented []string) {
	t.Helper()
	for _, name := range have {
		if !slices.Contains(documented, name) {
			t.Errorf("the %s %s is missing from %s", what, name, referenceFile)
		}
	}
	for i, name := range documented {
		if !slices.Contains(have, name) {
			t.Errorf("%s has the %s %s, which does not exist", referenceFile, what, name)
		}
		if slices.Contains(documented[:i], name) {
			t.Errorf("%s has the %s %s twice", referenceFile, what, name)
		}
	}
}

func TestReferenceHasEveryRoute(t *testing.T) {
	var have, documented []string
	for _, r := range api.Routes {
		path := strings.ReplaceAll(r.Path, api.PolicyName, "{name}")
		have = append(have, r.Method+" "+path+" "+r.Name)
	}
	for _, row := range tables(t, "Routes", "route") {
		documented = append(documented, strings.Join(append(row.code(0), row.code(1)...), " "))
	}
	compare(t, "route", have, documented)
}

func TestReferenceHasEveryProblemCode(t *testing.T) {
	var have, documented []string
	for _, c := range api.Codes {
		retryable := "no"
		if c.Retryable {
			retryable = "yes"
		}
		have = append(have, fmt.Sprintf("`%s` %d %s `%s`", c.Code, c.Status, retryable, c.Outcome))
	}
	for _, row := range tables(t, "Problem codes", "code") {
		documented = append(documented, strings.Join(row[:4], " "))
	}
	compare(t, "problem code", have, documented)
}

func TestReferenceHasEverySetting(t *testing.T) {
	var have, documented []string
	defaults := map[string]string{}
	for _, s := range server.Settings {
		have = append(have, fmt.Sprintf("`--%s` `%s` `%s`", s.Name, s.Env(), s.Name))
		defaults["--"+s.Name] = s.Default()
	}
	for _, row := range tables(t, "Settings of serve", "flag") {
		documented = append(documented, strings.Join(row[:3], " "))
		if want := defaults[strings.Trim(row[0], "`")]; want != "" && row[3] != "`"+want+"`" {
			t.Errorf("%s gives %s the default %s, not `%s`", referenceFile, row[0], row[3], want)
		}
	}
	compare(t, "setting", have, documented)
}

// commands returns the root, with what cobra adds by itself, and every command
// that is more than a name for others. Of the shells' completions, which are
// cobra's own and alike, it returns the first.
func commands() (root *cobra.Command, verbs []*cobra.Command) {
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard,
		lookup: func(string) (string, bool) { return "", false }}
	root = a.command()
	root.InitDefaultCompletionCmd()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		children := c.Commands()
		if c.Name() == "completion" {
			children = children[:1]
		}
		if len(children) == 0 {
			verbs = append(verbs, c)
		}
		for _, child := range children {
			walk(child)
		}
	}
	walk(root)
	return root, verbs
}

func TestReferenceHasEveryCommandAndFlag(t *testing.T) {
	root, verbs := commands()
	settings := map[string]bool{}
	for _, s := range server.Settings {
		settings[s.Name] = true
	}
	rows := map[string]tableRow{}
	var have, documented []string
	for _, row := range tables(t, "Command line", "command") {
		line := strings.Trim(row[0], "`")
		rows[line] = row
		documented = append(documented, line)
	}
	for _, c := range verbs {
		line := strings.TrimSuffix(c.UseLine(), " [flags]")
		have = append(have, line)
		row, ok := rows[line]
		if !ok {
			continue // compare reports it
		}
		var flags []string
		node := c.Flags().Lookup("config") != nil // it takes all settings, which have a table of their own
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && (!settings[f.Name] || !node) {
				flags = append(flags, "--"+f.Name)
				if f.Shorthand != "" {
					flags = append(flags, "-"+f.Shorthand)
				}
			}
		})
		compare(t, "flag of "+c.CommandPath(), flags, row.code(1))
	}
	compare(t, "command", have, documented)

	var global, globalDocumented []string
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		global = append(global, "--"+f.Name)
		if f.Shorthand != "" {
			global = append(global, "-"+f.Shorthand)
		}
	})
	for _, row := range tables(t, "Command line", "global flag") {
		globalDocumented = append(globalDocumented, row.code(0)...)
	}
	compare(t, "global flag", global, globalDocumented)
}

func TestReferenceHasEveryExitCode(t *testing.T) {
	var have, documented []string
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitDenied, exitUnavailable, exitUnknown} {
		have = append(have, fmt.Sprint(code))
	}
	for _, row := range tables(t, "Command line", "exit code") {
		documented = append(documented, row[0])
	}
	compare(t, "exit code", have, documented)
}

// TestReferenceHasEveryMetric asks a node that has decided takes, and the
// collectors themselves: what has no value yet is not on the page.
func TestReferenceHasEveryMetric(t *testing.T) {
	have := map[string]bool{}
	for _, name := range describedMetrics(t) {
		have[name] = true
	}
	for name, kind := range scrapedMetrics(t) {
		have[name] = true
		for _, row := range tables(t, "Metrics", "metric") {
			if row[0] == "`"+name+"`" && row[1] != kind {
				t.Errorf("%s says that %s is a %s, not a %s", referenceFile, name, row[1], kind)
			}
		}
	}
	var names, documented []string
	for name := range have {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, row := range tables(t, "Metrics", "metric") {
		documented = append(documented, row.code(0)...)
	}
	compare(t, "metric", names, documented)
}

// registrar keeps what would be registered.
type registrar struct {
	prometheus.Registerer
	collectors []prometheus.Collector
}

func (r *registrar) MustRegister(cs ...prometheus.Collector) {
	r.collectors = append(r.collectors, cs...)
}

var describedName = regexp.MustCompile(`fqName: "([^"]+)"`)

// describedMetrics names the metrics of the limiter and of consensus.
func describedMetrics(t *testing.T) []string {
	var r registrar
	limiter.NewMetrics(&r)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node, err := raftnode.Open(raftnode.Config{
		NodeID: "n1", DataDir: t.TempDir(), RaftAdvertise: l.Addr().String(), HTTPAdvertise: "http://127.0.0.1:1",
		Shards: 1, BootstrapExpect: 1, Listener: l, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		for _, c := range append(r.collectors, node.Metrics(), limiter.New(limiter.Config{})) {
			c.Describe(descs)
		}
	}()
	var names []string
	for d := range descs {
		m := describedName.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("no name in %s", d)
		}
		names = append(names, m[1])
	}
	return names
}

// scrapedMetrics returns the names and types of rlstore's own metrics on the
// page of a node that has decided a take.
func scrapedMetrics(t *testing.T) map[string]string {
	s, err := server.New(server.Config{
		NodeID: "n1", DataDir: t.TempDir(), HTTPAddr: "127.0.0.1:0", RaftAddr: "127.0.0.1:0",
		BootstrapExpect: 1, Shards: 1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	}()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatalf("the node ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the node was not ready in a minute")
	}
	call := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, s.HTTPURL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", api.MediaJSON)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s (%v)\n%s", method, path, res.Status, err, answer)
		}
		return string(answer)
	}
	call("PUT", "/v1/policies/api", `{"limits":[{"rate":1,"per":"1s"}]}`)
	call("POST", "/v1/take", `{"policy":"api","key":"k"}`)
	types := map[string]string{}
	for line := range strings.Lines(call("GET", "/metrics", "")) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "rlstore_") {
			types[f[2]] = f[3]
		}
	}
	return types
}

// TestDocumentedCommandLinesParse holds every line of a block of sh in the
// README and the pages that runs rlstore against the real commands.
func TestDocumentedCommandLinesParse(t *testing.T) {
	seen := 0
	for _, file := range []string{readmeFile, referenceFile, policiesFile, httpFile} {
		for _, block := range shellBlocks(readFile(t, file)) {
			for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
				line, _, _ = strings.Cut(line, " #")
				words := strings.Fields(line)
				if len(words) == 0 || words[0] != "rlstore" && words[0] != "bin/rlstore" {
					continue
				}
				seen++
				if err := parse(words[1:]); err != nil {
					t.Errorf("%s: %s: %v", file, strings.TrimSpace(line), err)
				}
			}
		}
	}
	if seen == 0 {
		t.Error("the README runs no rlstore; its blocks are no longer recognised")
	}
}

const policiesFile = "../../docs/policies.md"

// TestExamplesOfPoliciesAreGood checks every block of YAML: a policy, or an
// override.
func TestExamplesOfPoliciesAreGood(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readFile(t, policiesFile), -1)
	if len(blocks) == 0 {
		t.Errorf("%s has no examples", policiesFile)
	}
	for _, b := range blocks {
		_, override := policy.ParseOverrides([]byte(b[1]))
		if _, errs := policy.ParseAll([]byte(b[1])); len(errs) > 0 && len(override) > 0 {
			t.Errorf("%s: %v, nor an override: %v\n%s", policiesFile, policy.Problem(errs), policy.Problem(override), b[1])
		}
	}
}

func shellBlocks(text string) (blocks []string) {
	for rest := text; ; {
		_, after, ok := strings.Cut(rest, "\n```sh\n")
		if !ok {
			return blocks
		}
		var block string
		block, rest, _ = strings.Cut(after, "\n```")
		blocks = append(blocks, block)
	}
}

// parse checks a command line as execution would, but for the values of
// settings, which no flag checks.
func parse(args []string) error {
	root, _ := commands()
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if !c.Runnable() || c.HasSubCommands() {
		return fmt.Errorf("%s needs a command", c.CommandPath())
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	return c.ValidateArgs(c.Flags().Args())
}
