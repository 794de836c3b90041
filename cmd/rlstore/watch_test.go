package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// newsServer streams text, and then nothing until the reader goes.
func newsServer(t *testing.T, text string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/events" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", api.MediaEvents)
		io.WriteString(w, text)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWatchEndsCleanlyWithCtrlC(t *testing.T) {
	prose, write := io.Pipe()
	var out bytes.Buffer
	a := &app{out: &out, err: write, lookup: func(string) (string, bool) { return "", false }}
	code := make(chan int, 1)
	go func() {
		defer write.Close()
		code <- a.run([]string{"watch", "--timeout", "1ms", "--endpoints", newsServer(t, ": hello\n\n")})
	}()
	in := bufio.NewScanner(prose)
	if !in.Scan() || !strings.HasPrefix(in.Text(), "watching http://") {
		t.Fatalf("it said %q", in.Text())
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil { // it is caught by now
		t.Fatal(err)
	}
	for in.Scan() {
		t.Errorf("it said %q", in.Text())
	}
	if c := <-code; c != exitOK || out.Len() > 0 {
		t.Errorf("exit code %d, %q", c, &out)
	}
}

func TestWatchPrintsALineAnEvent(t *testing.T) {
	var text strings.Builder
	for _, data := range []string{
		`{"type":"leader","at":"2026-01-05T09:30:00Z","shard":3,"node":"n2","term":8}`,
		`{"type":"leader","at":"2026-01-05T09:30:01Z","shard":3}`,
		`{"type":"policy","at":"T","policy":"api","change":"override-set","override":"vip:*","revision":9}`,
		`{"type":"policy","at":"T","policy":"api","change":"deleted","revision":10}`,
		`{"type":"enforcement","at":"T","change":"shadow","revision":11}`,
		`{"type":"drain","at":"T","node":"n1","change":"begun"}`,
		`{"type":"gap"}`,
		`{"type":"member","at":"T","node":"n4","change":"joined"}`,
	} {
		fmt.Fprintf(&text, "data: %s\n\n", data)
	}
	url := newsServer(t, text.String())
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-n", "8"}, `2026-01-05T09:30:00Z  leader  shard 3 is led by n2, term 8
2026-01-05T09:30:01Z  leader  shard 3 has no leader
T  policy  api override-set vip:*, revision 9
T  policy  api deleted, revision 10
T  enforcement  the whole cluster is set to shadow, revision 11
T  drain  n1 begun
gap  events may be missing here
T  member  n4 joined
`},
		{[]string{"-n", "3", "-o", "json", "--type", "drain,member"}, `{"type":"drain","at":"T","node":"n1","change":"begun"}
{"type":"gap"}
{"type":"member","at":"T","node":"n4","change":"joined"}
`},
	} {
		var out bytes.Buffer
		a := &app{out: &out, err: io.Discard, lookup: func(string) (string, bool) { return "", false }}
		if code := a.run(append(tc.args, "watch", "--endpoints", url)); code != exitOK || out.String() != tc.want {
			t.Errorf("exit code %d, got\n%s\nwant\n%s", code, &out, tc.want)
		}
	}
}
