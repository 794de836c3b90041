package fsm

import (
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// failer is what a rig and a reply need of a test, be it Go's or rapid's.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// rig drives a machine by hand: entries in, decoded results out.
type rig struct {
	t     failer
	m     *Buckets
	index uint64
	w     EntryWriter
}

const testShard = 1

// newRig returns a machine that owns every slot.
func newRig(t failer) *rig {
	r := &rig{t: t, m: NewBuckets(testShard)}
	r.apply(EncodeOwn(0, 1, []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: testShard}}))
	return r
}

func (r *rig) apply(entry []byte) [][]byte {
	r.t.Helper()
	r.index++
	a, err := r.m.Apply(r.index, entry)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.Replies
}

// do applies an entry of one group and decodes its reply.
func (r *rig) do(stamp uint64, b *api.Batch, sets ...*policy.Set) ([]api.Result, *api.Reply) {
	r.t.Helper()
	r.w.Reset()
	r.w.Add(b, sets)
	return decodeReply(r.t, r.apply(r.w.Seal(stamp))[0])
}

func decodeReply(t failer, b []byte) ([]api.Result, *api.Reply) {
	t.Helper()
	reply, err := api.DecodeReply(b)
	if err != nil {
		t.Fatal(err)
	}
	var out []api.Result
	for {
		var res api.Result
		more, err := reply.Next(&res)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return out, reply
		}
		out = append(out, res)
	}
}

// one applies one operation.
func (r *rig) one(stamp uint64, s *policy.Set, op api.Op) api.Result {
	r.t.Helper()
	var b api.Batch
	b.Add(op)
	res, _ := r.do(stamp, &b, s)
	return res[0]
}

// testSet returns a set of one limit per triple of rate, per (ns) and burst,
// named a, b and so on.
func testSet(name string, revision uint64, numbers ...int64) *policy.Set {
	info := api.SetInfo{Policy: name, Revision: revision}
	for i := 0; i < len(numbers); i += 3 {
		info.Limits = append(info.Limits, api.LimitInfo{
			Name: string(rune('a' + i/3)), Rate: numbers[i], Per: numbers[i+1], Burst: numbers[i+2],
		})
	}
	return policy.NewSet(info)
}

func take(key string, cost int64) api.Op { return api.Op{Kind: api.Take, Key: key, Cost: cost} }

const second = 1_000_000_000

func TestASaturatedBucketAdmitsItsBurstAndThenItsRate(t *testing.T) {
	r := newRig(t)
	s := testSet("p", 1, 10, second, 5)
	allowed := 0
	for ms := range uint64(1001) {
		if r.one(ms*1_000_000, s, take("k", 1)).Status == api.StatusAllowed {
			allowed++
		}
	}
	if allowed != 15 {
		t.Fatalf("%d takes passed in a second; want burst 5 + 10", allowed)
	}
}
