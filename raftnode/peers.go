package raftnode

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// Member is one node of the cluster.
type Member struct {
	ID   string `json:"id"`
	Raft string `json:"raft"` // host:port of all node-to-node traffic
	HTTP string `json:"http"` // base URL of the API
}

// at is where to dial the member, and nobody else who may answer there.
func (m Member) at() string { return addrOf(m.ID, m.Raft) }

const (
	// probeEvery is how often a node asks each peer for its status: often
	// enough for an even spread of leaders and a fresh `cluster status`.
	probeEvery = time.Second
	// unreachableAfter is the age at which a peer's last answer no longer
	// counts.
	unreachableAfter = 3 * time.Second
)

// status is what a node tells its peers of itself.
type status struct {
	Member
	ClusterID string        `json:"cluster_id,omitempty"` // hex; empty before the node belongs to a cluster
	Version   string        `json:"version"`
	Draining  bool          `json:"draining,omitempty"`
	Expect    int           `json:"expect,omitempty"`
	Shards    int           `json:"shards,omitempty"`
	Pending   string        `json:"pending,omitempty"` // id of a plan accepted and not yet started
	Groups    []groupStatus `json:"groups,omitempty"`
	// Strangers are fresh nodes that asked this one, while it is fresh itself.
	Strangers []Member `json:"strangers,omitempty"`
	// Process is drawn at each start: it tells two processes with one id apart.
	Process string `json:"process"`
	// YouAreRemoved answers a node that was removed from the cluster.
	YouAreRemoved bool `json:"you_are_removed,omitempty"`
	// OtherAt answers a process whose announcement was refused: where another one
	// answers as the same node.
	OtherAt string `json:"other_at,omitempty"`
}

// groupStatus is one replica of a group.
type groupStatus struct {
	ID      uint32 `json:"id"`
	Term    uint64 `json:"term"`
	Leader  string `json:"leader,omitempty"` // as this replica believes
	Commit  uint64 `json:"commit"`
	Applied uint64 `json:"applied"`
	Last    uint64 `json:"last"`
	// Command is the index of the last command that the state machine has
	// applied. The library counts an entry as applied when it hands it over.
	Command uint64 `json:"command"`
	// Serving says that this replica leads and has taken office.
	Serving bool `json:"serving,omitempty"`
	// Lost says that this replica has lost what it had, and takes no part until the
	// leader has taken its vote away; Repairing, until it has its vote again.
	Lost      bool `json:"lost,omitempty"`
	Repairing bool `json:"repairing,omitempty"`
}

// peers is the address book: what this node last heard of each other one.
type peers struct {
	mu      sync.Mutex // guards the next five
	heard   map[string]peerState
	lags    map[string]peerLags
	book    map[string]Member   // of the members, from the data folder; kept up to date
	strange map[string]stranger // fresh nodes that asked this one while it was fresh
	refused map[string]string   // by id, the process that was refused last, as it was not the node's only one
}

// maxStrangers bounds how many fresh nodes one keeps in mind, and asks.
const maxStrangers = 128

// meet notes a fresh node that asked this one.
func (p *peers) meet(m Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.strange[m.ID]; ok || len(p.strange) < maxStrangers {
		p.strange[m.ID] = stranger{m, time.Now()}
	}
}

// strangers are the fresh nodes that asked this one lately, sorted by id.
func (p *peers) strangers() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Member
	for id, s := range p.strange {
		if time.Since(s.at) > unreachableAfter {
			delete(p.strange, id)
			continue
		}
		list = append(list, s.Member)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

type stranger struct {
	Member
	at time.Time
}

type peerState struct {
	status
	at time.Time // when it answered
}

// peerLags is how many entries a peer's replicas had yet to apply, by group, of
// those that this node knew as committed when it asked. An answer is up to a
// second old, and a shard may take thousands of entries a second: held against
// what is committed now, a peer that is right behind would look far away.
type peerLags struct {
	groups map[uint32]uint64
	at     time.Time // when it answered
}

func newPeers(members []Member) *peers {
	p := &peers{heard: map[string]peerState{}, lags: map[string]peerLags{}, book: map[string]Member{}, strange: map[string]stranger{}, refused: map[string]string{}}
	for _, m := range members {
		p.book[m.ID] = m
	}
	return p
}

// note records a peer's answer and says whether it changed its address, which was
// known before. If that has changed meanwhile, there is something new to check, and
// note does nothing: the peer is heard of again in a second.
func (p *peers) note(s status, known Member) (moved bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book[s.ID] != known {
		return false
	}
	p.heard[s.ID] = peerState{s, time.Now()}
	p.book[s.ID] = s.Member
	return known != s.Member
}

// refuse records that a process is not the only one of its node, and says whether
// that is news.
func (p *peers) refuse(s status) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = p.refused[s.ID] != s.Process
	p.refused[s.ID] = s.Process
	return news
}

// measure records how far behind a peer was that has just answered; own is
// this node's replicas as they were before it asked.
func (p *peers) measure(s status, own []groupStatus) {
	l := peerLags{groups: map[uint32]uint64{}, at: time.Now()}
	for _, theirs := range s.Groups {
		for _, g := range own {
			if g.ID == theirs.ID {
				l.groups[g.ID] = g.Commit - min(g.Commit, theirs.Applied)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lags[s.ID] = l
}

// lag returns how many entries of a group a peer had yet to apply when it was
// last asked, if that is recent.
func (p *peers) lag(id string, group uint32) (entries uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lags[id]
	entries, ok = l.groups[group]
	return entries, ok && time.Since(l.at) < unreachableAfter
}

// lose notes that a peer's process has ended: it answers no more until it is heard again.
func (p *peers) lose(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.heard[id]; ok {
		s.at = time.Time{}
		p.heard[id] = s
	}
	delete(p.lags, id)
}

// silent tells whether a peer has answered once, and does no more.
func (p *peers) silent(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.heard[id]
	return ok && time.Since(s.at) >= unreachableAfter
}

// learn adds members known from elsewhere than their own mouth.
func (p *peers) learn(members []Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range members {
		if _, ok := p.book[m.ID]; !ok {
			p.book[m.ID] = m
		}
	}
}

// put enters a member, or its new addresses.
func (p *peers) put(m Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.book[m.ID] = m
}

// forget takes a node out of the book.
func (p *peers) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.book, id)
	delete(p.heard, id)
	delete(p.lags, id)
	delete(p.refused, id)
}

// forgetLag forgets how far behind a peer was: it has lost what it had.
func (p *peers) forgetLag(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.lags, id)
}

// leaderOf is the leader of a group as the peers told lately: the one of the
// highest term.
func (p *peers) leaderOf(group uint32) (id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var term uint64
	for _, s := range p.heard {
		for _, g := range s.Groups {
			if g.ID == group && g.Leader != "" && g.Term >= term && time.Since(s.at) < unreachableAfter {
				id, term = g.Leader, g.Term
			}
		}
	}
	return id
}

// member returns the addresses of a node.
func (p *peers) member(id string) (Member, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.book[id]
	return m, ok
}

// members returns the whole book, sorted by id.
func (p *peers) members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Member, 0, len(p.book))
	for _, m := range p.book {
		list = append(list, m)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

// fresh returns a peer's last status if it is recent.
func (p *peers) fresh(id string) (status, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.heard[id]
	return s.status, ok && time.Since(s.at) < unreachableAfter
}

// group returns what a recently heard peer said of one of its replicas.
func (p *peers) group(id string, group uint32) (groupStatus, bool) {
	s, ok := p.fresh(id)
	if !ok {
		return groupStatus{}, false
	}
	for _, g := range s.Groups {
		if g.ID == group {
			return g, true
		}
	}
	return groupStatus{}, false
}

// probe exchanges status with every other member until ctx ends.
func (n *Node) probe(ctx context.Context) {
	for {
		n.probeOnce(ctx)
		pause := probeEvery
		if !n.CatalogCurrent() {
			pause = probeEvery / 5 // a starting node waits for its leader's word
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// probeOnce exchanges status with every other member.
func (n *Node) probeOnce(ctx context.Context) {
	n.forgetStrangers()
	if n.catalog.View().IsRemoved(n.cfg.NodeID) {
		n.beRemoved()
	}
	if n.removed.Load() {
		n.quieten()
	}
	var wg sync.WaitGroup
	for _, m := range append(n.peers.members(), n.unmet()...) {
		if m.ID != n.cfg.NodeID {
			wg.Go(func() { _, _ = n.ask(ctx, m.at()) })
		}
	}
	wg.Wait()
}

// unmet lists the servers of any group that the address book does not have, under
// the addresses with which they joined: a node that was down when others joined, or
// that joined when others were down, has not heard of them by itself.
func (n *Node) unmet() []Member {
	var list []Member
	for _, g := range n.groupList() {
		for _, s := range g.servers() {
			m := Member{ID: string(s.ID), Raft: string(s.Address)}
			if _, ok := n.peers.member(m.ID); !ok && !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	return list
}

// ask tells the node at addr this one's status, and fetches and notes its own.
func (n *Node) ask(ctx context.Context, addr string) (status, error) {
	cctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	own := n.status()
	var s status
	if err := n.call(cctx, addr, methodStatus, own, &s); err != nil {
		return s, err
	}
	if s.YouAreRemoved && s.ClusterID == own.ClusterID {
		n.beRemoved()
	}
	if s.OtherAt != "" && s.ClusterID == own.ClusterID {
		n.fail(twoProcesses(own.ID, s.OtherAt, "this one"))
	}
	if other := n.heard(ctx, s); other != "" {
		return s, twoProcesses(s.ID, other, "the one at "+s.Raft)
	}
	n.peers.measure(s, own.Groups)
	return s, nil
}

// twoProcesses refuses a process of a node that another one answers for, at addr. It
// offers no exchange: the refused one's folder may lack what the other has confirmed.
func twoProcesses(id, addr, refused string) error {
	return fmt.Errorf("two processes run with the identity of node %s: the other one answers at %s, and goes on; leave %s stopped, or start it with an empty folder under a new --node-id", id, addr, refused)
}

// movePatience bounds the question whether a member still answers where it was.
const movePatience = time.Second

// hasMoved tells whether a member that announces other addresses, in s, has left the
// known ones: nobody answers there as this node, or the same process does, under
// another name. Its error is that of ctx.
func (n *Node) hasMoved(ctx context.Context, known Member, s status) (bool, error) {
	cctx, cancel := context.WithTimeout(ctx, movePatience)
	defer cancel()
	// With the beats it does not wait behind forwarded batches: a busy node is there.
	answer, err := n.mux.call(cctx, peerKey{known.at(), true}, methodStatus, nil)
	if err != nil {
		return true, ctx.Err()
	}
	var at status
	err = json.Unmarshal(answer, &at)
	return err != nil || at.ClusterID != s.ClusterID || at.Process == s.Process, nil
}

// call sends req as JSON and decodes the answer into resp; either may be nil.
func (n *Node) call(ctx context.Context, addr string, method uint8, req, resp any) error {
	var body []byte
	if req != nil {
		var err error
		if body, err = json.Marshal(req); err != nil {
			return err
		}
	}
	answer, err := n.mux.Call(ctx, addr, method, body)
	if err != nil || resp == nil {
		return err
	}
	return json.Unmarshal(answer, resp)
}

// The methods of calls between nodes.
const (
	methodStatus  uint8 = 1 // status -> status
	methodForward uint8 = 2 // u32 shard, binary batch -> binary reply
	methodPrepare uint8 = 3 // plan -> nothing
	methodStart   uint8 = 4 // plan -> nothing
	methodJoin    uint8 = 5 // Member -> joinAnswer; changes nothing
	methodCatalog uint8 = 6 // fsm.CatalogCommand -> catalogAnswer
	methodApplied uint8 = 7 // catalog index -> nothing, once it is applied
	methodAdd     uint8 = 8 // Member -> nothing; adds it to the groups that the answering node leads

	methodTransfer uint8 = 9  // handing -> handing, with the new leader
	methodHold     uint8 = 10 // handing -> nothing; the answering node is about to get it
	methodMember   uint8 = 11 // memberChange -> memberAnswer
	methodTop      uint8 = 12 // by what -> the answer of Config.OnTop
	methodBeat     uint8 = 13 // calls of groups -> their answers; see beat.go
)
