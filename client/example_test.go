package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// exampleCluster stands in for a real one, so that the examples run. A policy
// "api" has a burst of 3.
func exampleCluster() (endpoints []string, stop func()) {
	t := &exampleTB{}
	f := newFake(t, 3, 6)
	f.policy("api", 3)
	for _, s := range f.nodes {
		endpoints = append(endpoints, s.URL)
	}
	return endpoints, func() {
		for _, stop := range t.cleanups {
			stop()
		}
	}
}

type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func ExampleClient_Take() {
	endpoints, stop := exampleCluster() // such as http://127.0.0.1:8101
	defer stop()
	c, err := client.New(endpoints, client.WithTimeout(2*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for range 4 {
		d, err := c.Take(context.Background(), "api", "user:42", 1)
		switch {
		case errors.Is(err, client.ErrUnavailable):
			fmt.Println("nobody decided; nothing was charged")
		case err != nil:
			log.Fatal(err)
		case d.Allowed:
			fmt.Printf("allowed, %d of %d left\n", d.Remaining, d.Limit)
		default:
			fmt.Printf("denied, again in %v\n", d.RetryAfter)
		}
	}
	// Output:
	// allowed, 2 of 3 left
	// allowed, 1 of 3 left
	// allowed, 0 of 3 left
	// denied, again in 20ms
}

func ExampleClient_TakeBatch() {
	endpoints, stop := exampleCluster()
	defer stop()
	c, err := client.New(endpoints)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	results, err := c.TakeBatch(context.Background(), []client.Request{
		{Policy: "api", Key: "user:42"},
		{Policy: "api", Key: "user:43", Cost: 3},
		{Policy: "nope", Key: "user:44"},
	})
	if err != nil {
		log.Fatal(err) // nothing was charged to anyone
	}
	for _, r := range results {
		if errors.Is(r.Err, client.ErrUnknownPolicy) {
			fmt.Println("no such policy")
			continue
		}
		fmt.Println(r.Key, r.Allowed, r.Remaining)
	}
	// Output:
	// user:42 true 2
	// user:43 true 0
	// no such policy
}

func ExampleClient_Refund() {
	endpoints, stop := exampleCluster()
	defer stop()
	c, err := client.New(endpoints)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	d, err := c.Take(ctx, "api", "user:42", 2)
	if err != nil {
		log.Fatal(err)
	}
	// The work turned out not to be needed. Refunding again does no harm.
	for range 2 {
		if err := c.Refund(ctx, d); err != nil {
			log.Fatal(err)
		}
	}
	s, err := c.Peek(ctx, "api", "user:42")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Remaining)
	// Output: 3
}

func ExampleClient_PutPolicy() {
	endpoints, stop := exampleCluster()
	defer stop()
	c, err := client.New(endpoints)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	p, err := c.PutPolicy(context.Background(), api.Policy{
		Name:   "search",
		Limits: []api.Limit{{Name: "burst", Rate: 100, Per: api.Duration(time.Second), Burst: 200}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Name, p.Limits[0].Burst)
	// Output: search 200
}

func ExampleLimiter() {
	endpoints, stop := exampleCluster()
	defer stop()
	c, err := client.New(endpoints)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	l := c.Limiter("api", "user:42")
	fmt.Println(l.Allow(), l.AllowN(time.Now(), 2), l.Allow())

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	fmt.Println(l.Wait(ctx) != nil)
	// Output:
	// true true false
	// true
}
