// Package api is the contract of rlstore in Go: the wire types of the HTTP
// API, its routes, its problem codes, the slot function, and the compact
// binary batch that the Go client and the nodes speak.
//
// It imports the standard library only, so that a client costs its user no
// other dependency. Everything here is promised stable: a field or a code is
// added, never renamed, and a change of a binary layout raises its version.
//
// Three outcomes are kept apart everywhere and never blurred:
//
//  1. done: the answer is a decision;
//  2. not applied: an error whose [Problem.Outcome] is [NotApplied]; nothing
//     was charged, and a retry is safe;
//  3. unknown: an error whose outcome is [Unknown]; it may have been charged,
//     and a retry is safe only under the same request id or session sequence.
package api
