package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rlstore/rlstore/cluster-test/process"
)

// node is one rlstore process, or one after the other with the same flags.
type node struct {
	id   string
	http string // host:port
	raft string // host:port
	dir  string // data folder
	log  string // file of everything that its processes wrote
	args []string
	env  []string // on top of this process's
	bin  string

	proc *process.Process // nil before the first start
}

// start runs the node. The caller waits for it with waitReady.
func (n *node) start(t testing.TB) {
	t.Helper()
	if n.running() {
		t.Fatalf("node %s runs already", n.id)
	}
	cmd := exec.Command(n.bin, n.args...)
	cmd.Env = append(os.Environ(), n.env...)
	var err error
	if n.proc, err = process.Start(cmd, n.log); err != nil {
		t.Fatalf("start node %s: %v", n.id, err)
	}
}

// running tells whether the node's process is there, be it stopped.
func (n *node) running() bool { return n.proc.Running() }

func (n *node) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := n.proc.Signal(s); err != nil {
		t.Fatalf("send %v to node %s: %v", s, n.id, err)
	}
}

// kill ends the node the way kill -9 does, and waits until it is gone.
func (n *node) kill(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGKILL)
	<-n.proc.Ended()
}

// terminate asks the node to stop, and expects it to do so cleanly.
func (n *node) terminate(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGTERM)
	select {
	case <-n.proc.Ended():
	case <-time.After(30 * time.Second):
		t.Fatalf("node %s does not stop within 30 s of a SIGTERM", n.id)
	}
	if err := n.proc.Err(); err != nil {
		t.Fatalf("node %s ended with %v after a SIGTERM; it should exit 0", n.id, err)
	}
}

// freeze stops the node in its tracks; thaw lets it go on.
func (n *node) freeze(t testing.TB) {
	t.Helper()
	if err := n.proc.Freeze(); err != nil {
		t.Fatalf("freeze node %s: %v", n.id, err)
	}
}

func (n *node) thaw(t testing.TB) { t.Helper(); n.signal(t, syscall.SIGCONT) }

// end makes sure that nothing is left of the node.
func (n *node) end() {
	if n.proc != nil {
		n.proc.Kill()
	}
}

// exit waits for the node to end by itself and returns its exit code.
func (n *node) exit(t testing.TB) int {
	t.Helper()
	select {
	case <-n.proc.Ended():
	case <-time.After(patience):
		t.Fatalf("node %s still runs; it should have ended", n.id)
	}
	var e *exec.ExitError
	switch err := n.proc.Err(); {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	default:
		t.Fatalf("node %s: %v", n.id, err)
	}
	return 0
}

// ready asks the node whether it can serve. The error tells why not.
func (n *node) ready() error {
	if !n.running() {
		return fmt.Errorf("node %s has ended: %v", n.id, n.proc.Err())
	}
	resp, err := plain.Get("http://" + n.http + "/readyz?verbose")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("node %s is not ready: %s", n.id, bytes.TrimSpace(body))
	}
	return nil
}

// waitReady polls until the node can serve.
func (n *node) waitReady(t testing.TB) {
	t.Helper()
	eventually(t, "node "+n.id+" is ready", func() error {
		err := n.ready()
		if err != nil && !n.running() {
			t.Fatal(err)
		}
		return err
	})
}

// logSize is where the node's log stands.
func (n *node) logSize() int64 {
	info, err := os.Stat(n.log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logSince is what the node has logged since its log was at offset.
func (n *node) logSince(t testing.TB, offset int64) string {
	t.Helper()
	b, err := os.ReadFile(n.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[min(offset, int64(len(b))):])
}

// tail is the end of the node's log since offset, for the reader of a failure.
func (n *node) tail(offset int64) string {
	b, _ := os.ReadFile(n.log)
	lines := strings.Split(strings.TrimRight(string(b[min(offset, int64(len(b))):]), "\n"), "\n")
	const most = 120
	if len(lines) > most {
		lines = append([]string{fmt.Sprintf("… %d lines before", len(lines)-most)}, lines[len(lines)-most:]...)
	}
	return strings.Join(lines, "\n")
}

// newNode describes a node of its own folder and ports; flags come on top of
// those that name them.
func newNode(t testing.TB, root, id string, flags ...string) *node {
	t.Helper()
	n := &node{
		id: id, bin: rlstore, http: freeAddr(t), raft: freeAddr(t),
		dir: filepath.Join(root, id), log: filepath.Join(root, id+".log"),
	}
	n.args = append([]string{
		"serve", "--node-id=" + id, "--data-dir=" + n.dir,
		"--http-addr=" + n.http, "--raft-addr=" + n.raft,
	}, flags...)
	return n
}

// move gives a node that is down other ports.
func (n *node) move(t testing.TB) {
	t.Helper()
	n.http, n.raft = freeAddr(t), freeAddr(t)
	n.args = append(n.args, "--http-addr="+n.http, "--raft-addr="+n.raft) // the last of a name counts
}
