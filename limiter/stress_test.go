package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// TestEveryTokenIsAccountedForUnderFaults lets callers hurry under deadlines
// while leaders flap and answers get lost. Whatever happens, the tokens that
// the shards charged are those of the callers that were told so, and at most
// those of the callers that were told it is unknown.
func TestEveryTokenIsAccountedForUnderFaults(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newFake(t)
	for _, n := range c.nodes {
		n.sets["big"] = testSet("big", 1, 1<<30)
	}
	stop := make(chan struct{})
	var chaos, callers sync.WaitGroup
	chaos.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 0))
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			shard := uint32(rng.IntN(3) + 1)
			c.setLeader(shard, []string{"n1", "n2", "n3", ""}[rng.IntN(4)])
			c.script(shard, fault(rng.IntN(int(disownedSlots)+1)), fault(rng.IntN(int(disownedSlots)+1)))
		}
	})
	var mu sync.Mutex
	var allowed, unknown, refused int
	for caller := range 8 {
		callers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(caller)+1))
			for try := range 150 {
				var ops []namedOp
				for i := range rng.IntN(6) + 1 {
					op := take("big", fmt.Sprintf("key%d", rng.IntN(100)))
					if rng.IntN(2) == 0 {
						op = op.id(fmt.Sprintf("%d-%d-%d", caller, try, i))
					}
					ops = append(ops, op)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(40)+1)*time.Millisecond)
				reply, err := c.nodes[fmt.Sprintf("n%d", rng.IntN(3)+1)].Do(ctx, batchOf(ops...), Options{})
				cancel()
				mu.Lock()
				if err != nil {
					if api.AsProblem(err).Outcome == api.Unknown {
						unknown += len(ops)
					} else {
						refused += len(ops)
					}
				} else {
					_, all := results(t, reply)
					for _, res := range all {
						switch {
						case res.Status == api.StatusAllowed:
							allowed++
						case res.Status == api.StatusError && res.Code.Info().Outcome == api.Unknown:
							unknown++
						case res.Status == api.StatusError:
							refused++
						default:
							t.Errorf("unexpected result %+v", res)
						}
					}
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	close(stop)
	chaos.Wait()
	charged := c.applied(1) + c.applied(2) + c.applied(3)
	t.Logf("%d charged; callers were told: %d allowed, %d unknown, %d not applied", charged, allowed, unknown, refused)
	if charged < allowed || charged > allowed+unknown {
		t.Errorf("%d operations were charged, but %d were reported as allowed and %d as unknown", charged, allowed, unknown)
	}
	if allowed == 0 || unknown == 0 || refused == 0 {
		t.Errorf("the chaos was too mild or too harsh to tell anything")
	}
}
