package rltest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

// guide returns a client of a store with the policies of docs/client.md.
func guide() (*rltest.Store, *client.Client) {
	store, err := rltest.Open(`
name: api
limits: [{name: burst, rate: 100, per: 1s, burst: 200}]
---
name: slow
limits: [{rate: 1, per: 1m}]
---
name: llm-tokens
limits: [{rate: 1000, per: 1h}]
---
name: workers
limits: [{algorithm: concurrency, max: 1}]
---
name: busy
limits: [{rate: 1000, per: 1s, burst: 5000}]
mode: leased
`)
	if err != nil {
		log.Fatal(err)
	}
	return store, store.Client()
}

func Example_outcomes() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	d, err := c.Take(ctx, "api", "user:42", 1)
	switch {
	case errors.Is(err, client.ErrUnavailable):
		fmt.Println("nobody decided; nothing was charged")
	case errors.Is(err, client.ErrOutcomeUnknown):
		fmt.Println("it may have been charged")
	case err != nil:
		log.Fatal(err) // such as an unknown policy: nothing was charged
	case d.Allowed:
		fmt.Printf("%d of %d left\n", d.Remaining, d.Limit)
	default:
		fmt.Println("denied, again in", d.RetryAfter)
	}
	// Output: 199 of 200 left
}

func Example_waiting() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	for range 3 {
		d, err := c.Take(ctx, "slow", "user:42", 1, client.MaxWait(time.Minute))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Wait)
	}
	// Output:
	// true 0s
	// true 1m0s
	// false 0s
}

// It would go on for ever, and so is compiled only.
func Example_events() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	for e, err := range c.Events(ctx) {
		if err != nil {
			log.Print(err) // nobody has answered for the client's timeout; it goes on trying
			continue
		}
		fmt.Println(e.Type, e.Node, e.Policy, e.Change)
	}
}

func Example_leased() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	var d client.Decision
	var err error
	for range 1000 {
		if d, err = c.Take(ctx, "busy", "user:42", 1); err != nil || !d.Allowed {
			log.Fatal(d, err)
		}
	}
	fmt.Println(d.Mode, d.Source)
	// Output: leased lease
}

func Example_unavailable() {
	store, _ := guide()
	defer store.Close()
	ctx := context.Background()

	c := store.Client(client.WithTimeout(50*time.Millisecond), client.WithUnavailable(client.Open))
	store.SetOutage(rltest.NoLeader)
	d, err := c.Take(ctx, "api", "user:42", 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allowed, d.Source)
	// Output: true open
}

func Example_reservation() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	r, err := c.Reserve(ctx, "llm-tokens", "team:7", 500, client.TTL(time.Minute))
	if err != nil || !r.Allowed {
		log.Fatal(err)
	}
	done, err := r.Commit(ctx, 320) // what it cost in the end
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done.Committed, done.Refunded)
	// Output: 320 180
}

func Example_permit() {
	store, c := guide()
	defer store.Close()
	ctx := context.Background()

	first, err := c.Acquire(ctx, "workers", "queue:a", client.TTL(30*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	second, err := c.Acquire(ctx, "workers", "queue:a")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.Allowed, second.Allowed)

	store.Advance(30 * time.Second) // the holder of the first has died
	third, err := c.Acquire(ctx, "workers", "queue:a")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(third.Allowed)
	// Output:
	// true false
	// true
}

// Each block of Go in the guide stands, as it is, in one of the examples, whose
// output go test checks; and the guide names every option there is.
func TestTheGuideShowsWhatRuns(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	text := read("../../docs/client.md")
	var examples, sources string
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, more...) {
		if strings.HasSuffix(f, "_test.go") {
			examples += squeeze(read(f)) + "\n"
		} else {
			sources += read(f)
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) < 5 {
		t.Fatalf("the guide has %d blocks of Go", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, squeeze(b[1])) {
			t.Errorf("no example holds\n%s", b[1])
		}
	}
	options := regexp.MustCompile(`(?m)^func ([A-Z]\w*)\(.*\) (?:Take|Batch|Policy)?Option \{`).FindAllStringSubmatch(sources, -1)
	if len(options) < 20 {
		t.Fatalf("found %d options", len(options))
	}
	for _, o := range options {
		if !strings.Contains(text, "`"+o[1]) {
			t.Errorf("the guide does not name the option %s", o[1])
		}
	}
}
