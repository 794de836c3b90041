package clustertest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func mustRename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// oneSentence fails the test unless what a node wrote, its log lines aside, is
// one line that holds all of want.
func oneSentence(t testing.TB, output string, want ...string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "time=") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		t.Errorf("the node says this, want one sentence:\n%s", output)
		return
	}
	for _, w := range want {
		if !strings.Contains(lines[0], w) {
			t.Errorf("the node says this, want it to name %q:\n%s", w, lines[0])
		}
	}
}

// TestAStartThatCannotWorkSaysWhyInOneSentence starts nodes that must end at
// once, beside a healthy cluster that must not notice.
func TestAStartThatCannotWorkSaysWhyInOneSentence(t *testing.T) {
	c := shared(t)
	p := c.hundred(t, "start-errors")
	c.nodes[0].mustTake(t, api.TakeRequest{Policy: p.Name, Key: "k"})

	root, err := os.MkdirTemp(c.root, "start-")
	if err != nil {
		t.Fatal(err)
	}
	// A folder that a node of another id has used, and one of a later format.
	used := newNode(t, root, "used", "--bootstrap-expect=1")
	t.Cleanup(used.end)
	used.start(t)
	used.waitReady(t)
	used.terminate(t)
	newer := filepath.Join(root, "newer")
	if err := os.CopyFS(newer, os.DirFS(used.dir)); err != nil {
		t.Fatal(err)
	}
	identity, err := os.ReadFile(filepath.Join(newer, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	// Its sum is none of format 2, so that the number is not what is damaged.
	later := strings.NewReplacer(`"format": 2`, `"format": 99`, `"crc32c": "`, `"crc32c": "0`).Replace(string(identity))
	if later == string(identity) {
		t.Fatalf("no format in %s", identity)
	}
	torn := filepath.Join(root, "torn")
	config := filepath.Join(root, "rlstore.yaml")
	notAFolder := filepath.Join(root, "file")
	for path, content := range map[string]string{
		filepath.Join(newer, "node.json"): later,
		filepath.Join(torn, "node.json"):  string(identity[:len(identity)/2]),
		config:                            "# of a node\nnode-id: n9\nraft_address: 127.0.0.1:1\n",
		notAFolder:                        "",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		name  string
		id    string
		flags []string // the last of a name counts
		code  int
		want  []string
	}{
		{"folder of another node", "x1", []string{"--data-dir=" + used.dir}, 1, []string{"belongs to node used", "this node is x1"}},
		{"folder of another format", "used", []string{"--data-dir=" + newer}, 1, []string{"format 99", "format 2"}},
		{"damaged node.json", "x3", []string{"--data-dir=" + torn}, 1, []string{"node.json is damaged"}},
		{"folder in use", "n1", []string{"--data-dir=" + c.nodes[0].dir}, 1, []string{"in use by another process", "--data-dir"}},
		{"folder is a file", "x5", []string{"--data-dir=" + notAFolder}, 1, []string{notAFolder}},
		{"http port in use", "x6", []string{"--http-addr=" + c.nodes[0].http}, 1, []string{c.nodes[0].http, "in use", "--http-addr"}},
		{"raft port in use", "x7", []string{"--raft-addr=" + c.nodes[0].raft}, 1, []string{c.nodes[0].raft, "in use", "--raft-addr"}},
		{"http advertises every address", "x8", []string{"--http-addr=0.0.0.0:" + port(freeAddr(t))}, 2, []string{"0.0.0.0", "--http-advertise"}},
		{"raft advertises every address", "x9", []string{"--raft-addr=:" + port(freeAddr(t))}, 2, []string{"--raft-advertise"}},
		{"unknown key", "x10", []string{"--config=" + config}, 2, []string{"rlstore.yaml:3", "raft_address"}},
		{"no such config", "x11", []string{"--config=" + config + ".gone"}, 2, []string{"rlstore.yaml.gone"}},
		{"unknown flag", "x12", []string{"--raft-address=127.0.0.1:1"}, 2, []string{"--raft-address"}},
		{"bad node id", "x13", []string{"--node-id=a/b"}, 2, []string{"node-id", "a/b"}},
		{"no cluster to begin or join", "x14", nil, 1, []string{"--bootstrap-expect", "--join"}},
		{"id of a node that runs", "n1", []string{"--bootstrap-expect=3", "--join=" + c.nodes[0].raft}, 1, []string{"n1", "--node-id"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, root, test.id, test.flags...)
			n.log = filepath.Join(root, strings.ReplaceAll(test.name, " ", "-")+".log")
			t.Cleanup(n.end)
			n.start(t)
			if code := n.exit(t); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			oneSentence(t, n.logSince(t, 0), test.want...)
		})
	}

	for _, n := range c.nodes {
		n.waitReady(t) // a leader that moves to spread the load leaves its shard for a moment
		if s := n.mustPeek(t, p.Name, "k"); s.Remaining != 99 {
			t.Errorf("%s peeks %d tokens left, want 99", n.id, s.Remaining)
		}
	}
}

func port(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }

// TestStrangersOnThePortsDoNoHarm throws garbage at both ports of every node and
// leaves connections half open, while callers take.
func TestStrangersOnThePortsDoNoHarm(t *testing.T) {
	rng := seeded(t)
	c := shared(t)
	p := c.hundred(t, "garbage")
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := 0; i+8 <= n; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		return b
	}
	hello := func(protocol, version byte, rest []byte) []byte {
		return append([]byte{protocol, version}, rest...)
	}
	huge := append(binary.AppendUvarint(noise(20), 1<<62), noise(64)...)
	messages := [][]byte{
		{}, {0}, {'R'}, {'C', 1}, // half open
		hello('R', 1, noise(7)), hello('C', 1, noise(200)), hello('R', 1, huge), hello('R', 9, nil),
		[]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), []byte("POST /v1/take HTTP/1.1\r\nHost: x\r\n"),
		[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
		noise(16), noise(64 << 10), make([]byte, 64<<10),
	}
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for _, n := range c.nodes {
		for _, addr := range []string{n.http, n.raft} {
			for range 4 {
				for _, m := range messages {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						t.Fatalf("dial %s of %s: %v", addr, n.id, err)
					}
					open = append(open, conn)
					// A node may well close while we write.
					_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
					_, _ = conn.Write(m)
				}
			}
		}
	}
	h := newHistory(p)
	crowd(t, 150, func(i int) error {
		called := h.now()
		d, err := c.nodes[i%3].takeOnce(api.TakeRequest{Policy: p.Name, Key: "k"})
		if err == nil {
			h.take(called, 1, &d)
		}
		return err
	})()
	c.mustHaveSpent(t, h, p, "k", 100)
	for _, n := range c.nodes {
		n.waitReady(t) // a leader that moves to spread the load leaves its shard for a moment
	}
	// Nobody keeps a stranger's connection for ever.
	deadline := time.Now().Add(patience)
	for _, conn := range open {
		_ = conn.SetReadDeadline(deadline)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s keeps a connection open that sent nothing useful for %v", conn.RemoteAddr(), patience)
		}
	}
	c.mustHaveSpent(t, h, p, "k", 100)
}
