package raftnode

import (
	"context"

	"github.com/hashicorp/raft"
)

// answered waits for f in a goroutine of its own, which stays for as long as
// nobody answers: for ever, if the library's main goroutine has ended before it
// took f up, or handed it on (docs/raft.md, 1). So whoever reads the channel
// needs another way out. An entry that the state machine has not taken counts as failed.
func answered(f raft.Future) <-chan error {
	ch := make(chan error, 1)
	go func() {
		err := f.Error()
		if a, ok := f.(raft.ApplyFuture); ok && err == nil {
			err, _ = a.Response().(error)
		}
		ch <- err
	}()
	return ch
}

// await returns f's error, or ctx's when that ends first.
func await(ctx context.Context, f raft.Future) error {
	select {
	case err := <-answered(f):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
