package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A promise on a page is worth the test that shows it.
func TestEveryTestThatAPageNamesExists(t *testing.T) {
	exists := map[string]bool{}
	told := map[string][]string{} // name of a test -> the pages that name it
	defined := regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	named := regexp.MustCompile("`(Test[A-Z]\\w*)`")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		switch {
		case d.IsDir() && path != root && strings.HasPrefix(name, "."):
			return filepath.SkipDir
		case d.IsDir() || name == "CHANGELOG.md" || name == "RESULTS.md": // they tell of their day
			return nil
		case strings.HasSuffix(name, "_test.go"), strings.HasSuffix(name, ".md"):
		default:
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".md") {
			for _, m := range named.FindAllSubmatch(text, -1) {
				told[string(m[1])] = append(told[string(m[1])], path)
			}
			return nil
		}
		for _, m := range defined.FindAllSubmatch(text, -1) {
			exists[string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) < 10 {
		t.Fatalf("the pages name %d tests", len(told))
	}
	for name, pages := range told {
		if !exists[name] {
			t.Errorf("%s names %s, which does not exist", strings.Join(pages, ", "), name)
		}
	}
}
