package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// nodeInProcess answers every take as allowed without a network, so that what a
// benchmark measures is the client.
type nodeInProcess struct {
	cluster []byte
	delay   time.Duration // a commit
	batches atomic.Int64
	ops     atomic.Int64
}

func (n *nodeInProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	header := http.Header{}
	if r.Method == http.MethodGet {
		return &http.Response{StatusCode: 200, Header: header, Body: io.NopCloser(bytes.NewReader(n.cluster))}, nil
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, err
	}
	b, err := api.DecodeBatch(body)
	if err != nil {
		return nil, err
	}
	n.batches.Add(1)
	n.ops.Add(int64(b.N))
	time.Sleep(n.delay)
	reply := api.BeginReply(make([]byte, 0, 16*b.N+200), b.N, api.Commit{Shard: 1, Index: 1})
	res := api.Result{Status: api.StatusAllowed, Limits: []api.LimitValues{{Remaining: 100, ResetAfter: 1000}}}
	for range b.N {
		reply = api.AppendResult(reply, &res)
	}
	set := api.SetInfo{Policy: "api", Revision: 1, Limits: []api.LimitInfo{{Name: "burst", Rate: 1000, Per: 1e9, Burst: 1000}}}
	reply = api.FinishReply(reply, 0, [][]byte{api.AppendSetInfo(nil, &set)})
	return &http.Response{
		StatusCode: 200, Header: header, ContentLength: int64(len(reply)), Body: io.NopCloser(bytes.NewReader(reply)),
	}, nil
}

func benchClient(b *testing.B, shards uint32, delay time.Duration) (*client.Client, *nodeInProcess) {
	id := "n1"
	cluster := api.Cluster{Nodes: []api.ClusterNode{{ID: id, HTTP: "http://n1", Reachable: true}}, SlotMap: api.EvenSlotMap(shards)}
	for s := range shards {
		cluster.Shards = append(cluster.Shards, api.ShardStatus{ID: s + 1, Leader: &id})
	}
	doc, err := json.Marshal(cluster)
	if err != nil {
		b.Fatal(err)
	}
	n := &nodeInProcess{cluster: doc, delay: delay}
	c, err := client.New([]string{"http://n1"}, client.WithHTTPClient(&http.Client{Transport: n}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c, n
}

var benchKeys = func() (keys []string) {
	for i := range 4096 {
		keys = append(keys, "user:"+strconv.Itoa(i))
	}
	return keys
}()

// BenchmarkTake is goroutines that take one token at a time, from a store that
// commits in a millisecond. What counts is allocations and takes/batch.
func BenchmarkTake(b *testing.B) {
	for _, g := range []int{64, 1024, 16384} {
		b.Run(fmt.Sprintf("goroutines=%d", g), func(b *testing.B) {
			c, n := benchClient(b, 6, time.Millisecond)
			b.SetParallelism(max(g/runtime.GOMAXPROCS(0), 1))
			b.ReportAllocs()
			ctx := context.Background()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if d, err := c.Take(ctx, "api", benchKeys[i%len(benchKeys)], 1); err != nil || !d.Allowed {
						b.Error(d, err)
						return
					}
				}
			})
			b.ReportMetric(float64(n.ops.Load())/float64(n.batches.Load()), "takes/batch")
		})
	}
}

// BenchmarkTakeBatch is one goroutine with many takes at a time.
func BenchmarkTakeBatch(b *testing.B) {
	for _, size := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c, _ := benchClient(b, 6, 0)
			reqs := make([]client.Request, size)
			for i := range reqs {
				reqs[i] = client.Request{Policy: "api", Key: benchKeys[i%len(benchKeys)]}
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.TakeBatch(b.Context(), reqs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/take")
		})
	}
}
