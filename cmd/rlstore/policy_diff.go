package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/policy"
)

// errDiffers ends a diff that found something; it is printed already.
var errDiffers = errors.New("differs")

func newPolicyDiff(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what 'policy apply' would change, field by field",
		Long: `diff compares a file of policies, as 'policy apply' takes it, with the catalog,
and changes nothing. Exit codes are those of diff: 0 nothing would change, 1
something would; 2 the file is wrong.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("diff needs -f FILE")
			}
			return runPolicyDiff(cmd, a, file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` of policies")
	return cmd
}

// policyDiff is what would change of one policy.
type policyDiff struct {
	Policy  string        `json:"policy"`
	Created bool          `json:"created,omitempty"` // there is no such policy yet
	Changes []fieldChange `json:"changes"`
}

// fieldChange is one field; what is not there is null.
type fieldChange struct {
	Path string `json:"path"`
	Old  any    `json:"old"`
	New  any    `json:"new"`
}

func runPolicyDiff(cmd *cobra.Command, a *app, file string) error {
	text, err := a.readFile(file)
	if err != nil {
		return &usageError{err}
	}
	docs, errs := policy.ParseAll(text)
	if len(errs) > 0 {
		a.explain(file, errs)
		return usagef("the file is not valid")
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	diffs := []policyDiff{}
	differs := false
	for _, d := range docs {
		old, err := c.Policy(cmd.Context(), d.Policy.Name)
		if err != nil && !errors.Is(err, client.ErrUnknownPolicy) {
			return &about{"policy " + d.Policy.Name, err}
		}
		one := policyDiff{Policy: d.Policy.Name, Created: err != nil, Changes: changes(old, d.Policy)}
		differs = differs || len(one.Changes) > 0
		diffs = append(diffs, one)
	}
	err = a.print(map[string]any{"policies": diffs}, func(w io.Writer) {
		for _, d := range diffs {
			writeDiff(w, d)
		}
	})
	if differs {
		err = cmp.Or(err, errDiffers)
	}
	return err
}

func writeDiff(w io.Writer, d policyDiff) {
	switch {
	case d.Created:
		fmt.Fprintf(w, "policy %s is new\n", d.Policy)
	case len(d.Changes) == 0:
		fmt.Fprintf(w, "policy %s stays as it is\n", d.Policy)
		return
	default:
		fmt.Fprintf(w, "policy %s\n", d.Policy)
	}
	for _, c := range d.Changes {
		switch {
		case c.Old == nil:
			fmt.Fprintf(w, "+ %s: %v\n", c.Path, c.New)
		case c.New == nil:
			fmt.Fprintf(w, "- %s: %v\n", c.Path, c.Old)
		default:
			fmt.Fprintf(w, "~ %s: %v -> %v\n", c.Path, c.Old, c.New)
		}
	}
}

// changes lists the fields in which two documents differ. Limits are compared by
// their names, as an edit does with buckets.
func changes(old, new api.Policy) []fieldChange {
	old.Revision, new.Revision = 0, 0
	was, is := fields(old), fields(new)
	list := []fieldChange{}
	for _, path := range slices.Sorted(maps.Keys(merged(was, is))) {
		if was[path] != is[path] {
			list = append(list, fieldChange{path, was[path], is[path]})
		}
	}
	return list
}

func merged(a, b map[string]any) map[string]any {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// fields is a document flat: "limits[burst].rate" and so on. A policy without
// limits is none, and has no fields.
func fields(p api.Policy) map[string]any {
	flat := map[string]any{}
	if p.Limits == nil {
		return flat
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // documents are text and numbers
	}
	var doc map[string]any
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		panic(err)
	}
	delete(doc, "name")
	delete(doc, "time_zone_rules") // the server's
	for field, v := range doc {
		list, ok := v.([]any)
		switch {
		case !ok:
			flat[field] = v
			continue
		case field != "limits":
			flat[field] = fmt.Sprintf("%q", list)
			continue
		}
		for _, l := range list {
			limit := l.(map[string]any)
			for part, v := range limit {
				if part != "name" {
					flat[fmt.Sprintf("%s[%v].%s", field, limit["name"], part)] = v
				}
			}
		}
	}
	return flat
}
