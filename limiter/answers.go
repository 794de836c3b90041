package limiter

import (
	"slices"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// answers gathers the sets of a reply that this node makes by itself.
type answers struct {
	sets  [][]byte
	known map[string]int
	res   api.Result // scratch
}

// number returns the index of a set in the reply, by its encoding.
func (a *answers) number(enc []byte) int {
	at, ok := a.known[string(enc)]
	if !ok {
		if a.known == nil {
			a.known = map[string]int{}
		}
		at = len(a.sets)
		a.known[string(enc)] = at
		a.sets = append(a.sets, enc)
	}
	return at
}

// appendUntouched appends the answer to a take that passes without anybody who
// decides: every limit is untouched, and no log knows of it.
func (a *answers) appendUntouched(dst []byte, s *policy.Set, source uint8) []byte {
	a.res = api.Result{Status: api.StatusAllowed, Set: a.number(encodeTold(&s.SetInfo, source)), OwnCommit: true, Limits: a.res.Limits[:0]}
	for _, l := range s.Limits {
		a.res.Limits = append(a.res.Limits, api.LimitValues{Remaining: l.Burst})
	}
	return api.AppendResult(dst, &a.res)
}

// appendOutcome appends a decision that was made here. Of limits that do not bind
// it tells what the store said last.
func (a *answers) appendOutcome(dst []byte, out *lease.Outcome, source uint8) []byte {
	told := out.Told
	enc, _ := told.Note.([]byte)
	if source == api.FromLocal || enc == nil {
		enc = encodeTold(told.Set, source)
	}
	a.res = api.Result{Status: api.StatusDenied, Set: a.number(enc), Binding: out.Binding, OwnCommit: true, Limits: a.res.Limits[:0]}
	if out.Verdict == lease.Allowed {
		a.res.Status = api.StatusAllowed
	}
	if source != api.FromLocal {
		a.res.Commit = told.Commit
	}
	a.res.Limits = append(a.res.Limits, told.Values...)
	for i := range a.res.Limits {
		a.res.Limits[i].RetryAfter = 0
	}
	a.res.Limits[out.Binding] = api.LimitValues{
		Remaining: max(0, out.Left), RetryAfter: microsUp(out.RetryAfter), ResetAfter: microsUp(out.ResetAfter),
	}
	return api.AppendResult(dst, &a.res)
}

// encodeTold is the encoding of a set in a reply.
func encodeTold(s *api.SetInfo, source uint8) []byte {
	info := *s
	info.Zone, info.Source = nil, source
	return api.AppendSetInfo(nil, &info)
}

// noteTold is [lease.Config.Note]: the set of decisions that a lease, or a soft
// bucket, makes.
func noteTold(t *lease.Told) any {
	source := api.FromLease
	if t.Set.Mode == api.Soft {
		source = api.FromSoft
	}
	return encodeTold(t.Set, source)
}

func microsUp(ns int64) uint64 { return (uint64(max(0, ns)) + 999) / 1000 }

// spendable tells the policies whose takes this node may spend from memory.
func spendable(s *policy.Set) bool {
	return s.Mode != api.Strict && s.Enforcement == api.Enforce
}

// special tells the sets that ask for more than a decision in the log.
func special(s *policy.Set) bool {
	return s != nil && (s.Mode != api.Strict || s.Unavailable != api.FailClosed || s.Hot != nil)
}

func isSoft(s *policy.Set) bool { return s.Mode == api.Soft }

func anySpecial(sets []*policy.Set) bool { return slices.ContainsFunc(sets, special) }
