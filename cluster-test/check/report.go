package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind names a way in which a history can be wrong.
type Kind string

// The kinds of violations.
const (
	ReplicasDiffer   Kind = "replicas-differ"   // two replicas applied different entries at one place
	IndexesGoBack    Kind = "indexes-go-back"   // one process applied an index twice, or out of order
	TermsGoBack      Kind = "terms-go-back"     // a later entry has a lower term
	BadEntry         Kind = "bad-entry"         // an entry that is not as documented
	UnknownLimits    Kind = "unknown-limits"    // limits in a shard's log that the catalog never held
	LostCharge       Kind = "lost-charge"       // an answer names a place that is in no log
	LostReset        Kind = "lost-reset"        // a reset was answered and is in no log
	LostEdit         Kind = "lost-edit"         // an edit was answered and is not in the catalog's log
	OtherPlace       Kind = "other-place"       // an answer names the place of another operation
	OnePlaceTwice    Kind = "one-place-twice"   // two requests were told the same place
	WrongAnswer      Kind = "wrong-answer"      // the oracle answers otherwise at that place
	OrderInverted    Kind = "order-inverted"    // what returned first stands after what was asked later
	TimeWentBack     Kind = "time-went-back"    // cluster time is lower at a later place
	TimeRanAhead     Kind = "time-ran-ahead"    // more cluster time passed than real time
	Unasked          Kind = "unasked"           // an applied operation that no request explains
	NotAppliedWas    Kind = "not-applied-was"   // an applied operation whose caller was told that nothing was
	DoubleCharge     Kind = "double-charge"     // a request id or a session's number was applied twice
	OverAdmitted     Kind = "over-admitted"     // more passed in an interval than the limit lets through
	OverSpent        Kind = "over-spent"        // more was spent of a lease than it had, or after its end
	WrongSource      Kind = "wrong-source"      // something decided a take that its policy does not let
	EditsInverted    Kind = "edits-inverted"    // a later edit has an earlier revision
	StalePolicy      Kind = "stale-policy"      // an operation was decided by a policy edited before it was asked
	NotLinearizable  Kind = "not-linearizable"  // no order of what callers saw of a key explains it
	MalformedHistory Kind = "malformed-history" // the recorder is at fault
)

// Violation is one thing that a correct store cannot have done.
type Violation struct {
	Kind Kind
	Text string // one sentence, with the operation and its place
}

func (v Violation) String() string { return string(v.Kind) + ": " + v.Text }

// MaxViolations is how many violations a report keeps; it counts all of them.
const MaxViolations = 100

// Report is what [Check] found.
type Report struct {
	Violations []Violation  // the first MaxViolations
	ByKind     map[Kind]int // all of them

	// What the history holds.
	Ops, Done, NotApplied, Unknown, Stale int
	Edits                                 int

	// What the logs hold.
	Entries    int // different ones, of all groups
	Shards     int // with an entry
	Places     int // operations in the shards' logs
	Applied    int // of those, the ones that were decided there, denials too
	Failed     int // refused, and so changed nothing
	Duplicates int // answered from the memory of request ids
	Replayed   int // answered from the memory of sessions
	Clamped    int // entries whose stamp was behind the one before
	Restarts   int // a replica's index went back, so its process must be another
	Revisions  int // effective changes of the catalog

	// What was compared.
	Answers    int // with the oracle's
	Intervals  int // admissions at which every interval that ends there was checked
	Slots      int // grants of permits at which those alive were counted
	Keys       int // searched for a linearization
	KeysLeft   int // not searched: too many operations, or out of the model's range
	KeysUnsure int // given up: the search took too long

	// Elsewhere counts takes that no log decided, by their source, and Leases those
	// leases of the logs from which some of them were spent.
	Elsewhere map[string]int
	Leases    int

	// StalePolicyUses counts operations that were called after an edit had
	// returned and were decided by an older revision. A node cut off from the
	// others may do so; see [Input.StrictPolicies].
	StalePolicyUses int
	// UnrecordedEdits counts changes in the catalog's log that no recorded edit
	// explains.
	UnrecordedEdits int
	// SetsUnseen counts sets of limits whose document is in no log and in no
	// edit, in a run without the catalog's log.
	SetsUnseen int
}

// add notes a violation.
func (r *Report) add(k Kind, format string, args ...any) {
	if r.ByKind == nil {
		r.ByKind = map[Kind]int{}
	}
	r.ByKind[k]++
	if len(r.Violations) < MaxViolations {
		r.Violations = append(r.Violations, Violation{k, fmt.Sprintf(format, args...)})
	}
}

// Total is the number of violations.
func (r *Report) Total() (n int) {
	for _, m := range r.ByKind {
		n += m
	}
	return n
}

// Err returns nil if nothing is wrong, else an error that shows how much of
// what is, and the first few.
func (r *Report) Err() error {
	if r.Total() == 0 {
		return nil
	}
	const shown = 10
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations:", r.Total())
	for _, k := range slices.Sorted(maps.Keys(r.ByKind)) {
		fmt.Fprintf(&b, " %d %s", r.ByKind[k], k)
	}
	for _, v := range r.Violations[:min(shown, len(r.Violations))] {
		fmt.Fprintf(&b, "\n  %s", v)
	}
	return fmt.Errorf("check: %s", b.String())
}

// String is the counts, in words.
func (r *Report) String() string {
	return fmt.Sprintf("%d operations (%d done, %d not applied, %d unknown, %d stale peeks), %d edits; "+
		"%d entries of %d shards and the catalog with %d operations (%d applied, %d failed, %d duplicates, %d replayed) and %d revisions, %d restarts; "+
		"%d answers, %d intervals and %d grants of permits compared, %d keys linearized (%d left, %d unsure); %s decided elsewhere, from %d leases; %d uses of a stale policy; %d violations",
		r.Ops, r.Done, r.NotApplied, r.Unknown, r.Stale, r.Edits,
		r.Entries, r.Shards, r.Places, r.Applied, r.Failed, r.Duplicates, r.Replayed, r.Revisions, r.Restarts,
		r.Answers, r.Intervals, r.Slots, r.Keys, r.KeysLeft, r.KeysUnsure, r.elsewhere(), r.Leases, r.StalePolicyUses, r.Total())
}

// elsewhere is the counts of takes that no log decided, in words.
func (r *Report) elsewhere() string {
	var list []string
	for _, source := range slices.Sorted(maps.Keys(r.Elsewhere)) {
		list = append(list, fmt.Sprintf("%s %d", source, r.Elsewhere[source]))
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}
