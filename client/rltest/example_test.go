package rltest_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/rlstore/rlstore/client/rltest"
)

// In a test, New ends the store and its clients with the test.
func Example() {
	store, err := rltest.Open(`
name: api
limits: [{rate: 2, per: 1s}]
`)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	c := store.Client() // hand it to what is to be tested

	for range 3 {
		d, err := c.Take(context.Background(), "api", "user:42", 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.RetryAfter)
	}
	store.Advance(500 * time.Millisecond)
	fmt.Println(c.Limiter("api", "user:42").Allow())
	// Output:
	// true 0s
	// true 0s
	// false 500ms
	// true
}
