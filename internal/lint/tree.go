package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// module is the path of the module whose tree is read.
const module = "github.com/rlstore/rlstore"

// pkg is one folder with Go files.
type pkg struct {
	dir   string // slash-separated, relative to the root; "." for the root
	files []*ast.File
	tests []*ast.File // _test.go
}

// tree is every Go file of a module.
type tree struct {
	fset *token.FileSet
	root string
	pkgs []*pkg // sorted by dir
}

// load parses the module at root. Folders that the go tool skips are skipped.
func load(root string) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), root: root}
	byDir := map[string]*pkg{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(t.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(rel)
		p := byDir[dir]
		if p == nil {
			p = &pkg{dir: dir}
			byDir[dir] = p
			t.pkgs = append(t.pkgs, p)
		}
		if strings.HasSuffix(name, "_test.go") {
			p.tests = append(p.tests, f)
		} else {
			p.files = append(p.files, f)
		}
		return nil
	})
	slices.SortFunc(t.pkgs, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return t, err
}

// finding is a line of the report; its path is relative to the root.
func (t *tree) finding(pos token.Pos, format string, args ...any) string {
	p := t.fset.Position(pos)
	if rel, err := filepath.Rel(t.root, p.Filename); err == nil {
		p.Filename = filepath.ToSlash(rel)
	}
	return fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...))
}

// undocumented finds packages without a package comment. A package of tests
// only may have it in a test.
func undocumented(t *tree) (found []string) {
	for _, p := range t.pkgs {
		files := p.files
		if len(files) == 0 {
			files = p.tests
		}
		if !slices.ContainsFunc(files, func(f *ast.File) bool { return strings.TrimSpace(f.Doc.Text()) != "" }) {
			found = append(found, t.finding(files[0].Package,
				"package %s has no comment: say above one package clause what it is for and what it leaves to others", files[0].Name))
		}
	}
	return found
}
