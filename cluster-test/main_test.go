package clustertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/cluster-test/process"
)

// scratch is the folder of this run: the binary, and everything that nodes
// write. RLSTORE_CLUSTERTEST_KEEP=1 leaves it behind.
var scratch string

// rlstore is the path of the binary under test.
var rlstore string

func TestMain(m *testing.M) {
	if os.Getenv(seamEnv) != "" {
		os.Exit(serveWithSeams(os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "rlstore-clustertest-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("RLSTORE_CLUSTERTEST_KEEP") == "" {
		defer os.RemoveAll(scratch)
	} else {
		fmt.Fprintln(os.Stderr, "keeping", scratch)
	}
	rlstore = filepath.Join(scratch, "rlstore")
	build := exec.Command("go", "build", "-o", rlstore, "github.com/rlstore/rlstore/cmd/rlstore")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building rlstore:", err)
		return 1
	}
	code := m.Run()
	endShared()
	if err := goleak.Find(goleak.IgnoreAnyFunction(process.Spawner)); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
