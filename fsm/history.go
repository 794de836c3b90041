package fsm

import (
	"cmp"
	"slices"

	"github.com/rlstore/rlstore/api"
)

const (
	// MaxRevisions is how many documents of a policy are remembered, and how many
	// changes of its overrides.
	MaxRevisions = 20
	// MaxPastLimits bounds the limits in the documents of one policy that are
	// remembered beside the newest: fewer documents where they are long.
	MaxPastLimits = 64
)

// Note is what a command tells about itself, for people; it decides nothing.
type Note struct {
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
	At     string `json:"at,omitempty"` // wall clock of who proposes, RFC 3339
}

func (n *Note) check() error {
	for _, f := range []struct{ what, text string }{{"author", n.Author}, {"reason", n.Reason}, {"time", n.At}} {
		if err := api.CheckNote(f.what, f.text); err != nil {
			return err
		}
	}
	return nil
}

// history is what a policy was lately. It is immutable: an edit makes a new one.
type history struct {
	documents []*api.PolicyRevision // oldest first; the last is the present document
	overrides []*api.PolicyRevision // changes of the overrides, oldest first
}

// with returns h and one more change.
func (h history) with(r *api.PolicyRevision) history {
	if r.Document == nil {
		h.overrides = append(slices.Clone(h.overrides), r)
		h.overrides = h.overrides[max(0, len(h.overrides)-MaxRevisions):]
		return h
	}
	docs := append(slices.Clone(h.documents), r)
	past, first := 0, len(docs)-1
	for first > 0 && len(docs)-first < MaxRevisions {
		if past += len(docs[first-1].Document.Limits); past > MaxPastLimits {
			break
		}
		first--
	}
	h.documents = docs[first:]
	return h
}

// list returns all changes, the newest first.
func (h history) list() []api.PolicyRevision {
	list := []api.PolicyRevision{}
	for _, r := range slices.Concat(h.documents, h.overrides) {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b api.PolicyRevision) int { return cmp.Compare(b.Revision, a.Revision) })
	return list
}

// at returns the document that was in force at a revision, or nil if that is not
// remembered, or the policy never had that revision.
func (h history) at(revision uint64) *api.Policy {
	if len(h.documents) == 0 || revision < h.documents[0].Revision {
		return nil
	}
	var doc *api.Policy
	known := false
	for _, r := range h.documents {
		if r.Revision <= revision {
			doc, known = r.Document, r.Revision == revision
		}
	}
	for _, r := range h.overrides {
		known = known || r.Revision == revision
	}
	if !known {
		return nil
	}
	return doc
}
