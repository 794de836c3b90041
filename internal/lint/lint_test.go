package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top of this module.
const root = "../.."

func this(t *testing.T) *tree {
	t.Helper()
	tr, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.pkgs) < 5 {
		t.Fatalf("found %d packages under %s", len(tr.pkgs), root)
	}
	return tr
}

func TestImportsPointDownOnly(t *testing.T) {
	for _, f := range upward(this(t)) {
		t.Error(f)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, f := range undocumented(this(t)) {
		t.Error(f)
	}
}

func TestStateMachinesAreDeterministic(t *testing.T) {
	tr := this(t)
	for _, p := range tr.pkgs {
		if p.dir != "fsm" {
			continue
		}
		found, err := nondeterministic(tr, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			t.Error(f)
		}
		return
	}
	t.Fatal("there is no package fsm")
}

// write makes a module of files, each named by its path.
func write(t *testing.T, files map[string]string) *tree {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module " + module + "\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// expect wants exactly one finding that holds want, or none for "".
func expect(t *testing.T, found []string, want string) {
	t.Helper()
	if want == "" && len(found) != 0 {
		t.Errorf("refused: %q", found)
	}
	if want != "" && (len(found) != 1 || !strings.Contains(found[0], want)) {
		t.Errorf("found %q, want one with %q", found, want)
	}
}

func TestTheImportRuleRefusesWhatPointsUpOrAside(t *testing.T) {
	const ours = module + "/"
	for _, tt := range []struct{ dir, imports, want string }{
		{"limiter", ours + "policy", ""},
		{"limiter", ours + "api", ""},
		{"limiter", ours + "internal/slogbridge", ""},
		{"limiter", "github.com/hashicorp/raft", ""},
		{"limiter", ours + "raftnode", "limiter/x.go:3: limiter imports " + ours + "raftnode: imports point down only"},
		{"limiter", ours + "fsm", "let server join the two"},
		{"policy", ours + "limiter", "imports point down only"},
		{"raftnode", ours + "limiter", "it may know only fsm, policy, snapshot, api"},
		{"raftnode", ours + "httpapi", "imports point down only"},
		{"httpapi", ours + "fsm", "it may know only limiter, policy, api"},
		{"cmd/rlstore", ours + "server", ""},
		{"cmd/rlstore", ours + "raftnode", "it may know only"},
		{"client", ours + "api", ""},
		{"client", ours + "policy", "it may know only api, lease"},
		{"client", "gopkg.in/yaml.v3", "costs every importer a dependency"},
		{"client/rlhttp", ours + "client", ""},
		{"client/rlgrpc", "google.golang.org/grpc", ""},
		{"client/rlgrpc", ours + "policy", "it may know only client, api"},
		{"client/rlhttp", ours + "client/rltest", "imports point down only"},
		{"client/rltest", ours + "server/catalog", ""},
		{"client/rltest", ours + "raftnode", "it may know only"},
		{"client", ours + "internal/slogbridge", "standard library and what is below"},
		{"api", "net/http", ""},
		{"api", "github.com/cespare/xxhash/v2", "costs every importer a dependency"},
		{"internal/fault", ours + "api", "stand on their own"},
		{"attic", "fmt", "attic has no floor: give it one"},
		{"server", ours + "attic", "that folder has no floor"},
	} {
		t.Run(tt.dir+" imports "+tt.imports, func(t *testing.T) {
			tr := write(t, map[string]string{tt.dir + "/x.go": "package x\n\nimport _ \"" + tt.imports + "\"\n"})
			expect(t, upward(tr), tt.want)
		})
	}
	tr := write(t, map[string]string{"api/x_test.go": "package x\n\nimport _ \"" + ours + "server\"\n"})
	expect(t, upward(tr), "")
}

func TestTheCommentRuleRefusesASilentPackage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"silent", map[string]string{"api/a.go": "package api\n"}, "api/a.go:1: package api has no comment"},
		{"one file speaks", map[string]string{"api/a.go": "package api\n", "api/b.go": "// Package api is.\npackage api\n"}, ""},
		{"only a test speaks", map[string]string{"api/a.go": "package api\n", "api/b_test.go": "// Package api is.\npackage api\n"}, "has no comment"},
		{"only a directive", map[string]string{"api/a.go": "//go:build linux\npackage api\n"}, "has no comment"},
		{"only tests", map[string]string{"api/a_test.go": "// Package api is.\npackage api\n"}, ""},
		{"test data", map[string]string{"api/testdata/a.go": "package a\n"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, undocumented(write(t, tt.files)), tt.want) })
	}
}

func TestTheDeterminismRuleRefusesWhatDiffersBetweenReplicas(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"integers and slices", "func f(s []int) (n int) { for _, v := range s { n += v }; return n }", ""},
		{"clock", "import \"time\"\nvar _ = time.Now", "imports time: cluster time comes with the entry"},
		{"chance", "import \"math/rand/v2\"\nvar _ = rand.Int", "imports math/rand/v2"},
		{"environment", "import \"os\"\nvar _ = os.Getenv", "imports os"},
		{"float variable", "var x float64", "has a float64, which rounds"},
		{"float by inference", "func f() int { x := 0.5; return int(x) }", "has a float64"},
		{"float of a named type", "type t float32; func f(t) {}", "which rounds"},
		{"integer constant", "const second = int64(1e9)", ""},
		{"goroutine", "func f() { go f() }", "starts a goroutine"},
		{"select", "func f(c chan int) { select { case <-c: default: } }", "selects, which is by chance"},
		{"map order", "func f(m map[int]int) {\n\tfor range m {\n\t}\n}", "x.go:4: a state machine ranges over a map"},
		{"map behind a name", "type m map[int]int\nfunc f(m m) {\n\tfor range m {\n\t}\n}", "ranges over a map"},
		{"map behind a type parameter", "func f[M ~map[int]int](m M) {\n\tfor range m {\n\t}\n}", "ranges over a map"},
		{"map iterator", "import \"maps\"\nfunc f(m map[int]int) { for range maps.Keys(m) { } }", "calls maps.Keys"},
		{"sorted map iterator", "import (\n\"maps\"\n\"slices\"\n)\nfunc f(m map[int]int) []int { return slices.Sorted(maps.Keys(m)) }", ""},
		{"clone of a map", "import \"maps\"\nfunc f(m map[int]int) map[int]int { return maps.Clone(m) }", ""},
		{"map by reflection", "import \"reflect\"\nfunc f(v reflect.Value) { v.MapKeys() }", "calls (reflect.Value).MapKeys"},
		{"defended map", "func f(m map[int]int) (n int) {\n\tfor _, v := range m { // order-free: a sum\n\t\tn += v\n\t}\n\treturn n\n}", ""},
		{"defended from above", "func f(m map[int]int) (n int) {\n\t// order-free: a sum\n\tfor _, v := range m {\n\t\tn += v\n\t}\n\treturn n\n}", ""},
		{"defence without a reason", "func f(m map[int]int) {\n\tfor range m { // order-free:\n\t}\n}", "ranges over a map"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := write(t, map[string]string{"fsm/x.go": "package fsm\n\n" + tt.text + "\n"})
			found, err := nondeterministic(tr, tr.pkgs[0])
			if err != nil {
				t.Fatal(err)
			}
			expect(t, found, tt.want)
		})
	}
}
