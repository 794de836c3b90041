package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A process that is frozen stands still when Freeze returns, each time.
func TestAFrozenProcessStandsStill(t *testing.T) {
	p, err := Start(exec.Command("sh", "-c", "while :; do :; done"), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	for range 20 {
		if err := p.Freeze(); err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if _, state, ok := bytes.Cut(stat, []byte(") ")); err != nil || !ok || state[0] != 'T' {
			t.Fatalf("%s, %v", stat, err)
		}
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	p.Kill()
	<-p.Ended()
	if err := p.Freeze(); err != nil {
		t.Errorf("of a process that has ended: %v", err)
	}
}
