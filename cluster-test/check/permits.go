package check

import (
	"cmp"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// "There are never more than max permits alive by cluster time; after an edit that
// lowers max there are no new ones until enough have ended." That is checked twice,
// and of both only what a caller was told counts as a permit: along each log, where
// resets and releases without an answer are seen, and by the recorder's clock, without
// a look at any log.

// slots is how many permits a set lets live, 0 if it has no concurrency limit.
func (s *numbers) slots() (least int64) {
	for i := range s.limits {
		if l := &s.limits[i]; l.algorithm == api.Concurrency && (least == 0 || l.burst < least) {
			least = l.burst
		}
	}
	return least
}

// granted says whether an operation was told that it has a slot: not for the second
// time, which may be after the end, and not since nobody counted.
func (op *Op) granted() bool {
	return op.Kind == acquire && op.told() == allowed && !op.Answer.Shadowed && !op.Answer.Duplicate
}

// slots checks each grant of a permit in one shard's log against those before it.
func (c *checker) slots(places []*place) {
	alive := map[bucketName]map[[16]byte]uint64{} // expiry by id
	for _, p := range places {
		name := cmp.Or(p.of, bucketName{p.op.set.policy, p.op.key})
		held := alive[name]
		var op *Op // whose answer it is
		if p.owner >= 0 && c.h.Ops[p.owner].placed() {
			op = &c.h.Ops[p.owner]
		}
		switch {
		case p.verdict == forgot:
			delete(alive, name)
		case p.op.kind == release && p.verdict != failed:
			delete(held, p.op.hold)
		case p.verdict == renewed: // also for less than it had
			expires := p.time + uint64(p.op.ttl)*1e6
			if was := held[p.op.hold]; was > p.time && (op != nil || expires < was) {
				held[p.op.hold] = expires
			}
		case op != nil && op.granted():
			set := c.numbersOf(p.op.set.policy, p.op.key, op.Answer.Revision)
			if p.op.set.revision == op.Answer.Revision {
				set = p.op.set
			}
			if set == nil || set.off {
				continue
			}
			if held == nil {
				held = map[[16]byte]uint64{}
				alive[name] = held
			}
			now := op.Answer.Commit.TimeNS
			for id, expires := range held {
				if expires <= now {
					delete(held, id)
				}
			}
			held[p.op.hold] = now + uint64(p.op.ttl)*1e6
			c.report.Slots++
			if n := int64(len(held)); n > set.slots() {
				c.report.add(OverAdmitted, "with %s at %s there are %d permits alive under %s", op.describe(p.owner), p, n, set)
			}
		}
	}
}

// tenure is when a permit surely is alive, on the recorder's clock: from when its
// caller was told until anybody may have let go of it, or its time may be over. Its
// time is cluster time, which is never faster: see clusterTime.
type tenure struct {
	at       int // of the acquire
	from, to int64
	slots    int64 // as many as there were when it was granted
}

// tenures checks that no more permits surely live at once than the last of them can
// have found slots.
func (c *checker) tenures() {
	byName := map[bucketName][]*tenure{}
	byID := map[string]*tenure{}
	off := map[setKey]bool{}
	var names []bucketName
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.malformed() != "" || op.Outcome != Done || !op.granted() {
			continue
		}
		set := c.setAt(op.Policy, op.Key, op.Answer.Revision)
		key := setKey{op.Policy, op.Answer.Revision}
		if _, known := off[key]; !known {
			off[key] = c.off(key)
		}
		if set == nil || off[key] {
			continue
		}
		name := bucketName{op.Policy, op.Key}
		if byName[name] == nil {
			names = append(names, name)
		}
		t := &tenure{at: at, from: op.Return, to: c.until(op), slots: set.slots()}
		byName[name] = append(byName[name], t)
		byID[string(op.Answer.Hold)] = t
	}
	c.shorten(byName, byID)
	for _, name := range names {
		list := slices.DeleteFunc(byName[name], func(t *tenure) bool { return t.from >= t.to })
		slices.SortFunc(list, func(a, b *tenure) int { return cmp.Compare(a.from, b.from) })
		for i, last := range list { // nobody is told of one more between two of these
			n, most := int64(0), int64(0)
			for _, t := range list[:i+1] {
				if t.to > last.from {
					n, most = n+1, max(most, t.slots)
				}
			}
			if n > most {
				c.report.add(OverAdmitted, "when %s returned, %d permits were alive, of %d", c.h.Ops[last.at].describe(last.at), n, most)
			}
		}
	}
}

// until is when a permit may be over at the earliest that an operation has made, or
// renewed.
func (c *checker) until(op *Op) int64 {
	return op.Call + op.ttl()*1e6 - op.ttl()*c.in.DriftPPM - int64(c.in.Slack)
}

// shorten ends tenures with what may have ended the permits before their time.
func (c *checker) shorten(byName map[bucketName][]*tenure, byID map[string]*tenure) {
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.Outcome == NotApplied || op.malformed() != "" {
			continue
		}
		switch op.Kind {
		case renew: // which may be for less, and be sent again when others are long done
			if t := byID[string(op.Hold)]; t != nil {
				t.to = min(t.to, c.until(op))
			}
		case release:
			if t := byID[string(op.Hold)]; t != nil {
				t.to = min(t.to, op.Call)
			}
		case reset:
			for _, t := range byName[bucketName{op.Policy, op.Key}] {
				if op.Outcome != Done || op.Return >= c.h.Ops[t.at].Call {
					t.to = min(t.to, op.Call)
				}
			}
		}
	}
}

// off says whether a policy may have been off at a revision: then nobody counts, and
// answers do not tell.
func (c *checker) off(key setKey) bool {
	if doc := c.catalog.docs[key]; doc != nil && doc.Enforcement == "off" {
		return true
	}
	for _, s := range c.sets {
		if s.off && s.policy == key.policy && s.revision == key.revision {
			return true
		}
	}
	return false
}
