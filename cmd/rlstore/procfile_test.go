package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheProcfileStartsTheThreeNodesOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../Procfile")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != devNodes {
		t.Fatalf("%d lines, want %d", len(lines), devNodes)
	}
	for i, line := range lines {
		id := fmt.Sprintf("n%d", i+1)
		args, ok := strings.CutPrefix(line, id+": ./bin/rlstore serve ")
		if !ok {
			t.Fatalf("line %d does not start %s: %s", i+1, id, line)
		}
		var out, stderr bytes.Buffer
		a := &app{out: &out, err: &stderr, lookup: func(string) (string, bool) { return "", false }}
		if code := a.run(append([]string{"config", "print"}, strings.Fields(args)...)); code != exitOK {
			t.Fatalf("line %d: exit code %d: %s", i+1, code, stderr.String())
		}
		for _, want := range []string{
			"node-id: " + id + " #", "data-dir: ./rlstore-data/" + id + " #", "bootstrap-expect: 3 #",
			fmt.Sprintf("http-addr: 127.0.0.1:810%d #", i+1), fmt.Sprintf("raft-addr: 127.0.0.1:910%d #", i+1),
			"join: ['127.0.0.1:9101', '127.0.0.1:9102', '127.0.0.1:9103'] #",
		} {
			if !strings.Contains(out.String(), "\n"+want) && !strings.HasPrefix(out.String(), want) {
				t.Errorf("line %d lacks %q:\n%s", i+1, want, out.String())
			}
		}
	}
}
