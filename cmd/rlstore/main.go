// Command rlstore runs nodes of a rate-limit store, and talks to them. Each verb
// is a file; what the verbs do is in the packages below.
package main

import "os"

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv}
	os.Exit(a.run(os.Args[1:]))
}
