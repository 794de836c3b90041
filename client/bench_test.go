package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// nodeInProcess answers every take as allowed without a network, so that what a
// benchmark measures is the client.
type nodeInProcess struct {
	shards  uint32
	cluster []byte
	batches int
	ops     int
	slots   chan struct{}
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
	n.slots <- struct{}{}
	n.batches++
	n.ops += b.N
	<-n.slots
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

func benchClient(b *testing.B, shards uint32) (*client.Client, *nodeInProcess) {
	id := "n1"
	cluster := api.Cluster{Nodes: []api.ClusterNode{{ID: id, HTTP: "http://n1", Reachable: true}}, SlotMap: api.EvenSlotMap(shards)}
	for s := range shards {
		cluster.Shards = append(cluster.Shards, api.ShardStatus{ID: s + 1, Leader: &id})
	}
	doc, err := json.Marshal(cluster)
	if err != nil {
		b.Fatal(err)
	}
	n := &nodeInProcess{shards: shards, cluster: doc, slots: make(chan struct{}, 1)}
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

// BenchmarkTake is goroutines that take one token at a time.
func BenchmarkTake(b *testing.B) {
	for _, g := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("goroutines=%d", g), func(b *testing.B) {
			c, n := benchClient(b, 6)
			b.SetParallelism(max(g/2, 1))
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
			b.ReportMetric(float64(n.ops)/float64(n.batches), "takes/batch")
		})
	}
}

// BenchmarkTakeBatch is one goroutine with many takes at a time.
func BenchmarkTakeBatch(b *testing.B) {
	for _, size := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c, _ := benchClient(b, 6)
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
