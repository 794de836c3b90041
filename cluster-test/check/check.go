// Package check says whether a history of what callers saw can be the work of
// a correct rlstore.
package check
