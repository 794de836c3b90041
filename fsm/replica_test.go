package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// logMaker makes random logs of everything there is: all kinds of operations
// and entries, edits, ids, sessions, atomic groups, jumps of time, slots that
// come and go, and numbers that are refused.
type logMaker struct {
	*rand.Rand
	now      uint64
	revision uint64
	sets     []*policy.Set
	version  uint64
	keys     int
	seqs     [4]uint64
	w        EntryWriter
}

func newLogMaker(seed uint64, keys int) *logMaker {
	l := &logMaker{Rand: rand.New(rand.NewPCG(seed, 0)), keys: keys, revision: 1}
	for i := range 4 {
		l.sets = append(l.sets, testSet(fmt.Sprint("p", i), 1, 10, second, 5, 100, 60*second, 20))
	}
	l.sets[3] = withSlots(l.sets[3], 3)
	return l
}

func (l *logMaker) entry() []byte {
	l.now += uint64(l.Int64N(200_000_000))
	switch l.IntN(40) {
	case 0:
		l.now += uint64(l.Int64N(400 * second))
	case 1:
		if l.now > second {
			return EncodeTick(l.now - second) // a stamp that goes back
		}
	case 2:
		return EncodeTick(l.now)
	case 3:
		l.revision++
		i := l.IntN(len(l.sets))
		numbers := []int64{l.Int64N(20) + 1, l.Int64N(5*second) + minPer, l.Int64N(30) + 1}
		if l.IntN(2) == 0 {
			numbers = append(numbers, l.Int64N(20)+1, l.Int64N(5*second)+minPer, l.Int64N(30)+1)
		}
		if l.IntN(10) == 0 {
			numbers[2] = maxBurst + 1 // out of bounds
		}
		info := testSet(l.sets[i].Policy, l.revision-uint64(l.IntN(3)), numbers...).SetInfo
		info.Enforcement = uint8(max(0, l.IntN(8)-5))
		for k := range info.Limits {
			n := &info.Limits[k]
			if n.Algorithm = uint8(l.IntN(3)); n.Algorithm != api.TokenBucket && n.Burst <= maxBurst {
				n.Burst = n.Rate
			}
			if n.Algorithm == api.FixedWindow && l.IntN(3) == 0 {
				n.Per, info.Zone = 0, []api.ZoneShift{{0, 3600}, {1_000_000, 7200}}
			}
		}
		l.sets[i] = policy.NewSet(info)
		if (l.IntN(4) == 0) != (i == 3) {
			l.sets[i] = withSlots(l.sets[i], 1+l.Int64N(5))
		}
	case 5:
		return EncodeClock(l.now, zoneRulesFrom.UnixNano()+int64(l.now)+l.Int64N(100*second))
	case 4:
		l.version++
		from := uint16(l.IntN(api.Slots))
		return EncodeOwn(l.now, l.version-uint64(l.IntN(2)), []api.SlotRange{
			{From: 0, To: from, Shard: testShard}, {From: min(from+100, api.Slots-1), To: api.Slots - 1, Shard: testShard}})
	}
	l.w.Reset()
	for range 1 + l.IntN(3) {
		l.w.Add(l.batch())
	}
	return l.w.Seal(l.now)
}

// withSlots is a set with a concurrency limit more.
func withSlots(s *policy.Set, slots int64) *policy.Set {
	info := s.SetInfo
	info.Limits = append(slices.Clip(info.Limits), api.LimitInfo{Name: "slots", Algorithm: api.Concurrency, Burst: slots})
	return policy.NewSet(info)
}

func (l *logMaker) batch() (*api.Batch, []*policy.Set) {
	b := &api.Batch{Atomic: l.IntN(5) == 0}
	if l.IntN(4) == 0 {
		i := l.IntN(len(l.seqs))
		if l.IntN(3) > 0 {
			l.seqs[i]++
		}
		seq := max(1, l.seqs[i])
		b.Session = api.Session{ID: [16]byte{byte(i)}, Seq: seq, Acked: l.Uint64N(seq)}
	}
	for range 1 + l.IntN(6) {
		op := api.Op{Kind: api.Take, Policy: l.IntN(len(l.sets)), Key: fmt.Sprint("key", l.IntN(l.keys))}
		if !b.Atomic {
			op.Kind = []api.Kind{api.Take, api.Take, api.Take, api.Peek, api.Refund, api.Reset,
				api.Reserve, api.Settle, api.Cancel, api.Acquire, api.Renew, api.Release, api.Lease, api.Lease, api.Sync}[l.IntN(15)]
		}
		if op.Kind >= api.Reserve && op.Kind != api.Sync {
			op.Hold = &api.Hold{ID: api.NewHoldID(op.Key, [14]byte{byte(l.IntN(20))}), CancelOnExpiry: op.Kind == api.Reserve && l.IntN(2) == 0}
			if op.Kind.MakesHold() || op.Kind == api.Renew {
				op.Hold.TTL = 1 + l.Int64N(3000)
			}
		}
		if op.Kind.OnHold() {
			op.Policy, op.Key = 0, ""
		}
		if op.Kind == api.Settle {
			op.Cost = l.Int64N(10)
		}
		if op.Kind.Charges() {
			op.Cost = 1 + l.Int64N(4)
			if op.Kind == api.Lease {
				op.Hold.Need = 1 + l.Int64N(op.Cost)
				b.Add(op)
				continue
			}
			if op.Kind == api.Take && l.IntN(3) == 0 {
				op.MaxWait = 1 + l.Int64N(20_000)
			}
			if l.IntN(3) == 0 {
				op.RequestID = fmt.Sprint("id", l.IntN(300))
			}
		}
		b.Add(op)
	}
	return b, l.sets
}

// small makes a machine reach its bounds soon.
func small(m *Buckets) *Buckets {
	m.dedup.max, m.sessions.max, m.sessions.maxReplies, m.sessions.maxBytes = 100, 3, 5, 2000
	m.holds.max, m.holds.maxEnds = 50, 60
	return m
}

// TestReplicasAgree applies one log to two machines, of which one is replaced
// by a restored one again and again, while its snapshots are written at the
// side of Apply.
func TestReplicasAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range uint64(6) {
		log := newLogMaker(seed+round, []int{5, 300, 5000}[round%3])
		steady, other := small(NewBuckets(testShard)), small(NewBuckets(testShard))
		apply := func(m *Buckets, i uint64, entry []byte) [][]byte {
			a, err := m.Apply(i, entry)
			if err != nil {
				t.Fatal(err)
			}
			return a.Replies
		}
		first := EncodeOwn(0, 0, []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: testShard}})
		apply(steady, 1, first)
		apply(other, 1, first)

		var writing sync.WaitGroup
		var ids, held, settled, leases int // the most that there were
		for i := uint64(2); i < 1500; i++ {
			entry := log.entry()
			keep := bytes.Clone(entry)
			got, want := apply(other, i, entry), apply(steady, i, keep)
			clear(entry) // a machine that kept some of it would now know wrong
			if len(got) != len(want) {
				t.Fatalf("entry %d: %d replies, want %d", i, len(got), len(want))
			}
			for k := range want {
				if !bytes.Equal(got[k], want[k]) {
					t.Fatalf("entry %d: reply %d differs:\n%x\n%x", i, k, got[k], want[k])
				}
				decodeReply(t, got[k])
			}
			st := steady.Stats()
			ids, held, settled, leases = max(ids, st.DedupIDs), max(held, st.Holds), max(settled, st.Settled), max(leases, st.Leases)
			switch log.IntN(60) {
			case 0: // restart
				file := takeSnapshot(t, other)
				other = small(NewBuckets(testShard))
				if err := other.Restore(bytes.NewReader(file)); err != nil {
					t.Fatal(err)
				}
			case 1: // a snapshot at the side
				c := other.Capture()
				now := takeSnapshot(t, steady)
				writing.Add(1)
				go func() {
					defer writing.Done()
					defer c.Release()
					var file bytes.Buffer
					if _, err := c.WriteTo(&file); err != nil {
						t.Error(err)
					} else if !bytes.Equal(file.Bytes(), now) {
						t.Error("a snapshot written while entries are applied differs from one written at once")
					}
				}()
			}
		}
		writing.Wait()
		if !bytes.Equal(takeSnapshot(t, steady), takeSnapshot(t, other)) {
			t.Fatal("the final snapshots differ")
		}
		a, err := steady.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := other.Digest(); a != b {
			t.Fatal("the digests differ")
		}
		st := steady.Stats()
		if st.Resets != [ResetReasons]uint64{} {
			t.Fatalf("impossible states: %v", st.Resets)
		}
		if st.Dropped == 0 || ids == 0 || held < 3 || settled < 10 || leases < 3 || st.Expired == 0 {
			t.Fatalf("the log did not reach far: %d ids, %d holds, %d settled, %d leases, %+v", ids, held, settled, leases, st)
		}
	}
}

// TestADamagedSnapshotLeavesTheStateAlone flips bytes all over a snapshot.
func TestADamagedSnapshotLeavesTheStateAlone(t *testing.T) {
	log := newLogMaker(1, 50)
	m := NewBuckets(testShard)
	if _, err := m.Apply(1, EncodeOwn(0, 0, []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: testShard}})); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i < 100; i++ {
		if _, err := m.Apply(i, log.entry()); err != nil {
			t.Fatal(err)
		}
	}
	file := takeSnapshot(t, m)
	for i := 0; i < len(file); i += 1 + len(file)/500 {
		bad := bytes.Clone(file)
		bad[i] ^= 0x10
		if err := m.Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d flipped, and nobody noticed", i, len(file))
		}
		if err := m.Restore(bytes.NewReader(file[:i])); err == nil {
			t.Fatalf("cut to %d of %d bytes, and nobody noticed", i, len(file))
		}
	}
	if !bytes.Equal(file, takeSnapshot(t, m)) {
		t.Fatal("a failed restore changed the state")
	}
	if err := NewBuckets(testShard + 1).Restore(bytes.NewReader(file)); err == nil {
		t.Fatal("another shard restored it")
	}
}
