package raftnode

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/snapshot"
)

// How a cluster is recovered that has lost its majority for good: from the data folder
// of one node, offline, a new cluster is made of which that node is the only member.
// Nothing else may do that, since it gives up what only the other nodes had; so it is
// an operator's decision, and docs/repair.md tells what it costs.
//
//  1. For each group the snapshot and the entries are looked for that lead furthest
//     (remains.go), in the files as they are and in those that were set aside.
//     What is damaged of a snapshot is left out, record by record.
//  2. All entries that can be reached are applied, also those of which this node did
//     not know that they were committed.
//  3. The states are written as snapshots into recovery.tmp/new, with the node alone
//     as their members, beside a node.json with a new cluster id. Nodes of the old
//     cluster refuse this one from then on, and it refuses them.
//  4. recovery.tmp is renamed to recovery: from here on it happens, whoever calls.
//     The old files go to recovery/old and the new ones to their places, node.json
//     last; then recovery/old becomes damaged/<time>.
//
// A crash before 4 has changed nothing; after it, a node refuses to start from the
// folder, and the next call goes on.
const (
	recoveryFolder  = "recovery"
	recoveryStaging = "recovery.tmp"
	recoveryReport  = "report.json"
)

// RecoverOptions say what to recover.
type RecoverOptions struct {
	DataDir string   // of the node that is to go on, which must be stopped
	From    []string // data folders of other nodes of its cluster, to read only
	Write   bool     // do it; else only look, and change nothing

	step func(what string) error // seam: called before each step that changes something
}

// Recovery tells what was found, and what became of it.
type Recovery struct {
	DataDir   string   `json:"data_dir"`
	NodeID    string   `json:"node_id"`
	ClusterID string   `json:"cluster_id"`        // of the old cluster
	Members   []string `json:"members,omitempty"` // of the old cluster, this node among them
	// Damaged names each file that is not as it was written, and says why.
	Damaged []string         `json:"damaged,omitempty"`
	Groups  []RecoveredGroup `json:"groups"` // the catalog first

	// MayBeMissing says in a sentence what this folder can't know of.
	MayBeMissing string `json:"may_be_missing"`
	// NewClusterID is that of the cluster that was made; "" if nothing was written.
	NewClusterID string `json:"new_cluster_id,omitempty"`
	// Aside is where the files are that the folder had.
	Aside string `json:"aside,omitempty"`
	// CutOff says that an earlier recovery of this folder was cut off. This one has
	// finished it, if it writes.
	CutOff bool `json:"cut_off,omitempty"`
}

// RecoveredGroup is what was found of one group.
type RecoveredGroup struct {
	Shard uint32 `json:"shard"` // 0 is the catalog
	// Lost says that nothing leads to a state of this group: it begins anew.
	Lost bool `json:"lost,omitempty"`

	Snapshot      string   `json:"snapshot,omitempty"` // its folder; "" if the log begins at its beginning
	SnapshotIndex uint64   `json:"snapshot_index,omitempty"`
	Logs          []string `json:"logs,omitempty"` // where the entries behind it are from
	// Index and Term are of the last entry that was reached, and Time is when it was
	// appended, the zero time if that is not known.
	Index uint64    `json:"index"`
	Term  uint64    `json:"term"`
	Time  time.Time `json:"time,omitzero"`
	// Beyond is the last entry that the folders have, in a log or in a snapshot, behind
	// one that can't be read; 0 if there is none. Those from behind Index on are not used.
	Beyond uint64 `json:"beyond,omitempty"`

	Buckets  int        `json:"buckets,omitempty"`
	Policies int        `json:"policies,omitempty"`
	Losses   fsm.Losses `json:"losses,omitzero"` // of a damaged snapshot
}

const mayBeMissing = "takes that were confirmed, and changes of policies, of which only other nodes had the entries: all behind the end of each shard. How many that are can't be told from here"

// Whole says whether all is there that the folder ever had, as far as it can tell.
func (g *RecoveredGroup) Whole() bool { return !g.Lost && g.Beyond == 0 && !g.Losses.Any() }

// Recover makes the folder of a new cluster of one node out of that of an old cluster,
// or tells what would come of it. It fails if nothing can be recovered.
func Recover(o RecoverOptions) (_ *Recovery, err error) {
	cut := false // as a crash does, which cleans nothing up
	step := o.step
	o.step = func(what string) (err error) {
		if step != nil {
			err = step(what)
		}
		cut = cut || err != nil
		return err
	}
	own, err := os.Stat(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("read the data folder: %w", err)
	}
	for _, dir := range o.From {
		if other, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("read the data folder: %w", err)
		} else if os.SameFile(own, other) {
			return nil, fmt.Errorf("%s is the data folder itself; name those of other nodes", dir)
		}
	}
	for _, dir := range append([]string{o.DataDir}, o.From...) {
		lock, err := lockStopped(dir, o.Write && dir == o.DataDir)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			defer lock.Close()
		}
	}
	if o.Write {
		if err := ownFolder(o.DataDir); err != nil {
			return nil, err
		}
	}
	f := finisher{root: o.DataDir, step: o.step}
	if f.pending() {
		return f.resume(o.Write)
	}
	r := recoverer{options: o, found: gatherer{groups: map[uint32]*remains{}}}
	defer r.found.close()
	if err := r.gather(); err != nil {
		return nil, err
	}
	if o.Write {
		defer func() {
			if err != nil && r.staged != nil {
				_ = r.staged.Close()
			}
			if err != nil && !cut {
				_ = os.RemoveAll(filepath.Join(o.DataDir, recoveryStaging))
			}
		}()
		if err := r.stage(); err != nil {
			return nil, unchanged(err)
		}
	}
	if err := r.groups(); err != nil {
		return nil, err
	}
	if !o.Write {
		return &r.report, nil
	}
	if err := r.commit(); err != nil {
		return nil, unchanged(err)
	}
	if r.report.Aside, err = f.finish(); err != nil {
		return nil, err
	}
	return &r.report, nil
}

// unchanged is of what goes wrong as the new files are written.
func unchanged(err error) error {
	return fmt.Errorf("write the new files: %w; nothing was changed: see to the disk, and repeat the command", err)
}

// recoverer is one recovery.
type recoverer struct {
	options  RecoverOptions
	identity identity // of the node as it was
	found    gatherer
	report   Recovery
	catalog  *fsm.Catalog
	slots    api.SlotMap
	revision uint64 // the newest of a policy that a shard knows of
	staged   Disk   // nil if nothing is to be written
}

// gather finds out whose folder it is, and what remains there and in the others.
func (r *recoverer) gather() error {
	o := &r.options
	var err error
	if r.identity, err = peekIdentity(o.DataDir); err != nil {
		return err
	}
	id := &r.identity
	if id.ClusterID == "" {
		return fmt.Errorf("the data folder %s belongs to no cluster yet, so there is nothing to recover", o.DataDir)
	}
	for _, dir := range o.From {
		other, err := peekIdentity(dir)
		switch {
		case err != nil:
			return err
		case other.ClusterID != id.ClusterID:
			return fmt.Errorf("the data folder %s is of cluster %s, and %s of %s; name folders of one cluster only", dir, cmp.Or(other.ClusterID, "none"), o.DataDir, id.ClusterID)
		}
	}
	for _, dir := range append([]string{o.DataDir}, o.From...) {
		if err := r.found.folder(dir); err != nil {
			return unreadable("the data folder "+dir, err)
		}
	}
	r.report = Recovery{DataDir: o.DataDir, NodeID: id.NodeID, ClusterID: id.ClusterID, Damaged: r.found.damage, MayBeMissing: mayBeMissing}
	for _, m := range id.Members {
		r.report.Members = append(r.report.Members, m.ID)
	}
	return nil
}

// unreadable is of what may be whole, if only it could be read.
func unreadable(what string, err error) error {
	return fmt.Errorf("read %s: %w; if the disk can't be read, copy what can be to another one first", what, err)
}

// peekIdentity reads node.json, or its spare, and changes nothing.
func peekIdentity(root string) (identity, error) {
	var first error
	for _, name := range []string{"node.json", "node.spare.json"} {
		path := filepath.Join(root, name)
		b, err := os.ReadFile(path)
		if err == nil {
			var id identity
			if id, err = decodeIdentity(b); err == nil {
				return id, nil
			}
			err = fmt.Errorf("%s: %w", path, err)
		}
		var format formatError
		switch {
		case errors.As(err, &format):
			return identity{}, fmt.Errorf("the data folder %s has format %d, and this version reads format %d only; use the rlstore version that wrote it", root, format, dataFormat)
		case first == nil:
			first = err
		}
	}
	return identity{}, fmt.Errorf("whose data folder %s is can't be read: %w; if another node's folder is left, recover that one, and name no --from without a node.json", root, first)
}

// groups recovers them one after the other, and the catalog at last: its revision
// depends on the shards.
func (r *recoverer) groups() error {
	if err := r.first(); err != nil {
		return err
	}
	lost := 0
	for id := uint32(1); id <= uint32(r.identity.Shards); id++ {
		b, err := r.build(id)
		if err != nil {
			return err
		}
		r.revision = max(r.revision, b.buckets.Revision())
		if err := r.keep(b); err != nil {
			return err
		}
		if b.told.Lost {
			lost++
		}
	}
	if r.report.Groups[0].Lost && lost == r.identity.Shards {
		return fmt.Errorf("nothing can be recovered from %s: neither a snapshot nor the beginning of a log can be read of any shard; start all nodes with empty folders, or put a backup of a whole folder in its place", r.options.DataDir)
	}
	return r.last()
}

// first builds the catalog, whose slot map the shards need.
func (r *recoverer) first() error {
	r.slots = api.EvenSlotMap(uint32(r.identity.Shards))
	b, err := r.build(0)
	if err != nil {
		return err
	}
	r.catalog = b.catalog
	if m := r.catalog.View().SlotMap; m.Version > 0 {
		r.slots = m
	}
	r.report.Groups = append(r.report.Groups, b.told)
	return nil
}

// last writes the catalog.
func (r *recoverer) last() error {
	if r.staged == nil {
		return nil
	}
	if err := r.catalog.Refound(r.report.NewClusterID, r.slots, r.revision, r.identity.NodeID); err != nil {
		return err
	}
	return r.write(r.report.Groups[0], r.catalog.Capture())
}

// keep takes a shard into the report, and writes it.
func (r *recoverer) keep(b *built) error {
	r.report.Groups = append(r.report.Groups, b.told)
	if r.staged == nil {
		return nil
	}
	return r.write(b.told, b.buckets.Capture())
}

// built is a group whose state could be found again.
type built struct {
	told    RecoveredGroup
	catalog *fsm.Catalog // of group 0
	buckets *fsm.Buckets // of a shard
}

func newBuilt(id uint32) *built {
	b := &built{told: RecoveredGroup{Shard: id}}
	if id == 0 {
		b.catalog = fsm.NewCatalog()
	} else {
		b.buckets = fsm.NewBuckets(id)
	}
	return b
}

// build finds the state of a group that goes furthest. Of those that go equally far
// a whole snapshot is better than a damaged one; and one of which most is gone gives
// way to an older whole one.
func (r *recoverer) build(id uint32) (*built, error) {
	remains := r.found.of(id)
	chains := remains.chains()
	var poor *built
	for from, to := 0, 0; from < len(chains); from = to {
		for to = from; to < len(chains) && chains[to].end == chains[from].end; to++ {
		}
		for _, strict := range []bool{true, false} {
			for _, c := range chains[from:to] {
				if c.base == nil && !strict {
					continue
				}
				b, err := r.load(id, c, strict)
				switch {
				case errors.Is(err, ErrDamaged):
					if strict {
						r.report.Damaged = append(r.report.Damaged, fmt.Sprintf("%s: %v", c.base.where, err))
					}
				case err != nil:
					return nil, err
				case strict || b.mostly():
					return r.tell(b, remains), nil
				case poor == nil:
					poor = b
				}
			}
		}
	}
	if poor != nil {
		return r.tell(poor, remains), nil
	}
	return r.begin(id, remains)
}

// mostly tells whether at least half of a damaged snapshot is there.
func (b *built) mostly() bool {
	l := b.told.Losses
	if b.catalog != nil {
		return l.Policies <= len(b.catalog.View().Policies)
	}
	return l.Buckets <= b.buckets.Stats().Buckets && (!l.Uncounted || b.buckets.Stats().Buckets > 0)
}

// tell completes what is told of a group.
func (r *recoverer) tell(b *built, remains *remains) *built {
	b.told.Beyond = remains.beyond(logPlace{b.told.Term, b.told.Index})
	if b.catalog != nil {
		b.told.Policies = len(b.catalog.View().Policies)
	} else {
		b.told.Buckets = b.buckets.Stats().Buckets
	}
	return b
}

// begin is a group of which nothing leads to a state: a new one, which goes on behind
// what can be read, so that no place of the log comes twice.
func (r *recoverer) begin(id uint32, remains *remains) (*built, error) {
	b := newBuilt(id)
	last := remains.furthest()
	b.told.Lost = true
	b.told.Index, b.told.Term = max(1, last.index), max(1, last.term)
	if id == 0 {
		return b, nil
	}
	stamp := uint64(0)
	for _, log := range remains.logs {
		for index := range log.entries {
			l, err := log.read(index)
			if err != nil {
				return nil, err
			}
			if s, ok := fsm.EntryStamp(l.Data); ok && l.Type == raft.LogCommand {
				stamp = max(stamp, s)
			}
		}
	}
	_, err := b.buckets.Apply(b.told.Index, fsm.EncodeOwn(stamp, r.slots.Version, ownedBy(r.slots, id)))
	return b, err
}

// load restores the snapshot that a chain begins with, and applies its entries. If it
// is strict, the snapshot has to be whole. An error is of damage, or nothing helps.
func (r *recoverer) load(id uint32, c chain, strict bool) (*built, error) {
	b := newBuilt(id)
	b.told.Index, b.told.Term = c.end.index, c.end.term
	if c.base != nil {
		b.told.Snapshot, b.told.SnapshotIndex = c.base.where, c.base.at.index
		var err error
		if strict {
			err = b.restore(c.base.state)
		} else {
			err = b.salvage(c.base.state, r.slots)
		}
		switch {
		case errors.Is(err, snapshot.ErrVersion):
			return nil, fmt.Errorf("%s: %w; use the rlstore version that wrote it", c.base.where, err)
		case err != nil:
			if err = asDamage(err); !errors.Is(err, ErrDamaged) {
				err = unreadable(c.base.where, err)
			}
			return nil, err
		}
	}
	for _, run := range c.runs {
		b.told.Logs = append(b.told.Logs, run.log.where)
		for index := run.first; index <= run.last; index++ {
			l, err := run.log.read(index)
			if err != nil {
				return nil, unreadable(run.log.where, err)
			}
			b.told.Time = l.AppendedAt.UTC()
			if l.Type != raft.LogCommand {
				continue
			}
			if err := b.apply(l); err != nil {
				return nil, fmt.Errorf("%s holds an entry that can't be applied: %w; use the newest rlstore version that a node of this cluster ran", run.log.where, err)
			}
		}
	}
	return b, nil
}

func (b *built) apply(l *raft.Log) (err error) {
	if b.catalog != nil {
		_, err = b.catalog.Apply(l.Index, l.Data)
	} else {
		_, err = b.buckets.Apply(l.Index, l.Data)
	}
	return err
}

func (b *built) restore(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if b.catalog != nil {
		return b.catalog.Restore(f)
	}
	return b.buckets.Restore(f)
}

func (b *built) salvage(path string, slots api.SlotMap) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if b.catalog != nil {
		b.told.Losses, err = b.catalog.Salvage(file, slots)
	} else {
		b.told.Losses, err = b.buckets.Salvage(file, slots)
	}
	return err
}

// stage begins what is to become the new data folder.
func (r *recoverer) stage() error {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	r.report.NewClusterID = hex.EncodeToString(id[:])
	if err := r.options.step("stage"); err != nil {
		return err
	}
	staging := filepath.Join(r.options.DataDir, recoveryStaging)
	err := errors.Join(os.RemoveAll(staging), os.MkdirAll(filepath.Join(staging, "old"), 0o700))
	if err != nil {
		return err
	}
	// Without entries there is no difference between the ways to keep them.
	r.staged, err = OpenFiles(filepath.Join(staging, "new"), FilesOptions{})
	return err
}

// write writes the snapshot of a group, and its term.
func (r *recoverer) write(g RecoveredGroup, c capture) (err error) {
	defer c.Release()
	defer func() {
		if err != nil {
			err = unchanged(err)
		}
	}()
	if err := r.options.step(fmt.Sprintf("write group %d", g.Shard)); err != nil {
		return err
	}
	snaps, err := r.staged.OpenSnapshots(g.Shard, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	self, _ := r.self()
	members := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(self.ID), Address: raft.ServerAddress(self.Raft),
	}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, g.Index, g.Term, members, 1, &raft.InmemTransport{}) // of an older version only it would be asked
	if err != nil {
		return err
	}
	if err := (fsmSnapshot{c}).Persist(sink); err != nil {
		return err
	}
	log, err := r.staged.OpenLog(g.Shard)
	if err != nil {
		return err
	}
	return log.SetUint64(keyTerm, g.Term)
}

// self is this node as a member, and whether the address book has it.
func (r *recoverer) self() (Member, bool) {
	for _, m := range r.identity.Members {
		if m.ID == r.identity.NodeID {
			return m, true
		}
	}
	return Member{ID: r.identity.NodeID, Raft: "127.0.0.1:9101"}, false // it announces itself when it starts
}

// commit writes the rest of the new folder, and decides that it is to be.
func (r *recoverer) commit() error {
	self, _ := r.self()
	staging := filepath.Join(r.options.DataDir, recoveryStaging)
	err := saveIdentity(r.staged, identity{
		Format: dataFormat, NodeID: self.ID, ClusterID: r.report.NewClusterID,
		Shards: r.identity.Shards, LogStore: r.identity.LogStore,
		Members: []Member{self}, Complete: true,
	})
	if err := errors.Join(err, r.staged.Close()); err != nil {
		return err
	}
	told, err := marshalReport(&r.report)
	if err == nil {
		err = replaceFile(filepath.Join(staging, recoveryReport), told)
	}
	if err == nil {
		err = syncTree(staging)
	}
	if err != nil {
		return err
	}
	if err := r.options.step("commit"); err != nil {
		return err
	}
	return os.Rename(staging, filepath.Join(r.options.DataDir, recoveryFolder))
}

// syncTree makes sure that every name below a folder is on disk.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = syncFolder(path)
		}
		return err
	})
}
