package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// contents is a machine's buckets, by policy, revision and key.
func contents(m *Buckets) map[string]string {
	all := map[string]string{}
	var b bucket
	for _, pages := range m.table.pageList() {
		for _, p := range pages {
			for r := range p.records {
				if b.load(r, &m.sets, m.last) != ResetNone {
					panic("an impossible bucket")
				}
				name := fmt.Sprintf("%s %d %s", b.set.policy, b.set.revision, recordKey(r))
				all[name] = fmt.Sprint(b.at, b.lim[:len(b.set.limits)])
			}
		}
	}
	return all
}

// others is what else there is: request ids, sessions and holds, by count.
func others(m *Buckets) string {
	s := m.Stats()
	return fmt.Sprint(s.DedupIDs, s.Sessions, s.Holds, s.Settled, m.sessions.bytes)
}

func wholeMap() api.SlotMap {
	return api.SlotMap{Version: 1, Ranges: []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: testShard}}}
}

// manyBuckets is a snapshot with many records of everything.
func manyBuckets(t *testing.T) (*Buckets, []byte) {
	r := newRig(t)
	sets := []*policy.Set{
		testSet("one", 1, 1, 60*second, 1000), testSet("three", 4, 1, 60*second, 1000, 5, 100*second, 700, 1, second, 900),
		testSet("two", 7, 1, 60*second, 1000, 5, 100*second, 700), testSet("other", 2, 3, 60*second, 1000),
	}
	for i := range 300 {
		b := &api.Batch{}
		for _, s := range sets {
			ref := b.Ref(s.Policy)
			for k := range 10 {
				b.Add(api.Op{Kind: api.Take, Policy: ref, Cost: int64(1 + (i+k)%9), Key: fmt.Sprintf("key-%d-%d", i, k), RequestID: fmt.Sprintf("%s-%d-%d", s.Policy, i, k)})
			}
		}
		b.Session = api.Session{ID: [16]byte{byte(i % 7)}, Seq: 1 + uint64(i/7)}
		r.do(uint64(i)*1_000_000, b, sets...)
		r.one(uint64(i)*1_000_000, sets[0], reserve(fmt.Sprintf("held-%d", i), byte(i), 2, 100_000))
	}
	return r.m, takeSnapshot(t, r.m)
}

// recordsOf lists where each record of a snapshot begins, by type.
func recordsOf(file []byte) map[uint8][]int {
	all := map[uint8][]int{}
	for at := 40; file[at] != 0; at += 8 + int(binary.LittleEndian.Uint32(file[at:])>>8) {
		all[file[at]] = append(all[file[at]], at)
	}
	return all
}

// TestADamagedRecordLosesNothingButItself flips a bit in a record of each type:
// its payload, and its length. What the other records hold stays as it was, what it
// held is counted, and the machine is one that can go on.
func TestADamagedRecordLosesNothingButItself(t *testing.T) {
	m, file := manyBuckets(t)
	want, all := contents(m), recordsOf(file)
	for typ, name := range map[uint8]string{
		recMeta: "meta", recSet: "set", recBuckets: "buckets", recDedup: "request ids",
		recSession: "session", recAnswer: "answer", recHolds: "holds",
	} {
		for _, at := range []int{0, 1, 8, 9} { // type, length, payload
			t.Run(fmt.Sprintf("%s, byte %d", name, at), func(t *testing.T) {
				records := all[typ]
				if len(records) == 0 {
					t.Fatal("the snapshot has no such record")
				}
				bad := bytes.Clone(file)
				bad[records[len(records)/2]+at] ^= 0x10
				if err := NewBuckets(testShard).Restore(bytes.NewReader(bad)); err == nil {
					t.Fatal("the damage is not noticed")
				}
				got := NewBuckets(testShard)
				lost, err := got.Salvage(bad, wholeMap())
				if err != nil {
					t.Fatal(err)
				}
				if lost.Stretches != 1 {
					t.Errorf("%+v: one stretch is damaged", lost)
				}
				have := contents(got)
				for name, level := range have {
					if want[name] != level {
						t.Fatalf("bucket %s is %s, and was %s", name, level, want[name])
					}
				}
				gone := len(want) - len(have)
				if !lost.Uncounted && lost.Buckets != gone {
					t.Errorf("%d buckets are told to be lost, and %d are", lost.Buckets, gone)
				}
				switch most := len(want)/len(all[recBuckets]) + 1000; {
				case typ == recSet: // a quarter of them is of that set
					for name := range want {
						if _, ok := have[name]; !ok && gone > len(want)/4+10 {
							t.Fatalf("%d buckets are lost, %s among them", gone, name)
						}
					}
				case typ == recBuckets && (gone == 0 || gone > most), typ != recBuckets && gone > 0:
					t.Errorf("%d of %d buckets are lost", gone, len(want))
				}
				if typ != recSet && typ != recDedup && typ != recSession && typ != recAnswer && typ != recHolds && others(got) != others(m) {
					t.Errorf("of the rest %s is left, want %s", others(got), others(m))
				}
				goesOn(t, got)
			})
		}
	}
}

// goesOn checks that a machine is one that entries and snapshots are made of.
func goesOn(t *testing.T, m *Buckets) {
	t.Helper()
	again := NewBuckets(testShard)
	if err := again.Restore(bytes.NewReader(takeSnapshot(t, m))); err != nil {
		t.Fatalf("its snapshot can't be restored: %v", err)
	}
	b := &api.Batch{}
	s := testSet("one", 1, 1, 60*second, 1000)
	b.Add(api.Op{Kind: api.Take, Policy: b.Ref("one"), Cost: 1, Key: "key-1-1"})
	var w EntryWriter
	w.Add(b, []*policy.Set{s})
	a, err := again.Apply(m.index+1, w.Seal(m.last+1))
	if err != nil {
		t.Fatal(err)
	}
	if res, _ := decodeReply(t, a.Replies[0]); res[0].Status != api.StatusAllowed {
		t.Errorf("a take after it: %+v", res[0])
	}
}

// TestWhateverIsDamagedWhatIsLeftIsTrue damages random snapshots at random: bits,
// stretches, and the end.
func TestWhateverIsDamagedWhatIsLeftIsTrue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	log := newLogMaker(seed, 200)
	m := NewBuckets(testShard)
	if _, err := m.Apply(1, EncodeOwn(0, 1, wholeMap().Ranges)); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i < 300; i++ {
		if _, err := m.Apply(i, log.entry()); err != nil {
			t.Fatal(err)
		}
	}
	file, want := takeSnapshot(t, m), contents(m)
	for range 500 {
		bad := bytes.Clone(file)
		switch at := 40 + rng.IntN(len(bad)-40); rng.IntN(4) {
		case 0:
			bad = bad[:at]
		case 1:
			for i := at; i < min(len(bad), at+rng.IntN(1000)); i++ {
				bad[i] = byte(rng.Uint32())
			}
		case 2:
			bad[40+rng.IntN(len(bad)-40)] ^= 1 << rng.IntN(8)
			fallthrough
		default:
			bad[at] ^= 1 << rng.IntN(8)
		}
		got := NewBuckets(testShard)
		lost, err := got.Salvage(bad, wholeMap())
		if err != nil {
			t.Fatal(err)
		}
		have := contents(got)
		for name, level := range have {
			if want[name] != level {
				t.Fatalf("bucket %s is %s, and was %s", name, level, want[name])
			}
		}
		if gone := len(want) - len(have); !lost.Uncounted && lost.Buckets != gone {
			t.Fatalf("%d buckets are told to be lost, and %d are", lost.Buckets, gone)
		}
		if err := NewBuckets(testShard).Restore(bytes.NewReader(takeSnapshot(t, got))); err != nil {
			t.Fatalf("its snapshot can't be restored: %v", err)
		}
	}
	got := NewBuckets(testShard)
	if lost, err := got.Salvage(file, wholeMap()); err != nil || lost.Any() || !maps.Equal(contents(got), want) {
		t.Errorf("of a whole one %+v is lost, %v", lost, err)
	}
	bad := bytes.Clone(file)
	bad[25] ^= 1
	if _, err := got.Salvage(bad, wholeMap()); err == nil {
		t.Error("nobody knows what the records are of")
	}
}

// TestASetThatIsNoneIsPassedOver: whatever a record says whose checksum is right, what is
// left is a state that can go on.
func TestASetThatIsNoneIsPassedOver(t *testing.T) {
	_, file := manyBuckets(t)
	sets := recordsOf(file)[recSet]
	twice := slices.Concat(file[:sets[1]], file[sets[0]:sets[1]], file[sets[1]:])
	got := NewBuckets(testShard)
	if _, err := got.Salvage(twice, wholeMap()); err != nil {
		t.Fatal(err)
	}
	goesOn(t, got)
}

// TestADamagedCatalogKeepsItsOtherPolicies: a policy whose record is damaged is gone
// with what follows it, and the next one is there again.
func TestADamagedCatalogKeepsItsOtherPolicies(t *testing.T) {
	c := NewCatalog()
	index := uint64(0)
	apply := func(cmd CatalogCommand) {
		t.Helper()
		index++
		entry, err := EncodeCatalog(index*second, cmd)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := c.Apply(index, entry); err != nil || res.Err != nil {
			t.Fatal(err, res)
		}
	}
	apply(CatalogCommand{Init: &CatalogInit{ClusterID: "old", SlotMap: wholeMap()}})
	for _, name := range []string{"a", "b", "c"} {
		doc, errs := policy.Parse(fmt.Appendf(nil, "{name: %s, limits: [{rate: 10, per: 1s}]}", name), "")
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		apply(CatalogCommand{PutPolicy: &PutPolicy{Policy: doc}})
		o, errs := policy.ParseOverride([]byte(`{key: "vip", limits: [{rate: 20, per: 1s}]}`))
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		apply(CatalogCommand{PutOverride: &PutOverride{Policy: name, Override: o}})
	}
	apply(CatalogCommand{RemoveMember: &RemoveMember{ID: "n9"}})
	var buf bytes.Buffer
	if _, err := c.Capture().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	file := buf.Bytes()
	all := recordsOf(file)
	salvage := func(at int) (*CatalogView, Losses) {
		t.Helper()
		bad := bytes.Clone(file)
		bad[at] ^= 1
		got := NewCatalog()
		lost, err := got.Salvage(bad, wholeMap())
		if err != nil || !lost.Any() {
			t.Fatalf("%+v, %v", lost, err)
		}
		if err := got.Refound("new", wholeMap(), 0, ""); err != nil {
			t.Fatal(err)
		}
		var again bytes.Buffer
		if _, err := got.Capture().WriteTo(&again); err != nil {
			t.Fatal(err)
		}
		if err := NewCatalog().Restore(&again); err != nil {
			t.Fatalf("its snapshot can't be restored: %v", err)
		}
		if v := got.View(); v.ClusterID != "new" || v.Route(77) != testShard || v.Revision < 7 {
			t.Errorf("cluster %s, revision %d, a slot in shard %d", v.ClusterID, v.Revision, v.Route(77))
		}
		return got.View(), lost
	}
	names := func(v *CatalogView) (s string) {
		for _, p := range v.List() {
			s += p.Name
			if v.Policies[p.Name].exceptions().match("vip") != nil {
				s += "!"
			}
		}
		return s
	}
	if v, lost := salvage(all[catalogPolicyRecord][1] + 12); names(v) != "a!c!" || lost.Policies != 1 {
		t.Errorf("without b: %s, %+v", names(v), lost)
	}
	if v, lost := salvage(all[catalogRevisionRecord][2] + 12); names(v) != "a!bc!" || lost.Parts == 0 {
		t.Errorf("with b, but not its override: %s, %+v", names(v), lost)
	}
	if v, lost := salvage(all[catalogHeadRecord][0] + 12); names(v) != "a!b!c!" || !lost.Uncounted {
		t.Errorf("without the head: %s, %+v", names(v), lost)
	}
	if err := c.Refound("new", wholeMap(), 100, "n9"); err != nil || c.View().Revision != 100 || c.View().IsRemoved("n9") {
		t.Errorf("revision %d, %v; %v", c.View().Revision, c.View().Removed, err)
	}
}
