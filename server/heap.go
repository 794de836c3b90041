package server

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// heapHeadroom is how far the heap of a process may grow beyond what is live
// before the garbage collector runs.
//
// Go's default is a share: as much again as is live. Live buckets are most of a
// full node's heap and no garbage, so a share of them doubles its memory for
// nothing; while on a node with few buckets it is so little that the collector
// runs many times a second under load. A fixed amount does right by both.
const heapHeadroom = 128 << 20

const (
	// minGrowth and maxGrowth bound the share that the headroom comes to, in
	// percent: a huge heap is not collected without end, and a tiny one not never.
	minGrowth, maxGrowth = 10, 1600
	// noticeable is by how many percent the share must change to be set anew,
	// which stops the world for a moment.
	noticeable = 10
)

// keepHeadroom makes the garbage collector leave heapHeadroom, from now on and
// for the whole process. An operator's GOGC has the last word.
var keepHeadroom = sync.OnceFunc(func() {
	if os.Getenv("GOGC") != "" {
		return
	}
	h := &headroom{live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	h.adjust()
})

// headroom turns the live bytes that each collection finds into a share for the
// next one.
type headroom struct {
	live    []metrics.Sample
	percent int
}

// adjust sets the share, and is called again after the next collection: by the
// cleanup of an object that is garbage at once. A process runs its cleanups one
// after the other.
func (h *headroom) adjust() {
	metrics.Read(h.live)
	if p := growth(h.live[0].Value.Uint64()); max(p, h.percent)*100 > min(p, h.percent)*(100+noticeable) {
		h.percent = p
		debug.SetGCPercent(p)
	}
	runtime.AddCleanup(new([16]byte), func(h *headroom) { h.adjust() }, h)
}

// growth is heapHeadroom as a share of live bytes, in percent.
func growth(live uint64) int {
	return int(min(max(heapHeadroom*100/max(live, 1), minGrowth), maxGrowth))
}
