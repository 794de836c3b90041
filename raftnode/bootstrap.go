package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// How a cluster begins. Every node starts with the same --bootstrap-expect and
// --join, and asks the join addresses for their status. Once a node sees as
// many fresh nodes as expected, itself included, the one with the smallest id
// drives:
//
//  1. it draws a plan: a new cluster id and the members;
//  2. prepare: every member writes the plan to its disk, or refuses because it
//     holds another one or belongs to a cluster already;
//  3. start: only when all have it. A member that has started says so in its
//     status, and a prepared one that sees it starts as well, so a driver that
//     dies half-way leaves nobody behind.
//
// Since all members had the plan on disk before the first one started, a
// member of a running cluster that has no plan has lost its disk. It must not
// vote under its old id again, because it forgot its votes, and is refused.
//
// A node that finds a running cluster it is no member of joins it: each group's
// leader adds it as a nonvoter, and as a voter once it has caught up with every
// group (balance.go).

// plan is the beginning of a cluster.
type plan struct {
	ClusterID string   `json:"cluster_id"` // hex of 16 random bytes
	Shards    int      `json:"shards"`
	Members   []Member `json:"members"` // sorted by id
}

func (p *plan) has(id string) bool {
	for _, m := range p.Members {
		if m.ID == id {
			return true
		}
	}
	return false
}

// check says what is wrong with a plan that comes from a peer or a disk.
func (p *plan) check() error {
	if len(p.Members) == 0 {
		return errors.New("a plan without members")
	}
	return checkCluster(p.ClusterID, p.Shards, p.Members)
}

// joinAnswer tells a node that knocks what it would join.
type joinAnswer struct {
	ClusterID string   `json:"cluster_id"`
	Shards    int      `json:"shards"`
	Members   []Member `json:"members"`
	Removed   bool     `json:"removed,omitempty"` // the node that knocks was removed from the cluster
}

// checkCluster says what no cluster can be: a node that believed it would open
// as many groups as it is told, and keep an identity that it can't read again.
func checkCluster(id string, shards int, members []Member) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != len(Identity{}.ClusterID) {
		return fmt.Errorf("%.40q is not a cluster's id", id)
	}
	if shards < 1 || shards > api.Slots {
		return fmt.Errorf("%d shards; a cluster has 1 to %d", shards, api.Slots)
	}
	seen := map[string]bool{}
	for _, m := range members {
		if m.ID == "" || len(m.ID) > maxNodeID || m.Raft == "" {
			return fmt.Errorf("%.40q at %.40q is not a member", m.ID, m.Raft)
		}
		if seen[m.ID] {
			return fmt.Errorf("the member %s is there twice", m.ID)
		}
		seen[m.ID] = true
	}
	return nil
}

const bootstrapEvery = 250 * time.Millisecond

// form looks for this node's cluster until it has one, then opens the groups.
func (n *Node) form(ctx context.Context) error {
	tick := time.NewTicker(bootstrapEvery)
	defer tick.Stop()
	var told remark
	for {
		var err error
		if n.ClusterID() == "" {
			err = n.seek(ctx)
		}
		if err == nil && n.ClusterID() != "" {
			return n.openGroups()
		}
		var fatal *fatalError
		if errors.As(err, &fatal) { // who hears of it tells of it
			return fatal
		}
		if err != nil && ctx.Err() == nil && told.isNews(err, time.Now()) {
			n.log.Info("looking for the cluster", "state", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// fatalError ends the search: waiting longer would not help.
type fatalError struct{ error }

// absentError is how far the search is, and which addresses do not answer. Why they
// don't may differ from one step to the next, and is no news.
type absentError struct {
	state  string
	absent map[string]error // by address
}

// who is the addresses, in a stable order.
func (e *absentError) who() []string { return slices.Sorted(maps.Keys(e.absent)) }

func (e *absentError) Error() string {
	var b strings.Builder
	b.WriteString(e.state)
	for i, addr := range e.who() {
		b.WriteString([]string{"; no answer from ", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "%s (%v)", addr, e.absent[addr])
	}
	return b.String()
}

// remark is what was told of the search last.
type remark struct {
	what string
	at   time.Time
}

// remindEvery is how long the same state of the search stays unrepeated.
const remindEvery = time.Minute

// isNews tells whether err is to be told now, and takes it for told if so.
func (r *remark) isNews(err error, now time.Time) bool {
	what := err.Error()
	var absent *absentError
	if errors.As(err, &absent) {
		what = fmt.Sprint(absent.state, absent.who())
	}
	if what == r.what && now.Sub(r.at) < remindEvery {
		return false
	}
	*r = remark{what, now}
	return true
}

// seek makes one step: it asks around, and prepares, starts or joins. A nil
// error with no cluster yet means that somebody else drives.
func (n *Node) seek(ctx context.Context) error {
	answers, absent, err := n.survey(ctx)
	if err != nil {
		return err
	}
	seen := map[string]status{n.cfg.NodeID: n.status()}
	var formed []string // addresses of nodes of the running cluster
	var first status    // the first of them
	for _, s := range answers {
		if other, ok := seen[s.ID]; ok && other.Raft != s.Raft && other.ClusterID == s.ClusterID {
			return fmt.Errorf("the nodes at %s and %s both have the id %s; give every node a --node-id of its own", other.Raft, s.Raft, s.ID)
		}
		seen[s.ID] = s
		if s.ClusterID == "" {
			continue
		}
		if formed == nil {
			first = s
		} else if first.ClusterID != s.ClusterID {
			return &fatalError{fmt.Errorf("--join leads to two clusters: %s belongs to %s, and %s to %s; name the addresses of one only",
				first.Raft, first.ClusterID, s.Raft, s.ClusterID)}
		}
		formed = append(formed, s.Raft)
	}
	switch {
	case formed != nil:
		return n.enter(ctx, formed)
	case n.cfg.BootstrapExpect == 0:
		return &absentError{"no node of a running cluster answers at --join", absent}
	case len(seen) < n.cfg.BootstrapExpect:
		return &absentError{fmt.Sprintf("%d of %d expected nodes see each other", len(seen), n.cfg.BootstrapExpect), absent}
	}
	ids := make([]string, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	ids = ids[:n.cfg.BootstrapExpect]
	for _, id := range ids {
		if s := seen[id]; s.Expect != n.cfg.BootstrapExpect || s.Shards != n.cfg.Shards {
			return fmt.Errorf("node %s has --bootstrap-expect %d --shards %d, this one %d and %d; give all the same", id, s.Expect, s.Shards, n.cfg.BootstrapExpect, n.cfg.Shards)
		}
	}
	n.idMu.Lock()
	pending := n.id.Bootstrap
	n.idMu.Unlock()
	if pending == nil {
		if ids[0] != n.cfg.NodeID {
			return nil
		}
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return err
		}
		pending = &plan{ClusterID: hex.EncodeToString(id[:]), Shards: n.cfg.Shards}
		for _, id := range ids {
			pending.Members = append(pending.Members, seen[id].Member)
		}
	} else if pending.Members[0].ID != n.cfg.NodeID {
		return nil // its driver goes on with it
	}
	return n.drive(ctx, pending)
}

// survey asks every address that this node knows of: those of --join, those of
// fresh nodes that asked this one, those that such nodes tell of, and the
// members of a plan that was accepted. So it is enough that --join connects all
// nodes somehow. It returns the answers, and the addresses without one.
func (n *Node) survey(ctx context.Context) (answers []status, absent map[string]error, err error) {
	absent = map[string]error{}
	asked := map[string]bool{n.cfg.RaftAdvertise: true}
	next := slices.Clone(n.cfg.Join)
	for _, m := range n.peers.strangers() {
		next = append(next, m.Raft)
	}
	n.idMu.Lock()
	if n.id.Bootstrap != nil {
		for _, m := range n.id.Bootstrap.Members {
			next = append(next, m.Raft)
		}
	}
	n.idMu.Unlock()
	var mu sync.Mutex // guards what the answers change, from here on
	for len(next) > 0 && len(asked) < maxStrangers {
		var wg sync.WaitGroup
		round := next
		next = nil
		for _, addr := range round {
			if asked[addr] {
				continue
			}
			asked[addr] = true
			wg.Go(func() {
				s, e := n.ask(ctx, addr)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case e != nil:
					absent[addr] = e
				case s.ID == n.cfg.NodeID && s.Raft != n.cfg.RaftAdvertise:
					err = &fatalError{fmt.Errorf("the node at %s has this node's id, %s; give every node a --node-id of its own", addr, s.ID)}
				default:
					answers = append(answers, s)
					for _, m := range s.Strangers {
						next = append(next, m.Raft)
					}
				}
			})
		}
		wg.Wait()
	}
	return answers, absent, err
}

// drive carries a plan through both of its phases. It may be repeated.
func (n *Node) drive(ctx context.Context, p *plan) error {
	for _, method := range []uint8{methodPrepare, methodStart} {
		for _, m := range p.Members {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			var err error
			switch {
			case m.ID != n.cfg.NodeID:
				err = n.call(ctx, m.at(), method, p, nil)
			case method == methodPrepare:
				err = n.prepare(p)
			}
			cancel()
			if err != nil {
				return fmt.Errorf("start the cluster with node %s: %w", m.ID, err)
			}
		}
		if method == methodPrepare {
			if err := n.start(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare accepts a plan, on disk, if this node is free for it.
func (n *Node) prepare(p *plan) error {
	if err := p.check(); err != nil {
		return api.NewProblem(api.InvalidRequest, "the plan can't be carried out: %v", err)
	}
	if !p.has(n.cfg.NodeID) {
		return api.NewProblem(api.InvalidRequest, "the plan does not hold node %s", n.cfg.NodeID)
	}
	n.idMu.Lock()
	defer n.idMu.Unlock()
	switch {
	case n.id.ClusterID == p.ClusterID:
		return nil
	case n.id.ClusterID != "":
		return api.NewProblem(api.InvalidRequest, "node %s belongs to a cluster already; its data folder is not empty", n.cfg.NodeID)
	case n.id.Bootstrap != nil && n.id.Bootstrap.ClusterID != p.ClusterID:
		return api.NewProblem(api.InvalidRequest, "node %s has accepted another start of a cluster; if that one will never come about, empty its data folder", n.cfg.NodeID)
	}
	next := n.id
	next.Bootstrap = p
	return n.keep(next)
}

// start turns the accepted plan, which p names, into the node's cluster; form
// sees it. What the rest of p says does not count: all have the same on disk.
func (n *Node) start(p *plan) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	if n.id.ClusterID == p.ClusterID {
		return nil
	}
	if n.id.Bootstrap == nil || n.id.Bootstrap.ClusterID != p.ClusterID {
		return api.NewProblem(api.InvalidRequest, "node %s has not accepted this plan", n.cfg.NodeID)
	}
	next, accepted := n.id, n.id.Bootstrap
	next.ClusterID, next.Shards, next.Members = accepted.ClusterID, accepted.Shards, accepted.Members
	if err := n.keep(next); err != nil {
		return err
	}
	n.peers.learn(accepted.Members)
	return nil
}

// enter makes this node part of the running cluster that the nodes at addrs
// belong to: through the plan that both hold, or as a new member. It asks all of
// them, for one alone may have joined a moment ago and know of no members, or lag
// and not know of this one.
func (n *Node) enter(ctx context.Context, addrs []string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all *joinAnswer
	var failure error
	for _, addr := range addrs {
		a, err := n.askToJoin(ctx, addr)
		var fatal *fatalError
		switch {
		case errors.As(err, &fatal):
			return err
		case err != nil:
			failure = err
		case all == nil:
			all = a
		default:
			all.Members = append(all.Members, a.Members...)
		}
	}
	if all == nil {
		return failure
	}
	n.idMu.Lock()
	pending := n.id.Bootstrap
	n.idMu.Unlock()
	if pending != nil && pending.ClusterID == all.ClusterID {
		return n.start(pending)
	}
	if pending != nil {
		return &fatalError{fmt.Errorf("this node has accepted the start of another cluster than that of %s; empty its data folder %s to join", addrs[0], n.cfg.DataDir)}
	}
	n.peers.learn(all.Members)
	n.idMu.Lock()
	defer n.idMu.Unlock()
	next := n.id
	next.ClusterID, next.Shards, next.Members = all.ClusterID, all.Shards, n.peers.members()
	return n.keep(next)
}

// askToJoin asks one node what this one would join. It is a fatalError if this
// node must not.
func (n *Node) askToJoin(ctx context.Context, addr string) (*joinAnswer, error) {
	var a joinAnswer
	if err := n.call(ctx, addr, methodJoin, n.self(), &a); err != nil {
		return nil, fmt.Errorf("join the cluster of %s: %w", addr, err)
	}
	if err := checkCluster(a.ClusterID, a.Shards, a.Members); err != nil {
		return nil, fmt.Errorf("join the cluster of %s: it answers with %w", addr, err)
	}
	n.idMu.Lock()
	pending := n.id.Bootstrap
	n.idMu.Unlock()
	switch {
	case pending != nil && pending.ClusterID == a.ClusterID: // it was there from the start
	case a.Removed:
		return nil, &fatalError{fmt.Errorf("node %s was removed from the cluster at %s; start it with an empty folder under a new --node-id to come back", n.cfg.NodeID, addr)}
	case slices.ContainsFunc(a.Members, func(m Member) bool { return m.ID == n.cfg.NodeID }):
		return nil, &fatalError{fmt.Errorf("node %s is a member of the cluster at %s, but its data folder %s is empty: it has forgotten its votes and must not return under this id; start it with a new --node-id", n.cfg.NodeID, addr, n.cfg.DataDir)}
	}
	for _, m := range a.Members {
		if m.Raft == n.cfg.RaftAdvertise && m.ID != n.cfg.NodeID {
			return nil, fmt.Errorf("join the cluster of %s: %s is the raft address of its member %s; remove that one first, or give this node another --raft-advertise", addr, m.Raft, m.ID)
		}
	}
	return &a, nil
}

// checkJoin looks for the mistake of giving a node of one cluster the addresses
// of another. A node with a cluster has no use for --join, so it only tells.
func (n *Node) checkJoin(ctx context.Context) {
	for _, addr := range n.cfg.Join {
		if addr == n.cfg.RaftAdvertise {
			continue
		}
		var refused *RefusedError
		if _, err := n.ask(ctx, addr); errors.As(err, &refused) && !refused.Retryable {
			n.log.Warn("a --join address is not of this node's cluster; the node stays in its own", "cluster", n.ClusterID(), "error", refused)
		}
	}
}
