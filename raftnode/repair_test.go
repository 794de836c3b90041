package raftnode

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// flipIn changes one bit of a file.
func flipIn(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// one is the only file below dir of that name, or the first by name.
func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return files[len(files)-1]
}

// setAside lists what a node has set aside, below the folder of each time.
func setAside(t *testing.T, dir string) (list []string) {
	t.Helper()
	root := filepath.Join(dir, asideFolder)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			_, rel, _ = strings.Cut(rel, "/")
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDamagedFilesAreRepairedByTheLeader flips a bit in each kind of file of a node
// that is down. It comes back with all that it had, and with its votes.
func TestDamagedFilesAreRepairedByTheLeader(t *testing.T) {
	for _, store := range []string{LogStoreBolt, LogStoreWAL} {
		t.Run(store, func(t *testing.T) { repairEachFile(t, store) })
	}
}

func repairEachFile(t *testing.T, store string) {
	c := &testCluster{t: t, dir: t.TempDir(), logStore: store, elections: time.Second}
	c.start(3, joinAll)
	for range 2 * trailingMin {
		c.mustTake(1)
	}
	damaged := 2
	dir := c.config(damaged).DataDir
	for range 2 { // so that the log reaches back to neither
		_, leader := c.leader(1)
		eventually(t, "it has what was taken", func() bool {
			return c.nodes[damaged].shard(1).raft.AppliedIndex() >= leader.shard(1).raft.AppliedIndex()
		})
		c.mustSnapshot(damaged, 1)
		for range 2 * trailingMin {
			c.mustTake(1)
		}
	}
	type kind struct {
		name   string
		flip   func()
		groups []uint32 // that lose what they had
		aside  string   // what has to be set aside
	}
	all := []uint32{0, 1, 2}
	kinds := []kind{
		{"node.json", func() { flipIn(t, filepath.Join(dir, "node.json"), 40) }, nil, "node.json"},
		{"the newest snapshot's state", func() { flipIn(t, one(t, dir, "groups/001/snapshots/*/state.bin"), 60) }, []uint32{1}, "state.bin"},
		{"a page of the log", func() { flipIn(t, filepath.Join(dir, "logs.db"), boltPageHead) }, all, "logs.db"},
	}
	if store == LogStoreWAL { // but for the entries it is all the same
		kinds = append(kinds[:0], kind{"a segment", func() { flipIn(t, one(t, dir, "groups/002/wal/*.wal"), 200) }, []uint32{2}, ".wal"})
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c.t = t
			c.mustTake(1)
			c.close(damaged)
			k.flip()
			n := c.open(c.config(damaged), c.listen(damaged))
			c.nodes[damaged] = n
			var lost []uint32
			for _, g := range n.groupList() {
				if g.repair.underWay() {
					lost = append(lost, g.id)
				}
			}
			if !slices.Equal(lost, k.groups) {
				t.Errorf("the groups %v are lost, want %v", lost, k.groups)
			}
			eventually(t, "it is repaired, and votes again", func() bool {
				for _, g := range n.groupList() {
					if g.repair.underWay() || !slices.Contains(voterIDs(g), "n3") {
						return false
					}
				}
				return true
			})
			c.ready()
			if list := setAside(t, dir); !slices.ContainsFunc(list, func(f string) bool { return strings.HasSuffix(f, k.aside) }) {
				t.Errorf("%s was not set aside: %v", k.aside, list)
			}
			if err := os.RemoveAll(filepath.Join(dir, asideFolder)); err != nil {
				t.Fatal(err)
			}
			c.mustTake(1)
			leader, _ := c.leader(1)
			eventually(t, "its state is the leader's", func() bool {
				want, err := c.nodes[leader].shard(1).buckets.Digest()
				if err != nil {
					t.Fatal(err)
				}
				got, err := n.shard(1).buckets.Digest()
				return err == nil && got == want
			})
		})
	}
	c.t = t
	// What is repaired is an ordinary replica: it starts again, and its word counts.
	c.close(damaged)
	c.nodes[damaged] = c.open(c.config(damaged), c.listen(damaged))
	c.ready()
	c.close(0)
	c.mustTake(1)
	c.mustTake(2)
}

// TestALostReplicaHearsOfNobody: until its vote is taken away, nothing that the
// others rely on may come from it, and without a leader nobody can.
func TestALostReplicaHearsOfNobody(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	c.close(1)
	c.close(2)
	flipIn(t, filepath.Join(c.config(2).DataDir, "logs.db"), boltPageHead)
	open := func() {
		c.nodes[2] = c.open(c.config(2), c.listen(2))
	}
	refuses := func() {
		t.Helper()
		for _, g := range c.nodes[0].groupList() {
			at := raft.ServerAddress(addrOf("n3", c.addrs[2]))
			head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("n1"), Addr: []byte(c.addrs[0])}
			for what, call := range map[string]func() error{
				"vote": func() error {
					return g.trans.RequestVote("n3", at, &raft.RequestVoteRequest{RPCHeader: head, Term: 1000, LastLogIndex: 1000}, &raft.RequestVoteResponse{})
				},
				"entries": func() error {
					return g.trans.AppendEntries("n3", at, &raft.AppendEntriesRequest{RPCHeader: head, Term: 1000}, &raft.AppendEntriesResponse{})
				},
				"snapshot": func() error {
					return g.trans.InstallSnapshot("n3", at, &raft.InstallSnapshotRequest{RPCHeader: head, Term: 1000, Size: 3}, &raft.InstallSnapshotResponse{}, strings.NewReader("abc"))
				},
			} {
				eventually(t, "it refuses "+what, func() bool {
					err := call() // at first over a connection to the process before
					if err == nil {
						t.Fatalf("it takes %s", what)
					}
					return strings.Contains(err.Error(), errLost.Error())
				})
			}
		}
		eventually(t, "it says that nobody can help", func() bool {
			return strings.Contains(failing(c.nodes[2], "shard-1"), "no leader is known")
		})
	}
	open()
	eventually(t, "the other one leads nothing without it", func() bool {
		return !slices.ContainsFunc(c.nodes[0].groupList(), func(g *group) bool { return g.raft.State() == raft.Leader })
	})
	refuses()
	c.close(2)
	open() // what it has lost, it knows after a restart
	refuses()
	c.nodes[1] = c.open(c.config(1), c.listen(1))
	eventually(t, "it votes again", func() bool {
		return !slices.ContainsFunc(c.nodes[2].groupList(), func(g *group) bool { return g.repair.underWay() })
	})
	c.ready()
	c.mustTake(1)
}

// TestWhatAReplicaRefusesUntilItHasAllAgain: leaders that were deposed before its
// vote was taken away, and candidates, who may know of an older set of members only.
func TestWhatAReplicaRefusesUntilItHasAllAgain(t *testing.T) {
	lost, sent := &loss{Group: 1}, &loss{Group: 1, Term: 7, Index: 90}
	for _, test := range []struct {
		command any
		refused []*loss
	}{
		{&raft.AppendEntriesRequest{Term: 6}, []*loss{lost, sent}},
		{&raft.AppendEntriesRequest{Term: 7}, []*loss{lost}},
		{&raft.InstallSnapshotRequest{Term: 6}, []*loss{lost, sent}},
		{&raft.InstallSnapshotRequest{Term: 8}, []*loss{lost}},
		{&raft.RequestVoteRequest{Term: 8}, []*loss{lost, sent}},
		{&raft.RequestPreVoteRequest{Term: 8}, []*loss{lost, sent}},
		{&raft.TimeoutNowRequest{}, []*loss{lost, sent}},
	} {
		for _, l := range []*loss{nil, lost, sent} {
			if got, want := (&repair{lost: l}).refuses(test.command), slices.Contains(test.refused, l); got != want {
				t.Errorf("%T %+v of %+v: refused %v, want %v", test.command, test.command, l, got, want)
			}
		}
	}
}

func TestDamageOfTheOnlyNodeIsRefused(t *testing.T) {
	c := startCluster(t, 1)
	c.mustTake(1)
	c.close(0)
	file := filepath.Join(c.config(0).DataDir, "logs.db")
	flipIn(t, file, boltPageHead)
	cfg := c.config(0)
	cfg.Listener = c.listen(0)
	if _, err := Open(cfg); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "the only one of its cluster") {
		t.Errorf("it starts with %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the only copy was moved: %v", err)
	}
}

// TestAnOlderSnapshotIsEnoughIfTheLogFollowsOn: no more is given up than has to be.
func TestAnOlderSnapshotIsEnoughIfTheLogFollowsOn(t *testing.T) {
	for _, test := range []struct {
		name        string
		damage      []int // indexes of the snapshots
		first, last uint64
		want        []uint64 // that are left; nil if all is lost
	}{
		{"none", nil, 0, 0, []uint64{200, 100}},
		{"the spare", []int{100}, 0, 0, []uint64{200, 100}}, // nobody looks at its state
		{"the newest, and the log goes on from the older", []int{200}, 101, 200, []uint64{100}},
		{"the newest, and the log has a gap", []int{200}, 102, 300, nil},
		{"the newest, and the log ends before it", []int{200}, 50, 199, nil},
		{"the newest, without a log", []int{200}, 0, 0, nil},
		{"both, and the log is whole", []int{100, 200}, 1, 300, []uint64{}},
		{"both, and the log has begun", []int{100, 200}, 2, 300, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := OpenFiles(dir, FilesOptions{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			s := twoSnapshots(t, d)
			for _, index := range test.damage {
				flipIn(t, one(t, dir, "groups/001/snapshots/3-"+strconv.Itoa(index)+"-*/state.bin"), 3)
			}
			err = s.Mend(test.first, test.last)
			if lost := errors.Is(err, ErrDamaged); lost != (test.want == nil) || !lost && err != nil {
				t.Fatal(err)
			}
			if test.want == nil {
				if list := setAside(t, dir); list != nil {
					t.Errorf("%v were set aside, and may still be of use", list)
				}
				return
			}
			if got := indexes(t, s); !slices.Equal(got, test.want) {
				t.Errorf("%v are left, want %v", got, test.want)
			}
		})
	}
}

// twoSnapshots of index 100 and 200.
func twoSnapshots(t *testing.T, d Disk) Snapshots {
	t.Helper()
	snaps, err := d.OpenSnapshots(1, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{100, 200} {
		sink, err := snaps.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 7, &raft.InmemTransport{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Write([]byte("the state of a shard")); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return snaps
}

func indexes(t *testing.T, s raft.SnapshotStore) []uint64 {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	got := []uint64{}
	for _, m := range list {
		got = append(got, m.Index)
	}
	return got
}

// TestASnapshotThatIsFoundDamagedIsTakenAgain: a node that runs has the state.
func TestASnapshotThatIsFoundDamagedIsTakenAgain(t *testing.T) {
	c := startCluster(t, 1)
	c.mustTake(1)
	g := c.nodes[0].shard(1)
	c.mustSnapshot(0, 1)
	dir := c.config(0).DataDir
	flipIn(t, one(t, dir, "groups/001/snapshots/*/state.bin"), 60)
	list, err := g.snaps.List()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if _, _, err := g.snaps.Open(list[0].ID); !errors.Is(err, ErrDamaged) {
		t.Errorf("it is opened: %v", err)
	}
	eventually(t, "there is another snapshot", func() bool {
		list, err := g.snaps.List()
		if err != nil || len(list) == 0 {
			return false
		}
		_, state, err := g.snaps.Open(list[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		_, err = io.Copy(io.Discard, state)
		return err == nil
	})
	if list := setAside(t, dir); !slices.ContainsFunc(list, func(f string) bool { return strings.HasSuffix(f, "state.bin") }) {
		t.Errorf("set aside: %v", list)
	}
}

// TestSetAsideKeepsWhatItTakes: the entries of one group, out of a file that holds
// those of others, can still be read where they are set aside.
func TestSetAsideKeepsWhatItTakes(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenFiles(dir, FilesOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var was [2][]raft.Log
	for id := range was {
		b, err := d.OpenLog(uint32(id))
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(b.StoreLogs(entries(7, 200, 300)), b.StoreLogs(entries(207, 1, 3*pieceSize)),
			b.SetUint64([]byte("CurrentTerm"), 9), b.Set([]byte("LastVoteCand"), []byte("n2")))
		if err != nil {
			t.Fatal(err)
		}
		was[id], _, _ = whole(t, b)
	}
	for range 2 { // it may be repeated
		if err := d.SetAside([]uint32{1}); err != nil {
			t.Fatal(err)
		}
	}
	for id := range was {
		b, err := d.OpenLog(uint32(id))
		if err != nil {
			t.Fatal(err)
		}
		got, term, vote := whole(t, b)
		if id == 0 && !reflect.DeepEqual(got, was[0]) || id == 1 && len(got) != 0 {
			t.Errorf("group %d has %d entries", id, len(got))
		}
		if term != 9 || vote != "n2" {
			t.Errorf("group %d has forgotten its vote: term %d, vote %q", id, term, vote)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := openOnlyLog(one(t, dir, "damaged/*/groups/001/log.db"), boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	first, err := b.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range was[1] {
		var got raft.Log
		if err := b.GetLog(first+uint64(i), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("entry %d: %v", want.Index, err)
		}
	}
}

// TestTheSpareOfNodeJSON: whichever of the two is damaged, nothing is lost.
func TestTheSpareOfNodeJSON(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := identity{Format: dataFormat, NodeID: "n1", ClusterID: strings.Repeat("0a", 16), Shards: 6, Lost: []loss{{2, 7, 90}}}
	for range 20 {
		for _, file := range []string{"node.json", "node.spare.json"} {
			dir := t.TempDir()
			d, err := OpenFiles(dir, FilesOptions{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			if err := saveIdentity(d, want); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b, at := flipOne(rng, b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readIdentity(d, dir)
			got.Sum = ""
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, byte %d: %+v, %v", file, at, got, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestWhatCannotBeReadIsNotDamaged: a file that can't be opened now may be whole,
// and must stay where it is.
func TestWhatCannotBeReadIsNotDamaged(t *testing.T) {
	for err, want := range map[error]bool{
		nil:              false,
		context.Canceled: true, // not of the system: some check has failed
		errWrongSum:      true,
		&fs.PathError{Op: "read", Path: "x", Err: errors.New("input/output error")}: false,
		&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}:                   true,
	} {
		if got := errors.Is(asDamage(err), ErrDamaged); got != want {
			t.Errorf("%v: damaged is %v", err, got)
		}
	}
	d, err := OpenFiles(t.TempDir(), FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	held, err := openBolt(d.(*files).logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := d.HasLog(0); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a log that is in use: %v", err)
	}
}
