package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Summary is what one simulation prints, as JSON in a line.
type Summary struct {
	Seed       uint64         `json:"seed"`
	Violations []string       `json:"violations,omitempty"`
	Faults     map[string]int `json:"faults"`
	Ops        map[string]int `json:"ops"` // by outcome
	Entries    int            `json:"entries"`
	VirtualMS  int64          `json:"virtual_ms"`
	Digest     string         `json:"digest"` // of the history and of what was applied: the same for the same run
}

// patience is how long one simulation may take, in real time. It takes about a
// second; one that hangs waits for a lock that is held by somebody who waits for
// time, which in virtual time does not pass then.
const patience = 2 * time.Minute

// Child is the environment variable that makes a test binary run the simulation
// of one seed.
const Child = "RLSTORE_SIM_SEED"

// RunSeeds runs the simulations of seeds first to last, each in a process of its
// own, side by side in so many at once, and hands each summary to done, one at a
// time. A process that dies is a violation, too. It stops early when ctx ends.
func RunSeeds(ctx context.Context, first, last uint64, parallel int, done func(Summary)) {
	seeds := make(chan uint64)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for seed := range seeds {
				s := runSeed(ctx, seed)
				mu.Lock()
				if ctx.Err() == nil {
					done(s)
				}
				mu.Unlock()
			}
		})
	}
	for seed := first; seed <= last && ctx.Err() == nil; seed++ {
		select {
		case seeds <- seed:
		case <-ctx.Done():
		}
	}
	close(seeds)
	wg.Wait()
}

// runSeed runs this program again for one seed.
func runSeed(ctx context.Context, seed uint64) Summary {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSeed$")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // shows all goroutines
	cmd.WaitDelay = 10 * time.Second
	// One processor and no garbage collection, as far as the machine can bear it:
	// neither is to interfere; see the overlay.
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", Child, seed), "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=1500MiB")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	for line := range bytes.Lines(out.Bytes()) {
		var s Summary
		if line[0] == '{' && json.Unmarshal(line, &s) == nil && err == nil {
			return s
		}
	}
	const most = 20_000
	said := append(out.Bytes(), errs.Bytes()...)
	return Summary{Seed: seed, Violations: []string{fmt.Sprintf("the process ended with %v and said:\n%s", err, said[:min(most, len(said))])}}
}
