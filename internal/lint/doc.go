// Package lint holds the rules of this source tree that no general tool knows:
// imports point down only, the state machines are deterministic, and every
// package says what it is for. Its tests run them over the tree.
//
// A finding is one line, "file:line: what is wrong: what to do".
package lint
