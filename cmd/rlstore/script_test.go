package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// The transcripts under testdata/script are what people type. rlstore in them
// is this program; beside testscript's own commands they have
//
//	exits CODE rlstore ARGS…   the command ends with this exit code
//	ports                      finds free ports, three in a row from $HTTP and from $RAFT
//	dev [ARGS…]                starts rlstore dev on free ports and waits for its
//	                           greeting; sets $RLSTORE_ENDPOINTS and $CURL
//	stopdev                    ends it with SIGTERM and wants a clean exit
func TestMain(m *testing.M) {
	testscript.Main(leakFree{m}, map[string]func(){"rlstore": main})
}

// leakFree are tests that fail if they leave a goroutine behind.
type leakFree struct{ *testing.M }

func (m leakFree) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"ports":   ports,
			"dev":     dev,
			"stopdev": stopDev,
		},
		Setup: func(e *testscript.Env) error {
			e.Values[devKey{}] = new(devProcess)
			return nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// exits runs a command, and fails unless it ends with the exit code wanted.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func ports(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ports")
	}
	ts.Setenv("HTTP", strconv.Itoa(freePorts(ts)))
	ts.Setenv("RAFT", strconv.Itoa(freePorts(ts)))
}

type devKey struct{}

// devProcess is the cluster of one script.
type devProcess struct {
	cmd    *exec.Cmd
	stderr strings.Builder
}

// starting bounds the start and the end of a cluster; both take a few seconds
// on a busy machine.
const starting = time.Minute

func dev(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("unsupported: ! dev")
	}
	p := ts.Value(devKey{}).(*devProcess)
	args = append([]string{"dev"}, args...)
	if ts.Getenv("RAFT") == "" { // a second start in one script keeps the ports
		ports(ts, false, nil)
	}
	http, err := strconv.Atoi(ts.Getenv("HTTP"))
	ts.Check(err)
	args = append(args, "--http-port", ts.Getenv("HTTP"), "--raft-port", ts.Getenv("RAFT"))
	path, err := exec.LookPath("rlstore")
	ts.Check(err)
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	cmd := p.cmd
	ts.Defer(func() { cmd.Process.Kill(); cmd.Wait() })

	line := make(chan string, 2)
	go func() {
		s := bufio.NewScanner(stdout)
		for s.Scan() {
			select {
			case line <- s.Text():
			default:
			}
		}
		close(line)
	}()
	select {
	case curl, ok := <-line:
		if !ok {
			cmd.Wait()
			ts.Fatalf("dev ended before it was ready:\n%s", p.stderr.String())
		}
		ts.Setenv("CURL", curl)
	case <-time.After(starting):
		ts.Fatalf("dev was not ready in %s", starting)
	}
	var urls []string
	for i := range devNodes {
		urls = append(urls, "http://127.0.0.1:"+strconv.Itoa(http+i))
	}
	ts.Setenv("RLSTORE_ENDPOINTS", strings.Join(urls, ","))
}

func stopDev(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: stopdev")
	}
	p := ts.Value(devKey{}).(*devProcess)
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			ts.Fatalf("dev ended with %v:\n%s", err, p.stderr.String())
		}
	case <-time.After(starting):
		ts.Fatalf("dev did not end in %s", starting)
	}
}

// taken are the ports given out by this process; scripts run at the same time.
var taken struct {
	sync.Mutex
	ports map[int]bool
}

// freePorts finds as many free ports in a row as dev has nodes, and returns the
// first. Somebody may take one before dev does; below the range that the kernel
// hands out by itself that is unlikely. All rows start a multiple of devNodes
// above one number, so rows never overlap.
func freePorts(ts *testscript.TestScript) int {
	taken.Lock()
	defer taken.Unlock()
	for first := 20000 + os.Getpid()%1000*10; first < 32000; first += devNodes {
		if taken.ports[first] || !free(first) {
			continue
		}
		if taken.ports == nil {
			taken.ports = map[int]bool{}
		}
		taken.ports[first] = true
		return first
	}
	ts.Fatalf("there are no free ports")
	return 0
}

// free reports whether a row of ports is free.
func free(first int) bool {
	for i := range devNodes {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+i)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
