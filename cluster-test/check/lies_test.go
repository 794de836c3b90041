package check

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// liar changes a true input into one that cannot be. It works on copies of the
// operations, but of what they point to only on what it replaces.
type liar struct {
	*Input
	rnd *rand.Rand
}

// op picks an operation that is as where says.
func (l *liar) op(where func(*Op) bool) *Op {
	var at []int
	for i := range l.History.Ops {
		if where(&l.History.Ops[i]) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return nil
	}
	op := &l.History.Ops[at[l.rnd.IntN(len(at))]]
	if op.Answer != nil {
		a := *op.Answer
		a.Limits = slices.Clone(a.Limits)
		if a.Commit != nil {
			c := *a.Commit
			a.Commit = &c
		}
		op.Answer = &a
	}
	return op
}

func decidedOp(op *Op) bool {
	return op.placed() && !op.Stale && !op.Answer.Duplicate && op.Atomic == 0
}

func allowedTake(op *Op) bool { return decidedOp(op) && op.Kind == take && op.Answer.Allowed }

// TestLiesAreFound tells one lie in each of many true histories.
func TestLiesAreFound(t *testing.T) {
	var truths []Input
	for seed := range uint64(24) {
		truths = append(truths, newWorld(t, 1000+seed, right(2)).run(700).input())
	}
	var holds []Input // truths of reservations and permits
	for seed := range uint64(24) {
		holds = append(holds, newWorld(t, 7000+seed, holding()).run(700).input())
	}
	held := func(kind string) func(*Op) bool {
		return func(op *Op) bool { return op.placed() && op.Kind == kind && !op.Answer.Duplicate }
	}
	made := func(kind string) func(*Op) bool {
		return func(op *Op) bool { return held(kind)(op) && op.Answer.Allowed }
	}
	for _, lie := range []struct {
		name string
		want Kind
		tell func(*liar) bool // false if the history has no occasion for it
	}{
		{"holds: a reservation under another id", WrongAnswer, func(l *liar) bool {
			a, b := l.op(made(reserve)), l.op(made(reserve))
			a.Answer.Hold = b.Answer.Hold
			return a != b
		}},
		{"holds: a reservation that nobody asked for", Unasked, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return made(reserve)(op) && op.RequestID == "" && !l.unknownLike(op) })
			if op == nil {
				return false
			}
			id := op.Answer.Hold
			l.History.Ops = slices.DeleteFunc(l.History.Ops, func(o Op) bool {
				return o.Kind == reserve && (slices.Equal(o.Hold, id) || o.Answer != nil && slices.Equal(o.Answer.Hold, id))
			})
			return true
		}},
		{"holds: a permit told with another time to live", OtherPlace, func(l *liar) bool {
			l.op(made(acquire)).TTLMS = 77
			return true
		}},
		{"holds: a commit that gives back one more", WrongAnswer, func(l *liar) bool {
			l.op(held(commit)).Answer.Given++
			return true
		}},
		{"holds: a cancel told as a commit", OtherPlace, func(l *liar) bool {
			op := l.op(held(cancel))
			if op == nil {
				return false
			}
			op.Kind = commit
			return true
		}},
		{"holds: a commit that comes again told as the first", OtherPlace, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return op.placed() && op.Kind == commit && op.Answer.Duplicate })
			if op == nil {
				return false
			}
			op.Answer.Duplicate = false
			return true
		}},
		{"holds: a commit that was applied and is said not to be", NotAppliedWas, func(l *liar) bool {
			op := l.op(held(commit))
			if slices.ContainsFunc(l.History.Ops, func(o Op) bool {
				return o.Kind == commit && slices.Equal(o.Hold, op.Hold) && o.Outcome != NotApplied && o.Call != op.Call
			}) {
				return false
			}
			op.Outcome, op.Answer = NotApplied, nil
			return true
		}},
		{"holds: a release told of a permit that nobody has", OtherPlace, func(l *liar) bool {
			op := l.op(held(release))
			op.Hold = slices.Clone(op.Hold)
			op.Hold[15] ^= 1
			return true
		}},
		{"holds: a renewal that no log has", LostCharge, func(l *liar) bool {
			op := l.op(held(renew))
			if op == nil {
				return false
			}
			op.Answer.Commit.Index = 1 << 40
			return true
		}},
		{"holds: a release that no log has, told without a place", LostCharge, func(l *liar) bool {
			op := l.op(held(release))
			if op == nil {
				return false
			}
			op.Hold = slices.Clone(op.Hold)
			op.Hold[15] ^= 1
			op.Answer.Commit = nil
			return true
		}},
		{"holds: more permits than slots, without a log", OverAdmitted, func(l *liar) bool {
			l.Replicas = nil
			l.LinearOps = -1
			op := l.op(made(acquire))
			for i := range byte(4) { // of three
				id := slices.Clone(op.Answer.Hold)
				id[14] ^= i + 1
				a, c := *op.Answer, *op.Answer.Commit
				c.Index += uint64(i) + 1
				a.Hold, a.Commit = id, &c
				more := *op
				more.Hold, more.Answer = nil, &a
				more.TTLMS = 30_000
				l.History.Ops = append(l.History.Ops, more)
			}
			return true
		}},
		{"an answer from another place", OtherPlace, func(l *liar) bool {
			a, b := l.op(allowedTake), l.op(allowedTake)
			if a == b || a.Key == b.Key && a.Cost == b.Cost && a.Policy == b.Policy {
				return false
			}
			a.Answer = b.Answer
			return true
		}},
		{"two takes told one place", OnePlaceTwice, func(l *liar) bool {
			a := l.op(allowedTake)
			if a == nil {
				return false
			}
			b := *a
			l.History.Ops = append(l.History.Ops, b)
			return true
		}},
		{"a lost charge", LostCharge, func(l *liar) bool {
			op := l.op(allowedTake)
			op.Answer.Commit.Index = 1 << 40
			return true
		}},
		{"a stale read told as a linearizable one", OtherPlace, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Kind == peek })
			was := l.op(func(o *Op) bool { return allowedTake(o) && o.Key == op.Key && o.Return < op.Call })
			if op == nil || was == nil {
				return false
			}
			op.Answer.Commit = was.Answer.Commit
			return true
		}},
		{"cluster time that goes back", TimeWentBack, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Call > 3e9 })
			op.Answer.Commit.TimeNS = 1
			return true
		}},
		{"cluster time that runs ahead", TimeRanAhead, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Call > 3e9 })
			op.Answer.Commit.TimeNS += 3600e9
			return true
		}},
		{"real time that log order inverts", OrderInverted, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Call > 5e9 })
			op.Call, op.Return = 1, 2
			return true
		}},
		{"a take that was applied and is said not to be", NotAppliedWas, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return allowedTake(op) && op.RequestID == "" && !l.unknownLike(op) })
			if op == nil {
				return false
			}
			op.Outcome, op.Answer = NotApplied, nil
			return true
		}},
		{"a charge that nobody asked for", Unasked, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return allowedTake(op) && op.RequestID == "" && !l.unknownLike(op) })
			if op == nil {
				return false
			}
			op.Outcome, op.Answer, op.Key = Unknown, nil, "another key"
			return true
		}},
		{"one unknown take that explains two charges", Unasked, func(l *liar) bool {
			a := l.op(func(op *Op) bool { return allowedTake(op) && op.RequestID == "" && !l.unknownLike(op) })
			if a == nil {
				return false
			}
			n := 0
			for i := range l.History.Ops {
				if o := &l.History.Ops[i]; o.Atomic == 0 && o.Kind == a.Kind && o.Key == a.Key && o.Policy == a.Policy && o.Cost == a.Cost && o.RequestID == "" && decidedOp(o) {
					n++
					if o != a {
						o.Outcome, o.Answer, o.Key = Unknown, nil, "another key"
					}
				}
			}
			a.Outcome, a.Answer, a.Call, a.Return = Unknown, nil, 0, Forever
			return n > 1
		}},
		{"a reset that never was", LostReset, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return op.Kind == reset && op.Outcome == Done })
			if op == nil {
				return false
			}
			op.Key = "another key"
			return true
		}},
		{"a retry-after too short by 1 ms", WrongAnswer, func(l *liar) bool {
			op := l.op(func(op *Op) bool {
				return decidedOp(op) && op.Kind == take && !op.Answer.Allowed && op.Answer.Limits == nil
			})
			if op == nil {
				return false
			}
			op.Answer.RetryAfterMS--
			return true
		}},
		{"a wrong limit that binds", WrongAnswer, func(l *liar) bool {
			op := l.op(func(op *Op) bool {
				return decidedOp(op) && len(op.Answer.Limits) == 2 && op.Answer.Limits[0].Remaining != op.Answer.Limits[1].Remaining
			})
			if op == nil {
				return false
			}
			other := 0
			if op.Answer.Limits[0].Remaining == op.Answer.Remaining {
				other = 1
			}
			op.Answer.bind(other)
			return true
		}},
		{"a refund above the burst", WrongAnswer, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Kind == refund })
			if op == nil {
				return false
			}
			op.Answer.Remaining = op.Answer.Limit + 1
			return true
		}},
		{"a refund of more than fits", WrongAnswer, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return decidedOp(op) && op.Kind == refund })
			if op == nil {
				return false
			}
			op.Answer.Refunded++
			return true
		}},
		{"another revision in the answer", WrongAnswer, func(l *liar) bool {
			l.op(decidedOp).Answer.Revision++
			return true
		}},
		{"a duplicate that is told as a first decision", DoubleCharge, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return op.placed() && op.Answer.Duplicate && op.Atomic == 0 && op.RequestID != "" })
			if op == nil {
				return false
			}
			// It names the place where it was recognised, as if decided there.
			for _, e := range l.Replicas[0].Entries {
				d, err := decode(e.Data, map[string]*numbers{})
				if err != nil || e.Group != op.Answer.Commit.Shard {
					continue
				}
				offset := uint32(0)
				for _, g := range d.groups {
					for _, o := range g.ops {
						if o.requestID == op.RequestID && e.Index > op.Answer.Commit.Index {
							op.Answer.Duplicate = false
							op.Answer.Commit.Index, op.Answer.Commit.Offset = e.Index, offset
							op.Answer.Commit.TimeNS = d.stamp
							return true
						}
						offset++
					}
				}
			}
			return false
		}},
		{"an atomic batch torn apart", OtherPlace, func(l *liar) bool {
			op := l.op(func(op *Op) bool { return op.Atomic != 0 && op.placed() && !op.Answer.Duplicate })
			if op == nil {
				return false
			}
			op.Atomic = 1 << 40
			return true
		}},
		{"a policy's revision that never existed", UnknownLimits, func(l *liar) bool {
			for _, rep := range l.Replicas {
				rep.Entries = slices.DeleteFunc(slices.Clone(rep.Entries), func(e Entry) bool { return e.Group == 0 && e.Index > 6 })
			}
			l.History.Edits = nil
			return true
		}},
		{"an edit that is in no log", LostEdit, func(l *liar) bool {
			for i := range l.History.Edits {
				if e := &l.History.Edits[i]; e.Policy != nil {
					p := *e.Policy
					p.Revision = 1 << 40
					e.Policy = &p
					return true
				}
			}
			return false
		}},
		{"edits in another order than they returned", EditsInverted, func(l *liar) bool {
			var last *Edit
			for i := range l.History.Edits {
				e := &l.History.Edits[i]
				if e.Policy == nil || e.Name != "api" {
					continue
				}
				if last != nil && last.Policy.Revision != e.Policy.Revision {
					last.Policy, e.Policy = e.Policy, last.Policy
					return true
				}
				last = e
			}
			return false
		}},
		{"replicas with different bytes", ReplicasDiffer, func(l *liar) bool {
			e := &l.Replicas[1].Entries[l.rnd.IntN(len(l.Replicas[1].Entries))]
			e.Data = slices.Clone(e.Data)
			e.Data[l.rnd.IntN(len(e.Data))] ^= 1
			return true
		}},
		{"replicas with different terms", ReplicasDiffer, func(l *liar) bool {
			l.Replicas[1].Entries[l.rnd.IntN(len(l.Replicas[1].Entries))].Term += 7
			return true
		}},
		{"an index applied twice by one process", IndexesGoBack, func(l *liar) bool {
			for i := range l.Replicas[2].Entries {
				l.Replicas[2].Entries[i].Run = 1
			}
			l.Replicas[2].Entries = append(l.Replicas[2].Entries, l.Replicas[2].Entries[3])
			return true
		}},
		{"an entry that all replicas have damaged", BadEntry, func(l *liar) bool {
			for _, rep := range l.Replicas {
				for i := range rep.Entries {
					if e := &rep.Entries[i]; e.Group == 1 && e.Index == 9 {
						e.Data = slices.Clone(e.Data)
						e.Data[len(e.Data)-1] ^= 1
					}
				}
			}
			return true
		}},
	} {
		t.Run(lie.name, func(t *testing.T) {
			told := 0
			inputs := truths
			if strings.HasPrefix(lie.name, "holds: ") {
				inputs = holds
			}
			for seed, in := range inputs {
				if told == 6 {
					break
				}
				l := &liar{Input: copyInput(in), rnd: rand.New(rand.NewPCG(uint64(seed), 2))}
				if !lie.tell(l) {
					continue
				}
				told++
				if r := Check(*l.Input); r.ByKind[lie.want] == 0 {
					t.Errorf("seed %d: not found as %s: %v", seed, lie.want, r.Err())
				}
			}
			if told < 4 {
				t.Errorf("told only %d times", told)
			}
		})
	}
}

// unknownLike says whether an unknown operation could explain op's charge.
func (l *liar) unknownLike(op *Op) bool {
	return slices.ContainsFunc(l.History.Ops, func(o Op) bool {
		return o.Outcome == Unknown && o.Key == op.Key && o.Policy == op.Policy && o.Kind == op.Kind && o.Cost == op.Cost ||
			o.Outcome == NotApplied && o.Code == api.CostExceedsBurst && o.Key == op.Key && o.Cost == op.Cost
	})
}

func copyInput(in Input) *Input {
	h := &History{Ops: slices.Clone(in.History.Ops), Edits: slices.Clone(in.History.Edits)}
	c := in
	c.History, c.Replicas = h, nil
	for _, rep := range in.Replicas {
		c.Replicas = append(c.Replicas, &Replica{Node: rep.Node, Entries: slices.Clone(rep.Entries)})
	}
	return &c
}
