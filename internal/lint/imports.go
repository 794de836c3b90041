package lint

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// place is where a folder stands in the house. It covers the folders below it
// too, unless they have a place of their own.
type place struct {
	dir   string
	floor int      // imports go to lower floors only
	only  []string // of lower floors, these; nil is all of them
	std   bool     // beside them the standard library only
}

// house is every folder's place, top to bottom. Folders under internal/ stand
// beside the house: they import none of it, and those of it that are not std
// may import them.
var house = []place{
	{dir: "cluster-test", floor: 7},
	{dir: "bench", floor: 7},
	{dir: "examples", floor: 7},
	{dir: "cmd", floor: 6, only: []string{"server", "bench/load", "client", "policy", "api"}},
	// Applications' tests run the client against the true API and machines.
	{dir: "client/rltest", floor: 6, only: []string{"server", "httpapi", "limiter", "fsm", "client", "policy", "api"}},
	{dir: "server", floor: 5},
	{dir: "bench/load", floor: 5, only: []string{"client", "api"}},
	{dir: "httpapi", floor: 4, only: []string{"limiter", "policy", "api"}},
	{dir: "raftnode", floor: 4, only: []string{"fsm", "policy", "snapshot", "api"}},
	{dir: "client/rlgrpc", floor: 4, only: []string{"client", "api"}}, // not std: grpc is for its importers only
	{dir: "limiter", floor: 3},
	{dir: "fsm", floor: 3},
	{dir: "client", floor: 3, only: []string{"api", "lease"}, std: true},
	{dir: "policy", floor: 2},
	{dir: "lease", floor: 2, std: true},
	{dir: "snapshot", floor: 1},
	{dir: "api", floor: 1, std: true},
	{dir: ".", floor: 0, std: true}, // openapi.yaml, as bytes
}

// placeOf finds the place of a folder: the longest match.
func placeOf(dir string) (place, bool) {
	var best place
	for _, p := range house {
		if (dir == p.dir || strings.HasPrefix(dir, p.dir+"/")) && len(p.dir) > len(best.dir) {
			best = p
		}
	}
	return best, best.dir != ""
}

// upward finds imports that do not point down the house. Tests may import what
// they need.
func upward(t *tree) (found []string) {
	for _, p := range t.pkgs {
		from, placed := placeOf(p.dir)
		internal := strings.HasPrefix(p.dir, "internal/")
		if !placed && !internal {
			pos := slices.Concat(p.files, p.tests)[0].Package
			found = append(found, t.finding(pos, "%s has no floor: give it one in the table house of internal/lint/imports.go", p.dir))
			continue
		}
		for _, f := range p.files {
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					continue // the compiler's to refuse
				}
				why := refusal(p.dir, from, internal, path)
				if why != "" {
					found = append(found, t.finding(spec.Pos(), "%s imports %s: %s", p.dir, path, why))
				}
			}
		}
	}
	return found
}

// refusal says why a folder may not import path, or returns "".
func refusal(dir string, from place, internal bool, path string) string {
	to, ours := strings.CutPrefix(path, module+"/")
	switch {
	case !ours:
		first, _, _ := strings.Cut(path, "/")
		if from.std && strings.Contains(first, ".") {
			return "it costs every importer a dependency; use the standard library, or do it in a package above"
		}
		return ""
	case internal:
		return "packages under internal/ stand on their own; hand the need in as a value or an interface"
	case strings.HasPrefix(to, "internal/"):
		if from.std {
			return "it is to import the standard library and what is below it only"
		}
		return ""
	}
	target, placed := placeOf(to)
	switch {
	case !placed:
		return "that folder has no floor: give it one in the table house of internal/lint/imports.go"
	case target.dir == from.dir:
		return ""
	case target.floor >= from.floor:
		return "imports point down only; declare the small interface you need here, and let " +
			cmp.Or(above(from, target), "a package above") + " join the two"
	case from.only != nil && !slices.Contains(from.only, target.dir):
		return "of what is below, it may know only " + strings.Join(from.only, ", ") +
			"; declare the small interface you need, and let server join the two"
	}
	return ""
}

// above names the lowest package above both, which is where they are joined.
func above(a, b place) string {
	for _, p := range slices.Backward(house) {
		if p.floor > max(a.floor, b.floor) && p.only == nil {
			return p.dir
		}
	}
	return ""
}
