package lint

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// bannedImports are packages through which one replica could differ from
// another, and what to do instead.
var bannedImports = map[string]string{
	"time":         "cluster time comes with the entry, in nanoseconds",
	"math/rand":    "take what is chosen by chance from the entry",
	"math/rand/v2": "take what is chosen by chance from the entry",
	"crypto/rand":  "take what is chosen by chance from the entry",
	"hash/maphash": "its seed differs from process to process; use a fixed hash",
	"os":           "what is outside the process differs from node to node",
	"net":          "what is outside the process differs from node to node",
	"runtime":      "what it tells differs from node to node",
}

// mapWalks are functions and methods that walk a map without a range statement.
// Inside slices.Sorted and its like they are harmless.
var mapWalks = map[string]bool{
	"maps.Keys": true, "maps.Values": true, "maps.All": true,
	"(reflect.Value).MapRange": true, "(reflect.Value).MapKeys": true,
	"(reflect.Value).Seq": true, "(reflect.Value).Seq2": true,
}

// orderFree matches the comment that defends a range over a map, with its
// reason.
var orderFree = regexp.MustCompile(`order-free:\s*\S+`)

// nondeterministic finds what would let replicas that apply the same log
// differ: clocks, chance, floats, the order of maps, concurrency.
func nondeterministic(t *tree, p *pkg) ([]string, error) {
	imp, err := exports(t, p.dir)
	if err != nil {
		return nil, err
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imp}
	if _, err := conf.Check(module+"/"+p.dir, t.fset, p.files, info); err != nil {
		return nil, err
	}
	var found []string
	report := func(pos token.Pos, format string, args ...any) {
		found = append(found, t.finding(pos, format, args...))
	}
	for _, f := range p.files {
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if why, banned := bannedImports[path]; banned {
				report(spec.Pos(), "a state machine imports %s: %s", path, why)
			}
		}
		defended := map[int]bool{} // lines that an order-free comment covers: its own and the next
		for _, group := range f.Comments {
			if orderFree.MatchString(group.Text()) {
				end := t.fset.Position(group.End()).Line
				defended[end], defended[end+1] = true, true
			}
		}
		floats := map[int]bool{}      // lines reported, once each
		sorted := map[ast.Expr]bool{} // calls whose result is sorted at once
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				report(n.Pos(), "a state machine starts a goroutine: do the work inside Apply, bounded")
			case *ast.SelectStmt:
				report(n.Pos(), "a state machine selects, which is by chance: it needs no channels")
			case *ast.RangeStmt:
				if tv := info.Types[n.X]; tv.Type != nil && hasMap(tv.Type) && !defended[t.fset.Position(n.Pos()).Line] {
					report(n.Pos(), "a state machine ranges over a map, "+byChance)
				}
			case *ast.CallExpr:
				name := callee(info, n)
				if strings.HasPrefix(name, "slices.Sorted") && len(n.Args) > 0 {
					sorted[n.Args[0]] = true
				}
				if mapWalks[name] && !sorted[n] && !defended[t.fset.Position(n.Pos()).Line] {
					report(n.Pos(), "a state machine calls %s, "+byChance, name)
				}
			}
			if e, ok := n.(ast.Expr); ok {
				line := t.fset.Position(e.Pos()).Line
				if tv := info.Types[e]; tv.Type != nil && isFloat(tv.Type) && !floats[line] {
					floats[line] = true
					report(e.Pos(), "a state machine has a %s, which rounds: use integers, and math/bits for wide products", tv.Type)
				}
			}
			return true
		})
	}
	return found, nil
}

const byChance = "whose order is by chance: walk a sorted slice, such as slices.Sorted(maps.Keys(m)), or defend it with \"// order-free: why\""

// callee is the full name of the function that a call names, or "".
func callee(info *types.Info, call *ast.CallExpr) string {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok { // with type arguments
		fun = index.X
	} else if index, ok := fun.(*ast.IndexListExpr); ok {
		fun = index.X
	}
	var id *ast.Ident
	switch f := fun.(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return ""
	}
	if f, ok := info.Uses[id].(*types.Func); ok {
		return f.FullName()
	}
	return ""
}

func hasMap(t types.Type) bool {
	switch t := t.Underlying().(type) {
	case *types.Map:
		return true
	case *types.Interface: // of a type parameter
		for i := range t.NumEmbeddeds() {
			if u, ok := t.EmbeddedType(i).(*types.Union); ok {
				for j := range u.Len() {
					if hasMap(u.Term(j).Type()) {
						return true
					}
				}
			}
		}
	}
	return false
}

func isFloat(t types.Type) bool {
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&(types.IsFloat|types.IsComplex) != 0
}

// exports returns an importer of the compiled packages that dir imports, which
// the go command builds or finds in its cache.
func exports(t *tree, dir string) (types.Importer, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./"+dir)
	cmd.Dir = t.root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	return importer.ForCompiler(t.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(files[path])
	}), nil
}
