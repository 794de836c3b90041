package check

import (
	"cmp"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// jobs stores the policies of permits.
func (w *world) jobs() {
	if w.strict {
		return
	}
	w.edit("jobs", w.slots(), w.window("token_bucket", "b"))
	w.edit("one", w.slots())
}

func (w *world) slots() api.Limit {
	return api.Limit{Name: "slots", Algorithm: "concurrency", Max: 1 + w.rnd.Int64N(3)}
}

// command applies one to the catalog.
func (w *world) command(cmd fsm.CatalogCommand) *fsm.CatalogResult {
	e, err := fsm.EncodeCatalog(uint64(w.now), cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	index := uint64(len(w.log0)*2 + 2)
	res, err := w.catalog.Apply(index, e)
	if err != nil {
		w.t.Fatal(err)
	}
	w.log0 = append(w.log0, Entry{Group: 0, Index: index, Term: 1, Data: e})
	w.views = append(w.views, w.catalog.View())
	return res
}

// edit stores a policy, and now and then nobody hears of it.
func (w *world) edit(name string, limits ...api.Limit) {
	for i := range limits {
		limits[i].Algorithm = cmp.Or(limits[i].Algorithm, "token_bucket")
	}
	doc := api.Policy{Name: name, Limits: limits, Mode: "strict", OnUnavailable: "closed", Enforcement: "enforce"}
	if w.windows && !w.steady && w.chance(20) {
		doc.Enforcement = "shadow"
	}
	if w.windows && !w.steady && w.chance(5) {
		doc.Enforcement = "off"
	}
	if w.windows && w.chance(70) {
		doc.ZoneRules = zoneRules
	}
	e := Edit{Name: name, Call: w.now, Outcome: Done}
	w.pass(2)
	res := w.command(fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: doc}})
	w.pass(2)
	e.Return, e.Policy = w.now, res.Policy
	if w.chance(10) {
		e.Return, e.Policy, e.Outcome = Forever, nil, Unknown
	}
	w.h.Edits = append(w.h.Edits, e)
}

// wall is what a leader's clock shows, which now and then jumps.
func (w *world) wall() int64 {
	if w.chance(30) {
		w.skew = w.rnd.Int64N(6e9) - 3e9
	}
	return midnight.UnixNano() + w.now + w.skew
}

// window draws a limit.
func (w *world) window(algorithm, name string) api.Limit {
	pers := []time.Duration{500 * time.Millisecond, 2 * time.Second, 7 * time.Second, time.Minute, time.Hour}
	l := api.Limit{Name: name, Algorithm: algorithm, Rate: 3 + w.rnd.Int64N(20), Per: api.Duration(pers[w.rnd.IntN(len(pers))])}
	switch {
	case algorithm == "token_bucket":
		l.Burst = 3 + w.rnd.Int64N(15)
	case algorithm == "fixed_window" && w.chance(15):
		l.Per = api.Month
	}
	return l
}

// any draws an algorithm.
func (w *world) any() string {
	return []string{"token_bucket", "fixed_window", "sliding_window"}[w.rnd.IntN(3)]
}

// pattern is that of some keys, or one of them.
func (w *world) pattern() string {
	return []string{"*", "{1}*", "{2}0", "{0}1", "{"}[w.rnd.IntN(5)] + []string{"", "*"}[w.rnd.IntN(2)]
}

// except gives some keys of the policy api another limit, for a time or for good.
func (w *world) except(l api.Limit) {
	o := api.Override{Key: w.pattern(), Limits: []api.Limit{l}}
	if w.chance(40) {
		o.TTL = api.Duration(time.Second)
	}
	w.command(fsm.CatalogCommand{PutOverride: &fsm.PutOverride{Policy: "api", Override: o}})
}

func (w *world) remove(name string) {
	call := w.now
	w.pass(2)
	res := w.command(fsm.CatalogCommand{DeletePolicy: &fsm.DeletePolicy{Name: name}})
	w.pass(2)
	if res.Err == nil {
		w.h.Edits = append(w.h.Edits, Edit{Name: name, Call: call, Return: w.now, Outcome: Done, Deletion: true})
	}
}

// editJobs has other slots, or none: then a limit of another algorithm has their name,
// or theirs has that of another one.
func (w *world) editJobs() {
	name := []string{"jobs", "one", "two"}[w.rnd.IntN(3)]
	switch w.rnd.IntN(6) {
	case 0:
		w.edit(name, w.window("token_bucket", "slots"), w.window("token_bucket", "b"))
	case 1:
		w.remove("one")
		w.edit("one", w.slots())
	case 2:
		l := w.slots()
		l.Name = "b"
		w.edit(name, l)
	default:
		w.edit(name, w.slots(), w.window("token_bucket", "b"))
	}
}
