package main

import (
	"encoding/json"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

func newPolicyGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME",
		Short: "Show one policy as a document that 'policy apply' accepts",
		Args:  between(1, 1),
		RunE:  func(cmd *cobra.Command, args []string) error { return runPolicyGet(cmd, a, args[0]) },
	}
}

func runPolicyGet(cmd *cobra.Command, a *app, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := c.Policy(cmd.Context(), name)
	if err != nil {
		return err
	}
	if a.json() {
		return a.print(p, nil)
	}
	doc, err := policyYAML(p)
	if err != nil {
		return err
	}
	_, err = a.out.Write(doc)
	return err
}

// policyYAML writes a policy as people do: a line a field, and a line a limit.
// The fields and their order are those of the JSON form.
func policyYAML(p api.Policy) ([]byte, error) {
	p.ZoneRules = nil // for machines
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil { // JSON is YAML
		return nil, err
	}
	block(doc.Content[0], 0)
	return yaml.Marshal(&doc)
}

// block gives a node and those below it YAML's own looks, and mappings inside
// lists one line each.
func block(n *yaml.Node, depth int) {
	n.Style = 0
	if n.Kind == yaml.MappingNode && depth > 1 {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		block(c, depth+1)
	}
}
