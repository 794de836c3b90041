package process_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/cluster-test/process"
	"github.com/rlstore/rlstore/raftnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(process.Spawner)) }

func TestAProcessRunsUntilItIsKilled(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := process.Start(exec.Command("sh", "-c", "echo here; exec sleep 1000"), log)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Running() || p.EndsWithin(time.Millisecond) {
		t.Error("it has ended by itself")
	}
	for said := ""; said != "here\n"; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		said = string(b)
	}
	p.Kill()
	if p.Running() || p.Err() == nil {
		t.Errorf("it was killed, and: running %v, %v", p.Running(), p.Err())
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("a process that is gone hears nothing, and that is no error: %v", err)
	}
	var none *process.Process
	if none.Running() {
		t.Error("no process runs")
	}
}

func TestHowAProcessEnded(t *testing.T) {
	for script, ok := range map[string]bool{"exit 0": true, "exit 3": false} {
		p, err := process.Start(exec.Command("sh", "-c", script), filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		if <-p.Ended(); (p.Err() == nil) != ok {
			t.Errorf("%s: %v", script, p.Err())
		}
	}
	if _, err := process.Start(exec.Command(filepath.Join(t.TempDir(), "nothing")), filepath.Join(t.TempDir(), "log")); err == nil {
		t.Error("what does not exist was started")
	}
}

func TestAClockIsMovedWhileItIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock")
	if _, err := process.OpenClock(file); err == nil {
		t.Error("a clock without a file was opened")
	}
	if err := process.SetClock(file, 0); err != nil {
		t.Fatal(err)
	}
	c, err := process.OpenClock(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{0, time.Hour, -time.Hour} {
		if err := process.SetClock(file, by); err != nil {
			t.Fatal(err)
		}
		before, now, after := raftnode.BootClock().Now(), c.Now()-int64(by), raftnode.BootClock().Now()
		if now < before || now > after {
			t.Errorf("moved by %v, it shows %d between %d and %d", by, now, before, after)
		}
	}
}

func TestFlags(t *testing.T) {
	want := map[string]string{"node-id": "n1", "join": "a=b,c", "bare": ""}
	if got := process.Flags([]string{"--node-id=x", "--join=a=b,c", "--bare", "--node-id=n1"}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
