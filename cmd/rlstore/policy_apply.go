package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

func newPolicyApply(a *app) *cobra.Command {
	var file string
	var o editOptions
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or replace the policies of a file; - is standard input",
		Long: `apply reads a file of one or more policies, YAML or JSON, with "---" between
documents. It checks all of them before it sends the first; then it sends one after
the other and stops at the first that fails.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("apply needs -f FILE")
			}
			return runPolicyApply(cmd, a, &o, file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` of policies")
	o.register(cmd)
	return cmd
}

func runPolicyApply(cmd *cobra.Command, a *app, o *editOptions, file string) error {
	text, err := a.readFile(file)
	if err != nil {
		return err
	}
	docs, errs := policy.ParseAll(text)
	if len(errs) > 0 {
		a.explain(file, errs)
		return errors.New("nothing was applied: the file is not valid")
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	applied := []api.Policy{}
	for _, d := range docs {
		p, perr := c.PutPolicy(cmd.Context(), d.Policy, o.options()...)
		if perr != nil {
			err = &about{"policy " + d.Policy.Name, perr}
			break
		}
		applied = append(applied, p)
	}
	answer := map[string]any{"policies": applied}
	return errors.Join(err, a.print(answer, func(w io.Writer) {
		if len(applied) > 0 {
			writePolicies(w, applied)
		}
	}))
}
