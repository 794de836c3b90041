package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/server"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell this program's version",
		Args:  between(0, 0),
		RunE:  func(*cobra.Command, []string) error { return runVersion(a) },
	}
}

func runVersion(a *app) error {
	v := server.Version()
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "rlstore %s, %s", v.Version, v.GoVersion)
		if v.Revision != "" {
			fmt.Fprintf(w, ", revision %s", v.Revision)
		}
		fmt.Fprintln(w)
	})
}
