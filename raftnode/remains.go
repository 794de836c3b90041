package raftnode

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// remains is what is left of one group in the folders that are looked at: in their
// files as they are, and in those that were set aside.
type remains struct {
	logs  []*strayLog
	snaps []straySnapshot
}

// straySnapshot is a snapshot that may be whole or not. Its name tells of what it is:
// its meta.json is not needed.
type straySnapshot struct {
	where string // for people
	state string // the file
	at    logPlace
}

// logPlace is a place in a group's log. Raft calls a log more up to date than another if
// its last entry is of a later term, or of the same and further on.
type logPlace struct{ term, index uint64 }

func (p logPlace) compare(q logPlace) int {
	return cmp.Or(cmp.Compare(p.term, q.term), cmp.Compare(p.index, q.index))
}

// gatherer collects what remains, by group. It only reads.
type gatherer struct {
	groups map[uint32]*remains
	open   []*os.File
	damage []string // of logs, in words
}

func (g *gatherer) close() {
	for _, f := range g.open {
		f.Close()
	}
}

func (g *gatherer) of(group uint32) *remains {
	if g.groups[group] == nil {
		g.groups[group] = &remains{}
	}
	return g.groups[group]
}

// folder looks at a node's data folder. What was set aside when a cluster was recovered
// into it is of another cluster: it holds a whole node.json, as nothing else does
// that is set aside.
func (g *gatherer) folder(root string) error {
	if err := g.place(root, root); err != nil {
		return err
	}
	aside, err := filepath.Glob(filepath.Join(root, asideFolder, "*"))
	if err != nil {
		return err
	}
	for _, dir := range aside {
		if b, err := os.ReadFile(filepath.Join(dir, "node.json")); err == nil {
			if _, err := decodeIdentity(b); err == nil {
				continue
			}
		}
		if err := g.place(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// place looks at a folder with the layout of a data folder.
func (g *gatherer) place(root, dir string) error {
	// More than one is there if a file was set aside twice.
	files, err := filepath.Glob(filepath.Join(dir, "logs.db*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		err := g.bolt(path, func(group uint32) uint32 { return group })
		if err != nil {
			return err
		}
	}
	groups, err := os.ReadDir(filepath.Join(dir, "groups"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range groups {
		name, _, _ := strings.Cut(e.Name(), ".")
		id, err := strconv.ParseUint(name, 10, 8)
		if err != nil || !e.IsDir() {
			continue
		}
		if err := g.group(filepath.Join(dir, "groups", e.Name()), uint32(id)); err != nil {
			return err
		}
	}
	return nil
}

// group looks at the folder of one group.
func (g *gatherer) group(dir string, id uint32) error {
	alone, err := filepath.Glob(filepath.Join(dir, "log.db*")) // see files.exportLog
	if err != nil {
		return err
	}
	for _, path := range alone {
		if err := g.bolt(path, func(uint32) uint32 { return id }); err != nil {
			return err
		}
	}
	segments := filepath.Join(dir, "wal")
	if _, err := os.Stat(segments); err == nil {
		log, err := walStrays(segments, segments, id, func(f *os.File) { g.open = append(g.open, f) })
		if err != nil {
			return err
		}
		g.add(id, log)
		if log.damage != nil {
			g.damage = append(g.damage, fmt.Sprintf("%s: %v", segments, log.damage))
		}
	}
	snaps, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range snaps {
		s := straySnapshot{where: filepath.Join(dir, "snapshots", e.Name())}
		if n, _ := fmt.Sscanf(e.Name(), "%d-%d-", &s.at.term, &s.at.index); n < 2 || strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		s.state = filepath.Join(s.where, "state.bin")
		g.of(id).snaps = append(g.of(id).snaps, s)
	}
	return nil
}

// bolt looks at a file of logs. named tells which group is meant by the one that the
// file names.
func (g *gatherer) bolt(path string, named func(uint32) uint32) error {
	if strings.HasSuffix(path, ".tmp") {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	g.open = append(g.open, f)
	logs, err := boltStrays(f, path)
	if err != nil {
		return err
	}
	for id, log := range logs {
		g.add(named(id), log)
	}
	if damage := boltDamage(logs); damage != nil {
		g.damage = append(g.damage, fmt.Sprintf("%s: %v", path, damage))
	}
	return nil
}

// boltDamage is what is wrong with a file, as each log in it says.
func boltDamage(logs map[uint32]*strayLog) error {
	for _, log := range logs {
		return log.damage
	}
	return errors.New("no log can be read in it")
}

func (g *gatherer) add(id uint32, log *strayLog) {
	if log.last > 0 {
		g.of(id).logs = append(g.of(id).logs, log)
	}
}

// chain is a snapshot, or nothing, with the entries that follow on it.
type chain struct {
	base *straySnapshot // nil is the beginning of the log
	runs []run
	end  logPlace
}

// run is entries of one log, from first to last.
type run struct {
	log         *strayLog
	first, last uint64
}

// chains lists all there are, the one that goes furthest first, and of those that go
// equally far the one with the newest snapshot.
func (r *remains) chains() []chain {
	all := []chain{r.chain(nil)}
	for i := range r.snaps {
		all = append(all, r.chain(&r.snaps[i]))
	}
	all = slices.DeleteFunc(all, func(c chain) bool { return c.base == nil && len(c.runs) == 0 })
	slices.SortStableFunc(all, func(a, b chain) int {
		return cmp.Or(b.end.compare(a.end), cmp.Compare(b.from(), a.from()))
	})
	return all
}

// from is the index of the snapshot.
func (c *chain) from() uint64 {
	if c.base == nil {
		return 0
	}
	return c.base.at.index
}

func (r *remains) chain(base *straySnapshot) chain {
	c := chain{base: base}
	switch first := func(log *strayLog) bool { return log.first == 1 }; {
	case base != nil:
		c.end = base.at
	case !slices.ContainsFunc(r.logs, first):
		// The first entry of a log is the group's first members, whatever is left of it.
		c.end = logPlace{term: 1, index: 1}
	}
	for {
		var best run
		var end logPlace
		for _, log := range r.logs {
			if !log.follows(c.end, len(c.runs) == 0) {
				continue
			}
			reach := log.reach(c.end)
			if reach.compare(end) > 0 {
				best, end = run{log, c.end.index + 1, reach.index}, reach
			}
		}
		if best.log == nil {
			return c
		}
		c.runs, c.end = append(c.runs, best), end
	}
}

// follows tells whether the log goes on from a place. By Raft's log matching it does if
// it has the same entry there. Behind a snapshot, whose entries were committed, it may
// also begin: that it was cut to there is because they were.
func (s *strayLog) follows(at logPlace, snapshot bool) bool {
	next, ok := s.entries[at.index+1]
	if !ok || next.term < at.term {
		return false
	}
	here, ok := s.entries[at.index]
	return ok && here.term == at.term || !ok && snapshot
}

// reach is how far entries follow each other from behind a place on. Terms never go
// back: an entry of an earlier one was cut off.
func (s *strayLog) reach(at logPlace) logPlace {
	for {
		next, ok := s.entries[at.index+1]
		if !ok || next.term < at.term {
			return at
		}
		at = logPlace{next.term, at.index + 1}
	}
}

// beyond is the last index that is there behind an end, and that may follow on it; 0 if
// there is none. What is of an earlier term was cut off.
func (r *remains) beyond(end logPlace) (last uint64) {
	for _, log := range r.logs {
		for index, e := range log.entries {
			if index > end.index && e.term >= end.term {
				last = max(last, index)
			}
		}
	}
	for _, s := range r.snaps {
		if s.at.index > end.index && s.at.term >= end.term {
			last = max(last, s.at.index)
		}
	}
	return last
}

// furthest is the place of the last entry or snapshot that is there, whether or not
// anything leads to it.
func (r *remains) furthest() (p logPlace) {
	for _, log := range r.logs {
		p.index, p.term = max(p.index, log.last), max(p.term, log.entries[log.last].term)
	}
	for _, s := range r.snaps {
		p.index, p.term = max(p.index, s.at.index), max(p.term, s.at.term)
	}
	return p
}
