package check

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// owners checks that every operation that was decided in a log is somebody's,
// and every answered one in the log.
//
// Most places have the answer that names them. The others, and the resets, whose
// answers name no place, are matched with requests of the same kind, policy,
// key, cost and request id. A request explains one place at most, and only one
// that can lie between its call and its return; a request whose outcome is
// unknown may also explain none.
//
// What is about a reservation or a permit is known by the id of that, so nodes "may
// retry it": one request with the id explains every place that has it. Who did not
// choose the id, and got no answer, explains the places of one id at most.
func (c *checker) owners(places [][]*place) {
	for _, shard := range places {
		c.windows(shard)
	}
	c.atomics()
	groups := map[string]*matching{}
	group := func(signature string) *matching {
		m := groups[signature]
		if m == nil {
			m = &matching{}
			groups[signature] = m
		}
		return m
	}
	byHold := c.byHold()
	met := map[string]bool{}
	for _, shard := range places {
		for _, p := range shard {
			ps := p.unowned()
			if ps == nil {
				continue
			}
			if id := p.op.holdKey(); id != "" {
				if met[id] && p.op.makes() || slices.ContainsFunc(byHold[id], func(at int) bool { return c.explains(at, p) }) {
					continue
				}
				met[id] = true
			}
			m := group(signPlaces(ps))
			m.places = append(m.places, p)
		}
	}
	for _, q := range c.requests() {
		op := &c.h.Ops[q.ops[0]]
		switch {
		case op.Kind == peek || op.malformed() != "" || op.placed() || op.elsewhere() && !op.mayHaveBeenSent():
		case op.Outcome != NotApplied && op.holdKey() != "":
		case op.Outcome == NotApplied:
			// Only to tell what was not applied from what nobody asked for.
			if m := groups[c.sign(q)]; m != nil {
				m.refused = append(m.refused, q)
			}
		default:
			m := group(c.sign(q))
			m.requests = append(m.requests, q)
		}
	}
	c.untold(places)
	for _, signature := range slices.Sorted(maps.Keys(groups)) {
		groups[signature].run(c)
	}
}

// windows finds between which calls and returns each place of a shard was
// appended: the places before it were appended after they were called, and
// those behind it before they were answered.
func (c *checker) windows(shard []*place) {
	for _, p := range shard {
		for _, at := range c.byPlace[commitKey{p.shard, p.index, p.offset}] {
			if c.placed[at] == p {
				p.late = min(p.late, c.h.Ops[at].Return)
			}
		}
	}
	early := int64(0)
	for _, p := range shard {
		if p.owner >= 0 && !c.h.Ops[p.owner].Answer.Duplicate {
			early = max(early, c.h.Ops[p.owner].Call)
		}
		p.early = early
	}
	late := int64(Forever)
	for _, p := range slices.Backward(shard) {
		late = min(late, p.late)
		p.late = late
	}
}

// unowned returns what a request must explain that begins at p: p itself, or the
// atomic group that it is the first of; or nil.
func (p *place) unowned() []*place {
	if !p.verdict.decided() || p.op.kind == peek || p.ownAffair() {
		return nil
	}
	ps := []*place{p}
	if p.group != nil {
		if ps = p.group; ps[0] != p {
			return nil
		}
	}
	for _, p := range ps {
		if p.owner >= 0 || p.maybe {
			return nil
		}
	}
	return ps
}

// holdKey is what an operation that is about a hold, but does not ask for a lease, has
// in common with each sending of it; "" if there is no such thing.
func (op *logOp) holdKey() string {
	if op.acts() || op.makes() && op.kind != leases {
		return op.kind + string(op.hold[:])
	}
	return ""
}

// holdKey is the same of a request; "" also if its sender does not know the id of its
// hold.
func (op *Op) holdKey() string {
	if op.Hold == nil || op.Kind == leases {
		return ""
	}
	return op.Kind + string(op.Hold)
}

// byHold is the requests that may have been applied, by what each sending of theirs
// has.
func (c *checker) byHold() map[string][]int {
	by := map[string][]int{}
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.malformed() != "" || op.Outcome == NotApplied {
			continue
		}
		key := op.holdKey()
		if p := c.placed[at]; p != nil && p.op != nil && key == "" { // the log knows it
			key = p.op.holdKey()
		}
		if key != "" {
			by[key] = append(by[key], at)
		}
	}
	return by
}

// untold finds renewals and releases that were answered without a place, and have none
// in any log.
func (c *checker) untold(places [][]*place) {
	byHold := map[string][]*place{}
	for _, shard := range places {
		for _, p := range shard {
			if k := p.op.kind; (k == renew || k == release) && p.verdict != failed && p.verdict != replayed {
				byHold[p.op.holdKey()] = append(byHold[p.op.holdKey()], p)
			}
		}
	}
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.Kind != renew && op.Kind != release || op.Outcome != Done || op.placed() || op.malformed() != "" {
			continue
		}
		if !slices.ContainsFunc(byHold[op.holdKey()], func(p *place) bool { return c.explains(at, p) && op.Return >= p.early }) {
			c.report.add(LostCharge, "%s was answered, and no log has it between its call and its return", op.describe(at))
		}
	}
}

// explains says whether a place that has a request's hold may be a sending of it: also
// one that was overtaken by a later one, whose answer came first.
func (c *checker) explains(at int, p *place) bool {
	op := &c.h.Ops[at]
	return op.Call <= p.late && op.cost() == p.op.cost &&
		(op.ttl() == p.op.ttl || p.op.kind != renew && !p.op.makes())
}

// request is an operation of the history, or the operations of an atomic batch.
type request struct {
	ops       []int
	call, ret int64
	done      bool
}

func (c *checker) requests() (all []*request) {
	atomic := map[int64]*request{}
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if q := atomic[op.Atomic]; op.Atomic != 0 && q != nil {
			q.ops = append(q.ops, at)
			continue
		}
		// "It may have been applied, once, at any time after Call."
		q := &request{ops: []int{at}, call: op.Call, ret: Forever, done: op.Outcome == Done && !op.mayHaveBeenSent()}
		if q.done {
			q.ret = op.Return
		}
		all = append(all, q)
		if op.Atomic != 0 {
			atomic[op.Atomic] = q
		}
	}
	return all
}

// sign and signPlaces are what a request and the places that it explains have in
// common.
func (c *checker) sign(q *request) string {
	var b strings.Builder
	for _, at := range q.ops {
		op := &c.h.Ops[at]
		name := bucketName{op.Policy, op.Key}
		if op.acts() {
			name = bucketName{}
		}
		id := op.RequestID
		switch {
		case op.Kind == reserve || op.Kind == acquire:
			id += fmt.Sprint(" ", op.ttl(), op.CancelOnExpiry)
		case op.Kind == renew:
			id = fmt.Sprintf("%x %d", op.Hold, op.ttl())
		default:
			id += fmt.Sprintf("%x", op.Hold)
		}
		signOne(&b, op.Atomic != 0, op.Kind, name.policy, name.key, op.cost(), id)
	}
	return b.String()
}

func signPlaces(ps []*place) string {
	var b strings.Builder
	for _, p := range ps {
		id := p.op.requestID
		switch kind := p.op.kind; {
		case kind == reserve || kind == acquire:
			id += fmt.Sprint(" ", p.op.ttl, p.op.rule == 1)
		case kind == renew:
			id = fmt.Sprintf("%x %d", p.op.hold, p.op.ttl)
		case kind == leases || p.op.acts():
			id += fmt.Sprintf("%x", p.op.hold)
		}
		signOne(&b, p.group != nil, p.op.kind, p.op.set.policy, p.op.key, p.op.cost, id)
	}
	return b.String()
}

func signOne(b *strings.Builder, atomic bool, kind, policy, key string, cost int64, id string) {
	if strings.HasPrefix(policy, inlinePrefix) {
		policy = "" // as a recorder may have it, see Op.is
	}
	fmt.Fprintf(b, "%v %s %q %q %d %q\n", atomic, kind, policy, key, cost, id)
}

// matching is the places and requests of one signature.
type matching struct {
	places   []*place
	requests []*request
	refused  []*request // surely not applied
}

// run matches as many places as can be. The places ascend in early and late, so
// each request explains a run of them without a gap; hence it is best to give
// each place, in order, the request whose time is over first.
func (m *matching) run(c *checker) {
	slices.SortStableFunc(m.places, func(a, b *place) int {
		return cmp.Or(cmp.Compare(a.late, b.late), cmp.Compare(a.early, b.early))
	})
	slices.SortFunc(m.requests, func(a, b *request) int { return cmp.Compare(a.call, b.call) })
	var open byReturn
	next := 0
	lost := func(q *request) {
		if q.done {
			c.report.add(LostReset, "%s was answered, and no log has it between its call and its return", c.h.Ops[q.ops[0]].describe(q.ops[0]))
		}
	}
	for _, p := range m.places {
		for next < len(m.requests) && m.requests[next].call <= p.late {
			heap.Push(&open, m.requests[next])
			next++
		}
		for len(open) > 0 && open[0].ret < p.early {
			lost(heap.Pop(&open).(*request))
		}
		if len(open) == 0 {
			m.unexplained(c, p)
			continue
		}
		q := heap.Pop(&open).(*request)
		p.owner = q.ops[0]
		for i, member := range p.group {
			member.owner = q.ops[i]
		}
	}
	for _, q := range slices.Concat(open, m.requests[next:]) {
		lost(q)
	}
}

func (m *matching) unexplained(c *checker, p *place) {
	for _, q := range m.refused {
		if q.call <= p.late {
			c.report.add(NotAppliedWas, "%s was told that it was not applied, and there is a %s", c.h.Ops[q.ops[0]].describe(q.ops[0]), p.describe())
			return
		}
	}
	c.report.add(Unasked, "nobody asked for the %s; %d requests of the kind have no answer", p.describe(), len(m.requests))
}

// byReturn is a heap of requests.
type byReturn []*request

func (h byReturn) Len() int           { return len(h) }
func (h byReturn) Less(i, j int) bool { return h[i].ret < h[j].ret }
func (h byReturn) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byReturn) Push(q any)        { *h = append(*h, q.(*request)) }
func (h *byReturn) Pop() any {
	l := *h
	q := l[len(l)-1]
	*h = l[:len(l)-1]
	return q
}

// atomics checks that what was asked as one atomic batch stands as one in the
// log.
func (c *checker) atomics() {
	for _, q := range c.requests() {
		if c.h.Ops[q.ops[0]].Atomic == 0 || !q.done {
			continue
		}
		first := c.placed[q.ops[0]]
		for i, at := range q.ops {
			op, p := &c.h.Ops[at], c.placed[at]
			if p == nil || first == nil || !op.placed() || op.Answer.Duplicate {
				continue // told elsewhere, or decided in another group
			}
			if len(first.group) != len(q.ops) || first.group[i] != p {
				c.report.add(OtherPlace, "%s is number %d of an atomic batch of %d, and stands at %s, while the first stands at %s", op.describe(at), i, len(q.ops), p, first)
			}
		}
	}
}
