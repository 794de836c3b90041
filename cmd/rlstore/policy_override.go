package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/policy"
)

// editOptions are the flags of every verb that edits the catalog.
type editOptions struct{ author, reason string }

func (o *editOptions) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.author, "author", "", "`name` of who edits, for the history")
	cmd.Flags().StringVar(&o.reason, "reason", "", "`text` on why, for the history")
}

// options are the flags for the client.
func (o *editOptions) options() []client.PolicyOption {
	return []client.PolicyOption{client.Author(o.author), client.Reason(o.reason)}
}

// overrideSet is what policy override set was asked for.
type overrideSet struct {
	editOptions
	file   string
	limits []string
	ttl    string
}

func newOverrideSet(a *app) *cobra.Command {
	var o overrideSet
	cmd := &cobra.Command{
		Use:   "set POLICY [KEY]",
		Short: "Give a key, or the keys of a pattern, limits of their own",
		Long: `Give a key limits of its own, in place of all those of its policy. KEY may be a
pattern, a prefix and one '*' at the end; the longest match decides, and a key
before any pattern. Each --limit is like name=burst,rate=100,per=1s,burst=200.

With -f, KEY and limits come from a file of documents with the fields key, limits,
reason and ttl, with "---" between them.`,
		Args: between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return runOverrideSet(cmd, a, &o, args) },
	}
	o.register(cmd)
	cmd.Flags().StringArrayVar(&o.limits, "limit", nil, "one `limit`; may be repeated")
	cmd.Flags().StringVar(&o.ttl, "ttl", "", "remove it after this `duration`; never without it")
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "`file` of overrides; - is standard input")
	return cmd
}

// overrides reads what is to be set from the file or from the command line.
func (o *overrideSet) overrides(a *app, args []string) ([]api.Override, error) {
	if o.file != "" {
		if len(args) > 1 || len(o.limits) > 0 || o.ttl != "" {
			return nil, usagef("-f brings KEY, limits and ttl along; leave them out")
		}
		text, err := a.readFile(o.file)
		if err != nil {
			return nil, err
		}
		list, errs := policy.ParseOverrides(text)
		if len(errs) > 0 {
			a.explain(o.file, errs)
			return nil, errors.New("nothing was set: the file is not valid")
		}
		return list, nil
	}
	if len(args) < 2 || len(o.limits) == 0 {
		return nil, usagef("set needs KEY and at least one --limit, or -f FILE")
	}
	// The rules are those of documents, and so are the words about what is wrong.
	doc := &strings.Builder{}
	fmt.Fprintf(doc, "{key: %s, limits: [", yamlText(args[1]))
	for i, l := range o.limits {
		if i > 0 {
			doc.WriteString(", ")
		}
		doc.WriteString("{")
		for j, field := range strings.Split(l, ",") {
			name, value, ok := strings.Cut(field, "=")
			if !ok {
				return nil, usagef("--limit %q: %q is not name=value", l, field)
			}
			if j > 0 {
				doc.WriteString(", ")
			}
			fmt.Fprintf(doc, "%s: %s", yamlText(name), yamlScalar(value))
		}
		doc.WriteString("}")
	}
	doc.WriteString("]")
	if o.reason != "" {
		fmt.Fprintf(doc, ", reason: %s", yamlText(o.reason))
	}
	if o.ttl != "" {
		fmt.Fprintf(doc, ", ttl: %s", yamlText(o.ttl))
	}
	doc.WriteString("}")
	one, errs := policy.ParseOverride([]byte(doc.String()))
	if len(errs) > 0 {
		var text []string
		for _, e := range errs {
			text = append(text, e.Path+": "+e.Message)
		}
		return nil, usagef("%s", strings.Join(text, "\n"))
	}
	return []api.Override{one}, nil
}

// yamlText quotes text for a document.
func yamlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// yamlScalar leaves a number as it is.
func yamlScalar(s string) string {
	if s != "" && strings.Trim(s, "0123456789") == "" {
		return s
	}
	return yamlText(s)
}

func runOverrideSet(cmd *cobra.Command, a *app, o *overrideSet, args []string) error {
	list, err := o.overrides(a, args)
	if err != nil {
		return err
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	stored := []api.Override{}
	for _, one := range list {
		s, perr := c.PutOverride(cmd.Context(), args[0], one, o.options()...)
		if perr != nil {
			err = &about{"the override of " + one.Key, perr}
			break
		}
		stored = append(stored, s)
	}
	return errors.Join(err, a.print(map[string]any{"overrides": stored}, func(w io.Writer) {
		if len(stored) > 0 {
			writeOverrides(w, stored)
		}
	}))
}

func newOverrideList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list POLICY",
		Short: "List the overrides of a policy",
		Args:  between(1, 1),
		RunE:  func(cmd *cobra.Command, args []string) error { return runOverrideList(cmd, a, args[0]) },
	}
}

func runOverrideList(cmd *cobra.Command, a *app, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Overrides(cmd.Context(), name)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"policy": name, "overrides": list}, func(w io.Writer) { writeOverrides(w, list) })
}

func writeOverrides(w io.Writer, list []api.Override) {
	row(w, "KEY", "LIMITS", "EXPIRES IN", "AUTHOR", "REASON")
	for _, o := range list {
		expires := "never"
		if o.ExpiresInMS > 0 {
			expires = span(o.ExpiresInMS).String()
		}
		row(w, o.Key, limitsText(o.Limits), expires, o.Author, o.Reason)
	}
}

func newOverrideRemove(a *app) *cobra.Command {
	var o editOptions
	cmd := &cobra.Command{
		Use:   "rm POLICY KEY",
		Short: "Remove the override of a key or a pattern",
		Args:  between(2, 2),
		RunE:  func(cmd *cobra.Command, args []string) error { return runOverrideRemove(cmd, a, &o, args[0], args[1]) },
	}
	o.register(cmd)
	return cmd
}

func runOverrideRemove(cmd *cobra.Command, a *app, o *editOptions, name, key string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.DeleteOverride(cmd.Context(), name, key, o.options()...); err != nil {
		return err
	}
	return a.print(map[string]any{"policy": name, "removed": key}, func(w io.Writer) {
		fmt.Fprintf(w, "the override of %s in policy %s is removed\n", key, name)
	})
}
