package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
)

// callers is the slot of the callers; the nodes have 1 and up.
const callers = 0

// network is where the processes of a run live: each slot has an address of
// its own, and each directed pair of slots a link. The runner itself reaches
// every slot always.
type network interface {
	// host is the address of a slot.
	host(slot int) string
	// command is exec.Command for a process that lives in a slot.
	command(slot int, name string, args ...string) *exec.Cmd
	// dial connects the runner to an address.
	dial(ctx context.Context, network, addr string) (net.Conn, error)
	// setLink says whether what one slot sends to another arrives.
	setLink(from, to int, open bool) error
	// setSlow throttles what a slot sends to slowLink, or stops to.
	setSlow(slot int, slow bool) error
	close() error
	// about tells the reader of a report what it is.
	about() string
}

// slowLink is the pace of a slow link, bytes a second: heartbeats come through,
// a snapshot takes seconds, and the callers' load is more than it carries.
const slowLink = 24 << 10

type link struct{ from, to int }

// links counts, for each link, the faults that have cut it, since faults
// overlap and each mends only what it cut.
type links struct {
	net network
	mu  sync.Mutex
	cut map[link]int
}

func newLinks(n network) *links { return &links{net: n, cut: map[link]int{}} }

// sever cuts all of these links, and returns what mends them.
func (l *links) sever(which []link) (mend func() error, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, k := range which {
		if l.cut[k]++; l.cut[k] == 1 {
			if err := l.net.setLink(k.from, k.to, false); err != nil {
				return nil, fmt.Errorf("cut the link from %d to %d, of %v: %w", k.from, k.to, which[:i], err)
			}
		}
	}
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, k := range which {
			if l.cut[k]--; l.cut[k] == 0 {
				if err := l.net.setLink(k.from, k.to, true); err != nil {
					return fmt.Errorf("mend the link from %d to %d: %w", k.from, k.to, err)
				}
			}
		}
		return nil
	}, nil
}

// between lists the links from every slot of a to every one of b.
func between(a, b []int) (list []link) {
	for _, from := range a {
		for _, to := range b {
			if from != to {
				list = append(list, link{from, to})
			}
		}
	}
	return list
}

// apart lists the links in both directions.
func apart(a, b []int) []link { return append(between(a, b), between(b, a)...) }
