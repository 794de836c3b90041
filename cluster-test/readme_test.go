package clustertest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestTheReadmeNamesEveryTest(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	exists := names(t, `(?m)^func (Test[A-Z]\w*)\(t \*testing\.T\)`, files...)
	told := names(t, "`(Test[A-Z]\\w*)`", "README.md")
	for name := range exists {
		if !told[name] {
			t.Errorf("README.md does not say what %s shows", name)
		}
	}
	for name := range told {
		if !exists[name] {
			t.Errorf("README.md names %s, which does not exist", name)
		}
	}
	if len(exists) == 0 || len(told) == 0 {
		t.Errorf("%d tests exist, and %d are told of", len(exists), len(told))
	}
}

// names collects the first group of pattern in files.
func names(t testing.TB, pattern string, files ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
	}
	return found
}
