package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/snapshot"
)

// parsed returns a normalized policy with one limit.
func parsed(t testing.TB, name string, rate int) api.Policy {
	t.Helper()
	p, errs := policy.Parse(fmt.Appendf(nil, "limits: [{rate: %d, per: 1s}]", rate), name)
	if len(errs) > 0 {
		t.Fatal(policy.Problem(errs))
	}
	return p
}

func encodeCatalog(t testing.TB, stamp uint64, cmd CatalogCommand) []byte {
	t.Helper()
	e, err := EncodeCatalog(stamp, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func catalogBytes(t testing.TB, c *Catalog) []byte {
	t.Helper()
	var b bytes.Buffer
	capture := c.Capture()
	defer capture.Release()
	if n, err := capture.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d bytes, says %d: %v", b.Len(), n, err)
	}
	return b.Bytes()
}

func restoredCatalog(t testing.TB, file []byte) *Catalog {
	t.Helper()
	c := NewCatalog()
	if err := c.Restore(bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCatalogScenarios plays the transcripts of testdata/catalog. Commands:
//
//	stamp DURATION               of the entries that follow; may go back
//	init CLUSTER VERSION SHARDS
//	put NAME RATE [match=REVISION|any|none]
//	delete NAME [match=REVISION|any]
//	remove NODE
//	override POLICY KEY RATE [ttl=DURATION] [match=REVISION|any]
//	clear POLICY KEY             removes an override
//	expire
//	enforce enforce|shadow|off
//	sets POLICY KEY...           what decides about keys
//	overrides POLICY
//	history POLICY
//	at POLICY REVISION           the document of then
//	route SLOT...
//	list
//	restart                      snapshot, and restore into a new machine
func TestCatalogScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/catalog", func(t *testing.T, path string) {
		s := &catalogScenario{c: NewCatalog()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.run(d)
		})
	})
}

type catalogScenario struct {
	t            *testing.T
	c            *Catalog
	stamp, index uint64
}

func (s *catalogScenario) run(d *datadriven.TestData) string {
	arg := func(i int) string { return d.CmdArgs[i].Key }
	number := func(i int) uint64 {
		n, err := strconv.ParseUint(arg(i), 10, 64)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		return n
	}
	var match *uint64
	var condition string
	if d.HasArg("match") {
		d.ScanArgs(s.t, "match", &condition)
		if n, err := strconv.ParseUint(condition, 10, 64); err == nil {
			match = &n
		}
	}
	note := Note{Author: "ann"}
	switch d.Cmd {
	case "stamp":
		by, err := time.ParseDuration(arg(0))
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		s.stamp = uint64(by)
		return ""
	case "init":
		m := api.EvenSlotMap(uint32(number(2)))
		m.Version = number(1)
		return s.apply(CatalogCommand{Init: &CatalogInit{ClusterID: arg(0), SlotMap: m}})
	case "put":
		return s.apply(CatalogCommand{PutPolicy: &PutPolicy{
			Policy: parsed(s.t, arg(0), int(number(1))), IfMatch: match, AnyMatch: condition == "any", NoneMatch: condition == "none", Note: note,
		}})
	case "delete":
		return s.apply(CatalogCommand{DeletePolicy: &DeletePolicy{Name: arg(0), IfMatch: match, AnyMatch: condition == "any"}})
	case "remove":
		return s.apply(CatalogCommand{RemoveMember: &RemoveMember{ID: arg(0)}})
	case "override":
		o := api.Override{Key: arg(1), Limits: parsed(s.t, "p", int(number(2))).Limits}
		if d.HasArg("ttl") {
			var text string
			d.ScanArgs(s.t, "ttl", &text)
			ttl, err := time.ParseDuration(text)
			if err != nil {
				d.Fatalf(s.t, "%v", err)
			}
			o.TTL = api.Duration(ttl)
		}
		return s.apply(CatalogCommand{PutOverride: &PutOverride{Policy: arg(0), Override: o, IfMatch: match, AnyMatch: condition == "any", Note: note}})
	case "clear":
		return s.apply(CatalogCommand{DeleteOverride: &DeleteOverride{Policy: arg(0), Key: arg(1), IfMatch: match, Note: note}})
	case "expire":
		return s.apply(CatalogCommand{ExpireOverrides: &ExpireOverrides{}})
	case "enforce":
		return s.apply(CatalogCommand{SetEnforcement: &SetEnforcement{Enforcement: arg(0), Note: note}})
	case "sets":
		var b strings.Builder
		for i := range d.CmdArgs[1:] {
			set, _ := s.c.View().Policy(arg(0))
			if set.Overrides != nil {
				if o := set.Overrides.Override(arg(1 + i)); o != nil {
					set = o
				}
			}
			fmt.Fprintf(&b, "%s: %s@%d: %d/s\n", arg(1+i), set.Policy, set.Revision, set.Limits[0].Rate)
		}
		return b.String()
	case "overrides":
		var b strings.Builder
		v := s.c.View()
		now, _ := s.c.Last()
		page, total := v.Policies[arg(0)].Overrides("", 3, now)
		if len(page) == 3 {
			more, _ := v.Policies[arg(0)].Overrides(page[2].Key, 1000, now)
			page = append(page, more...)
		}
		for _, o := range page {
			fmt.Fprintf(&b, "%s@%d: %d/s", o.Key, o.Revision, o.Limits[0].Rate)
			if o.ExpiresInMS != 0 {
				fmt.Fprintf(&b, " for %d ms", o.ExpiresInMS)
			}
			b.WriteByte('\n')
		}
		next := "never"
		if n := v.NextExpiry(); n != math.MaxUint64 {
			next = time.Duration(n).String()
		}
		fmt.Fprintf(&b, "%d in all, the next expires %s\n", total, next)
		return b.String()
	case "history":
		var b strings.Builder
		for _, r := range s.c.View().Policies[arg(0)].Revisions() {
			fmt.Fprintf(&b, "%d %s at %v by %s", r.Revision, r.Change, time.Duration(r.TimeNS), r.Author)
			switch {
			case r.Document != nil:
				fmt.Fprintf(&b, ": %d/s", r.Document.Limits[0].Rate)
			case r.Override != "":
				fmt.Fprintf(&b, ": %s", r.Override)
			case r.Expired > 0:
				fmt.Fprintf(&b, ": %d", r.Expired)
			}
			b.WriteByte('\n')
		}
		return b.String()
	case "at":
		doc := s.c.View().Policies[arg(0)].At(number(1))
		if doc == nil {
			return "nothing is remembered\n"
		}
		return fmt.Sprintf("%d/s\n", doc.Limits[0].Rate)
	case "route":
		var b strings.Builder
		for i := range d.CmdArgs {
			fmt.Fprintf(&b, "slot %d: shard %d\n", number(i), s.c.View().Route(uint16(number(i))))
		}
		return b.String()
	case "list":
		v := s.c.View()
		stamp, index := s.c.Last()
		var b strings.Builder
		fmt.Fprintf(&b, "cluster %q, revision %d, changed at %d, slot map %d; last entry %d at %v\n",
			v.ClusterID, v.Revision, v.Index, v.SlotMapVersion(), index, time.Duration(stamp))
		for _, p := range v.List() {
			set, _ := v.Policy(p.Name)
			fmt.Fprintf(&b, "%s@%d: %d/s\n", set.Policy, set.Revision, set.Limits[0].Rate)
		}
		if len(v.Removed) > 0 {
			fmt.Fprintf(&b, "removed: %s\n", strings.Join(v.Removed, ", "))
		}
		return b.String()
	case "restart":
		s.c = restoredCatalog(s.t, catalogBytes(s.t, s.c))
		return ""
	}
	d.Fatalf(s.t, "unknown command")
	return ""
}

func (s *catalogScenario) apply(cmd CatalogCommand) string {
	s.index++
	res, err := s.c.Apply(s.index, encodeCatalog(s.t, s.stamp, cmd))
	if err != nil {
		return fmt.Sprintf("halt: %v\n", err)
	}
	if res.Err != nil {
		return fmt.Sprintf("%d %v\ncatalog at revision %d\n", res.Err.Status, res.Err, res.Revision)
	}
	word := "done"
	switch {
	case res.Unchanged:
		word = "unchanged"
	case res.Created:
		word = "created"
	}
	if res.Policy != nil {
		word += fmt.Sprintf(" %s@%d", res.Policy.Name, res.Policy.Revision)
	}
	return fmt.Sprintf("%s; catalog at revision %d\n", word, res.Revision)
}

// randomCommand makes commands that meet each other often.
func randomCommand(t testing.TB, rng *rand.Rand) CatalogCommand {
	name := fmt.Sprintf("p%d", rng.IntN(4))
	var match *uint64
	if rng.IntN(3) == 0 {
		n := rng.Uint64N(12)
		match = &n
	}
	switch rng.IntN(20) {
	case 9, 10, 11, 12, 13:
		o := api.Override{Key: randomPattern(rng), Limits: parsed(t, "p", 1+rng.IntN(2)).Limits}
		if rng.IntN(2) == 0 {
			o.TTL = api.Duration(time.Second)
		}
		return CatalogCommand{PutOverride: &PutOverride{Policy: name, Override: o, IfMatch: match, Note: Note{Author: "a"}}}
	case 14, 15, 16:
		return CatalogCommand{DeleteOverride: &DeleteOverride{Policy: name, Key: randomPattern(rng)}}
	case 17, 18:
		return CatalogCommand{ExpireOverrides: &ExpireOverrides{}}
	case 19:
		return CatalogCommand{SetEnforcement: &SetEnforcement{Enforcement: Enforcements[rng.IntN(len(Enforcements))]}}
	case 8:
		return CatalogCommand{RemoveMember: &RemoveMember{ID: name}}
	case 0:
		return CatalogCommand{Init: &CatalogInit{ClusterID: name, SlotMap: api.EvenSlotMap(1 + rng.Uint32N(6))}}
	case 1, 2:
		return CatalogCommand{DeletePolicy: &DeletePolicy{Name: name, IfMatch: match, AnyMatch: rng.IntN(4) == 0}}
	default:
		return CatalogCommand{PutPolicy: &PutPolicy{
			Policy: parsed(t, name, 1+rng.IntN(2)), IfMatch: match, AnyMatch: rng.IntN(6) == 0, NoneMatch: rng.IntN(6) == 0,
		}}
	}
}

func TestCatalogsWithOneLogAreEqualAlsoThroughSnapshots(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	a, b := NewCatalog(), NewCatalog()
	var views []*CatalogView // as they were published,
	var lists [][]api.Policy // and what they listed then
	index := uint64(0)
	for range 400 {
		index += 1 + rng.Uint64N(3)
		entry := encodeCatalog(t, rng.Uint64N(4_000_000_000), randomCommand(t, rng))
		ra, errA := a.Apply(index, entry)
		rb, errB := b.Apply(index, bytes.Clone(entry))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if !reflect.DeepEqual(ra, rb) {
			t.Fatalf("index %d: %+v and %+v", index, ra, rb)
		}
		file := catalogBytes(t, a)
		if !bytes.Equal(file, catalogBytes(t, b)) {
			t.Fatalf("index %d: the states differ", index)
		}
		if rng.IntN(4) == 0 {
			b = restoredCatalog(t, file)
		}
		views, lists = append(views, a.View()), append(lists, a.View().List())
	}
	for i := range views {
		if !reflect.DeepEqual(views[i].List(), lists[i]) {
			t.Fatalf("view %d has changed since it was published", i)
		}
	}
}

// testLog is a catalog with some content, and its entries.
func testLog(t testing.TB) (*Catalog, [][]byte) {
	revision := uint64(3)
	entries := [][]byte{
		encodeCatalog(t, 5, CatalogCommand{Init: &CatalogInit{ClusterID: "c", SlotMap: api.EvenSlotMap(3)}}),
		encodeCatalog(t, 6, CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "b", 1), NoneMatch: true}}),
		encodeCatalog(t, 7, CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "ns/a", 2), AnyMatch: false}}),
		encodeCatalog(t, 8, CatalogCommand{DeletePolicy: &DeletePolicy{Name: "ns/a", IfMatch: &revision}}),
		encodeCatalog(t, 9, CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "a", 3)}}),
		encodeCatalog(t, 9, CatalogCommand{RemoveMember: &RemoveMember{ID: "n3"}}),
		encodeCatalog(t, 9, CatalogCommand{PutOverride: &PutOverride{Policy: "a", Override: api.Override{
			Key: "vip:*", Limits: parsed(t, "a", 30).Limits, Reason: "they pay", TTL: api.Duration(time.Second),
		}, Note: Note{Author: "ann", At: "2026-11-24T23:00:00Z"}}}),
		encodeCatalog(t, 9, CatalogCommand{PutOverride: &PutOverride{Policy: "a", Override: api.Override{Key: "k", Limits: parsed(t, "a", 31).Limits}}}),
		encodeCatalog(t, 10, CatalogCommand{DeleteOverride: &DeleteOverride{Policy: "a", Key: "k"}}),
		encodeCatalog(t, 11, CatalogCommand{SetEnforcement: &SetEnforcement{Enforcement: "shadow", Note: Note{Reason: "a trial"}}}),
		encodeCatalog(t, 12, CatalogCommand{ExpireOverrides: &ExpireOverrides{}}),
	}
	c := NewCatalog()
	for i, e := range entries {
		res, err := c.Apply(uint64(i+1), e)
		if err != nil {
			t.Fatal(err)
		}
		if res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	return c, entries
}

func TestEveryBitFlipOfACatalogEntryHalts(t *testing.T) {
	_, entries := testLog(t)
	for n, entry := range entries {
		for i := range entry {
			for bit := range 8 {
				bad := bytes.Clone(entry)
				bad[i] ^= 1 << bit
				if _, err := NewCatalog().Apply(1, bad); err == nil {
					t.Fatalf("entry %d: bit %d of byte %d is flipped, and it is applied", n, bit, i)
				}
			}
		}
		for i := range entry {
			if _, err := NewCatalog().Apply(1, entry[:i]); err == nil {
				t.Fatalf("entry %d: cut to %d bytes, and it is applied", n, i)
			}
		}
	}
}

// sealed is an entry with a good checksum, whatever is in it.
func sealed(version, kind uint8, body string) []byte {
	e := append(appendHeader(nil, kind), body...)
	e[0] = version
	sealHeader(e, 0)
	return e
}

func TestWhatACatalogDoesNotKnowHaltsItForGood(t *testing.T) {
	limits := `"limits":[{"name":"x","algorithm":"token_bucket","rate":1,"per":"1s","burst":1}],"on_unavailable":"closed","enforcement":"enforce"`
	cases := map[string]struct {
		entry []byte
		says  string
	}{
		"a newer version":     {sealed(2, kindDeletePolicy, `{"name":"a"}`), "version 2"},
		"a newer kind":        {sealed(1, 72, `{}`), "kind 72"},
		"a shard's entry":     {EncodeTick(7), "kind 3"},
		"a newer field":       {sealed(1, kindDeletePolicy, `{"name":"a","if_unused":true}`), "if_unused"},
		"a newer mode":        {sealed(1, kindPutPolicy, `{"policy":{"name":"a","mode":"leased",`+limits+`}}`), "leased"},
		"no body":             {sealed(1, kindDeletePolicy, ``), "malformed"},
		"two bodies":          {sealed(1, kindDeletePolicy, `{"name":"a"}{}`), "follows its end"},
		"not JSON":            {sealed(1, kindPutPolicy, `name: a`), "malformed"},
		"an unknown switch":   {sealed(1, kindSetEnforcement, `{"enforcement":"maybe"}`), "maybe"},
		"a keyless override":  {sealed(1, kindPutOverride, `{"name":"a","override":{"key":"","limits":[]}}`), `policy ""`},
		"a broken slot map":   {sealed(1, kindCatalogInit, `{"cluster_id":"c","slot_map":{"version":1,"ranges":[]}}`), "covers 0"},
		"an anonymous node":   {sealed(1, kindRemoveMember, `{"id":""}`), "not a node id"},
		"an anonymous policy": {sealed(1, kindPutPolicy, `{"policy":{"mode":"strict",`+limits+`}}`), `policy ""`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := NewCatalog()
			good := encodeCatalog(t, 1, CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "a", 1)}})
			if _, err := m.Apply(1, good); err != nil {
				t.Fatal(err)
			}
			before := m.View()
			_, err := m.Apply(2, c.entry)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "log index 2") {
				t.Errorf("error %v; it should say %q and the index", err, c.says)
			}
			if _, err := m.Apply(3, good); err == nil {
				t.Error("it goes on after an entry that it could not apply")
			}
			if _, err := m.Capture().WriteTo(io.Discard); err == nil {
				t.Error("it is captured after an entry that it could not apply")
			}
			if m.View() != before {
				t.Error("the entry had an effect")
			}
		})
	}
}

func TestACatalogEntryIsAppliedOnce(t *testing.T) {
	c, entries := testLog(t)
	if _, err := c.Apply(uint64(len(entries)), entries[0]); err == nil {
		t.Error("an index that was applied is applied again")
	}
}

func TestEncodeCatalogRefusesWhatWouldHalt(t *testing.T) {
	raw := parsed(t, "a", 1)
	raw.Limits[0].Burst = 0
	later := parsed(t, "a", 1)
	later.Mode = "soft"
	holes := api.SlotMap{Version: 1, Ranges: []api.SlotRange{{From: 1, To: api.Slots - 1, Shard: 1}}}
	for name, cmd := range map[string]CatalogCommand{
		"nothing":            {},
		"two at once":        {PutPolicy: &PutPolicy{Policy: parsed(t, "a", 1)}, DeletePolicy: &DeletePolicy{Name: "a"}},
		"defaults left out":  {PutPolicy: &PutPolicy{Policy: raw}},
		"a later mode":       {PutPolicy: &PutPolicy{Policy: later}},
		"no name":            {DeletePolicy: &DeletePolicy{}},
		"no node":            {RemoveMember: &RemoveMember{}},
		"a node's bad id":    {RemoveMember: &RemoveMember{ID: "n 1"}},
		"no cluster id":      {Init: &CatalogInit{SlotMap: api.EvenSlotMap(1)}},
		"no override's key":  {PutOverride: &PutOverride{Policy: "a", Override: api.Override{Limits: parsed(t, "a", 1).Limits}}},
		"no override's name": {PutOverride: &PutOverride{Override: api.Override{Key: "k", Limits: parsed(t, "a", 1).Limits}}},
		"an override's mark": {PutOverride: &PutOverride{Policy: "a", Override: api.Override{Key: "k", Limits: parsed(t, "a", 1).Limits, Revision: 3}}},
		"a long reason":      {SetEnforcement: &SetEnforcement{Enforcement: "off", Note: Note{Reason: strings.Repeat("x", api.MaxReason+1)}}},
		"no such switch":     {SetEnforcement: &SetEnforcement{Enforcement: "on"}},
		"no slot map":        {Init: &CatalogInit{ClusterID: "c"}},
		"a slot map's holes": {Init: &CatalogInit{ClusterID: "c", SlotMap: holes}},
	} {
		if _, err := EncodeCatalog(1, cmd); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestTheCatalogIsBounded(t *testing.T) {
	full := &CatalogView{Policies: map[string]*CatalogPolicy{}}
	for i := range MaxPolicies {
		doc := parsed(t, fmt.Sprintf("p%d", i), 1)
		full.Policies[doc.Name] = &CatalogPolicy{Doc: doc, Set: policy.Resolve(&doc)}
	}
	c := NewCatalog()
	c.view.Store(full)
	for i, step := range []struct {
		cmd CatalogCommand
		err error
	}{
		{CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "one-more", 1)}}, api.NewProblem(api.InvalidRequest, "")},
		{CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "p7", 2)}}, nil},
		{CatalogCommand{DeletePolicy: &DeletePolicy{Name: "p7"}}, nil},
		{CatalogCommand{PutPolicy: &PutPolicy{Policy: parsed(t, "one-more", 1)}}, nil},
	} {
		res, err := c.Apply(uint64(i+1), encodeCatalog(t, 1, step.cmd))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case step.err == nil && res.Err != nil:
			t.Errorf("step %d: %v", i, res.Err)
		case step.err != nil && (!errors.Is(res.Err, step.err) || !strings.Contains(res.Err.Detail, strconv.Itoa(MaxPolicies))):
			t.Errorf("step %d: %v, want %v that names the bound", i, res.Err, step.err)
		}
	}
}

func TestTheNodesRemovedFirstAreForgottenFirst(t *testing.T) {
	c := NewCatalog()
	for i := range maxRemoved + 2 {
		entry := encodeCatalog(t, 1, CatalogCommand{RemoveMember: &RemoveMember{ID: fmt.Sprintf("n%d", i)}})
		if _, err := c.Apply(uint64(i+1), entry); err != nil {
			t.Fatal(err)
		}
	}
	v := restoredCatalog(t, catalogBytes(t, c)).View()
	if len(v.Removed) != maxRemoved || v.IsRemoved("n1") || !v.IsRemoved("n2") || !v.IsRemoved(fmt.Sprintf("n%d", maxRemoved+1)) {
		t.Errorf("%d are remembered, from %s on", len(v.Removed), v.Removed[0])
	}
}

func TestABadCatalogSnapshotChangesNothing(t *testing.T) {
	c, _ := testLog(t)
	good := catalogBytes(t, c)
	type rec struct {
		typ  uint8
		body string
	}
	head := rec{1, `{"cluster_id":"c","revision":9,"index":4,"slot_map":{"version":0,"ranges":null}}`}
	pol := func(name string, revision int) rec {
		return rec{2, fmt.Sprintf(`{"name":%q,"limits":[{"name":"x","algorithm":"token_bucket","rate":1,"per":"1s","burst":1}],"mode":"strict","on_unavailable":"closed","enforcement":"enforce","revision":%d}`, name, revision)}
	}
	over := func(key string, revision int) rec {
		return rec{4, fmt.Sprintf(`{"key":%q,"limits":[{"name":"x","algorithm":"token_bucket","rate":1,"per":"1s","burst":1}],"revision":%d}`, key, revision)}
	}
	file := func(h snapshot.Header, recs ...rec) []byte {
		var b bytes.Buffer
		w, err := snapshot.NewWriter(&b, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			_ = w.Record(r.typ, []byte(r.body)) // its error sticks
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	h := snapshot.Header{Kind: snapshot.KindCatalog, Version: catalogVersion, Index: 9}
	other := func(change func(*snapshot.Header)) snapshot.Header {
		o := h
		change(&o)
		return o
	}
	restoredCatalog(t, file(h, head, pol("a", 1), over("k", 1), over("k*", 1), pol("b", 9))) // the frame of what follows is good
	for name, bad := range map[string][]byte{
		"cut":                   good[:len(good)-1],
		"a shard's":             file(other(func(h *snapshot.Header) { h.Kind = snapshot.KindBuckets }), head),
		"another shard's":       file(other(func(h *snapshot.Header) { h.Shard = 1 }), head),
		"a newer version":       file(other(func(h *snapshot.Header) { h.Version++ }), head),
		"an end before it":      file(other(func(h *snapshot.Header) { h.Index = 3 }), head),
		"empty":                 file(h),
		"no head":               file(h, pol("a", 1)),
		"two heads":             file(h, head, head),
		"an unknown record":     file(h, head, rec{5, "{}"}),
		"disorder":              file(h, head, pol("b", 1), pol("a", 2)),
		"a policy twice":        file(h, head, pol("a", 1), pol("a", 2)),
		"no revision":           file(h, head, pol("a", 0)),
		"a later revision":      file(h, head, pol("a", 10)),
		"an unknown field":      file(h, head, rec{2, strings.Replace(pol("a", 1).body, "{", `{"x":1,`, 1)}),
		"an unsupported mode":   file(h, head, rec{2, strings.Replace(pol("a", 1).body, "strict", "soft", 1)}),
		"a node removed twice":  file(h, rec{1, strings.Replace(head.body, "{", `{"removed":["n1","n1"],`, 1)}),
		"a removed nobody":      file(h, rec{1, strings.Replace(head.body, "{", `{"removed":[""],`, 1)}),
		"no such switch":        file(h, rec{1, strings.Replace(head.body, "{", `{"enforcement":{"enforcement":"x","revision":1},`, 1)}),
		"a past of nobody":      file(h, head, rec{3, `{"revision":1,"change":"override-set","time_ns":1}`}),
		"a past in disorder":    file(h, head, pol("a", 5), rec{3, `{"revision":3,"change":"x","time_ns":1}`}, rec{3, `{"revision":2,"change":"x","time_ns":1}`}),
		"a past to come":        file(h, head, pol("a", 5), rec{3, `{"revision":6,"change":"x","time_ns":1}`}),
		"overrides twice":       file(h, head, pol("a", 5), over("k", 1), over("k", 2)),
		"overrides in disorder": file(h, head, pol("a", 5), over("l", 1), over("k", 2)),
		"an override to come":   file(h, head, pol("a", 5), over("k", 6)),
		"an override of nobody": file(h, head, over("k", 1)),
		"a bad slot map":        file(h, rec{1, strings.Replace(head.body, `"version":0`, `"version":1`, 1)}),
	} {
		t.Run(name, func(t *testing.T) {
			if c.Restore(bytes.NewReader(bad)) == nil {
				t.Error("restored")
			}
			if !bytes.Equal(catalogBytes(t, c), good) {
				t.Error("the state has changed")
			}
		})
	}
}
