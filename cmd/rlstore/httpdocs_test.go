package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/server"
)

const httpFile = "../../docs/http.md"

var rewriteHTTP = flag.Bool("rewrite-http", false, "write the answers that a node gives into docs/http.md")

// startNode starts a cluster of one node and waits until it serves.
func startNode(t *testing.T) *server.Server {
	s, err := server.New(server.Config{
		NodeID: "n1", DataDir: t.TempDir(), HTTPAddr: "127.0.0.1:0", RaftAddr: "127.0.0.1:0",
		BootstrapExpect: 1, Shards: 1, AllowInlineLimits: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the node was not ready in a minute")
	}
	return s
}

// exchange is one example: a block of a request and the block of its answer.
type exchange struct {
	method, target string
	header         http.Header
	body           string

	status     int
	shown      http.Header
	answerBody string
}

// holdID is the id of a reservation or a permit. In a request it stands for the last
// one of its kind that was answered.
var holdID = regexp.MustCompile(`\b(rsv_|pmt_)[0-9a-z]+\b`)

var httpBlock = regexp.MustCompile("(?s)```http\n(.*?)\n```\n\n```http\n(.*?)\n```")

// TestHTTPExamples sends the requests of docs/http.md, one after the other, to a new
// cluster. The answers must be those that the page shows, but for what differs from
// day to day; and requests and answers must be what openapi.yaml describes. Every
// route has an example.
func TestHTTPExamples(t *testing.T) {
	o := readOpenAPI(t)
	node := startNode(t)
	page := readFile(t, httpFile)
	seen := map[string]bool{}
	ids := map[string]string{} // the last one of each kind that was answered
	for _, m := range httpBlock.FindAllStringSubmatch(page, -1) {
		x := parseExample(t, m[1], m[2])
		x.target = holdID.ReplaceAllStringFunc(x.target, func(id string) string { return cmp.Or(ids[id[:4]], id) })
		res, body := x.send(t, node.HTTPURL())
		for _, id := range holdID.FindAllString(string(body), -1) {
			ids[id[:4]] = id
		}
		at := x.method + " " + x.target
		path, op := o.operation(x.method, x.target)
		if op != nil {
			seen[fmt.Sprint(op["operationId"])] = true
		}
		if err := o.checkExchange(x.method, x.target, x.header.Get("Content-Type"), []byte(x.body), res.StatusCode, res.Header.Get("Content-Type"), body); err != nil {
			t.Errorf("%s (%s): %d %s\nis not as in openapi.yaml: %v", at, path, res.StatusCode, body, err)
		}
		if *rewriteHTTP {
			request := holdID.ReplaceAllStringFunc(m[1], func(id string) string { return cmp.Or(ids[id[:4]], id) })
			page = strings.Replace(page, m[1], request, 1)
			page = strings.Replace(page, "```http\n"+m[2]+"\n```", "```http\n"+shown(res, body, x.answerBody)+"\n```", 1)
			continue
		}
		if err := x.differs(res, body); err != nil {
			t.Errorf("%s: %v\nit answered\n%s", at, err, shown(res, body, ""))
		}
	}
	for _, r := range api.Routes {
		if !seen[r.Name] {
			t.Errorf("%s has no example of the route %s", httpFile, r.Name)
		}
	}
	if *rewriteHTTP {
		if err := os.WriteFile(httpFile, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func parseExample(t *testing.T, request, answer string) *exchange {
	x := &exchange{}
	head, body, _ := strings.Cut(request, "\n\n")
	lines := strings.Split(head, "\n")
	if _, err := fmt.Sscan(lines[0], &x.method, &x.target); err != nil {
		t.Fatalf("%q is no request: %v", lines[0], err)
	}
	x.body, x.header = body, headers(lines[1:])
	head, x.answerBody, _ = strings.Cut(answer, "\n\n")
	lines = strings.Split(head, "\n")
	fmt.Sscanf(lines[0], "HTTP/1.1 %d", &x.status)
	x.shown = headers(lines[1:])
	return x
}

func headers(lines []string) http.Header {
	h := http.Header{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h[name] = append(h[name], value)
	}
	return h
}

func (x *exchange) send(t *testing.T, base string) (*http.Response, []byte) {
	req, err := http.NewRequestWithContext(t.Context(), x.method, base+x.target, strings.NewReader(x.body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, x.header)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, bytes.TrimSpace(body)
}

// shownHeaders are those of answers that the page tells of.
var shownHeaders = []string{"Allow", "Etag", "Location", "Ratelimit", "Ratelimit-Policy", "Retry-After"}

// shown is an answer as the page shows it. A body that is "…" there stays so.
func shown(res *http.Response, body []byte, before string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s", res.Status)
	if media := res.Header.Get("Content-Type"); len(body) > 0 && media != api.MediaJSON {
		fmt.Fprintf(&b, "\nContent-Type: %s", media)
	}
	for _, name := range shownHeaders {
		if v := res.Header.Get(name); v != "" {
			fmt.Fprintf(&b, "\n%s: %s", properName(name), v)
		}
	}
	switch {
	case len(body) == 0:
	case before == "…":
		b.WriteString("\n\n…")
	default:
		b.WriteString("\n\n" + wrapped(body))
	}
	return b.String()
}

func properName(canonical string) string {
	return map[string]string{"Etag": "ETag", "Ratelimit": "RateLimit", "Ratelimit-Policy": "RateLimit-Policy"}[canonical] +
		map[bool]string{true: canonical}[!strings.HasPrefix(canonical, "Ratelimit") && canonical != "Etag"]
}

// wrapped breaks a line of JSON behind commas outside of text.
func wrapped(body []byte) string {
	const width = 100
	var out, line strings.Builder
	text, last := false, 0
	for i, c := range body {
		switch {
		case c == '"' && (i == 0 || body[i-1] != '\\'):
			text = !text
		case c == ',' && !text || i == len(body)-1:
			part := string(body[last : i+1])
			if line.Len() > 0 && line.Len()+len(part) > width {
				out.WriteString(line.String() + "\n")
				line.Reset()
				line.WriteByte(' ')
			}
			line.WriteString(part)
			last = i + 1
		}
	}
	if last < len(body) {
		line.Write(body[last:])
	}
	return out.String() + line.String()
}

// volatile are the fields whose values differ from day to day.
var volatile = []string{
	"index", "offset", "time_ns", "at", "retry_after_ms", "reset_after_ms", "expires_in_ms", "age_ms", "wait_ms", "ttl_ms",
	"cluster_id", "http", "raft", "version", "go_version", "request_id", "term", "commit_index", "applied_index", "lag",
	"reservation_id", "permit_id", "instance", "detail", "message",
}

// differs says how an answer differs from the page.
func (x *exchange) differs(res *http.Response, body []byte) error {
	if res.StatusCode != x.status {
		return fmt.Errorf("the status is %d, not %d", res.StatusCode, x.status)
	}
	seconds := regexp.MustCompile(`;t=\d+`)
	for name, v := range x.shown {
		got := seconds.ReplaceAllString(res.Header.Get(name), "")
		if want := seconds.ReplaceAllString(v[0], ""); got != want && name != "Retry-After" {
			return fmt.Errorf("the header %s is %q, not %q", name, got, want)
		}
	}
	if x.answerBody == "…" {
		return nil
	}
	if !strings.HasSuffix(res.Header.Get("Content-Type"), "json") {
		if got := string(body); got != x.answerBody {
			return fmt.Errorf("the body is %q", got)
		}
		return nil
	}
	var want, got any
	if err := json.Unmarshal([]byte(x.answerBody), &want); err != nil {
		return err
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return err
	}
	return sameShape(want, got, "")
}

func sameShape(want, got any, at string) error {
	field := at[strings.LastIndexByte(at, '.')+1:]
	if slices.Contains(volatile, field) && fmt.Sprintf("%T", want) == fmt.Sprintf("%T", got) {
		return nil
	}
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		if a, b := slices.Sorted(maps.Keys(w)), slices.Sorted(maps.Keys(g)); !slices.Equal(a, b) {
			return fmt.Errorf("%s has the fields %v, not %v", at, b, a)
		}
		for k := range w {
			if err := sameShape(w[k], g[k], at+"."+k); err != nil {
				return err
			}
		}
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return fmt.Errorf("%s has %d elements, not %d", at, len(g), len(w))
		}
		for i := range w {
			if err := sameShape(w[i], g[i], at); err != nil {
				return err
			}
		}
	default:
		if want != got {
			return fmt.Errorf("%s is %v, not %v", at, got, want)
		}
	}
	return nil
}
