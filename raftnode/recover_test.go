package raftnode

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// stopped is the folders of three nodes whose cluster took so many tokens of each
// shard, and is stopped.
type stopped struct {
	*testCluster
	takes [3]int // by shard
	old   string // id of the cluster
}

// stop runs a cluster with some of everything in its logs, with snapshots on the first
// node, and stops it once that node has it all.
func stop(t *testing.T, store string) *stopped {
	t.Helper()
	c := &stopped{testCluster: &testCluster{t: t, dir: t.TempDir(), logStore: store, elections: time.Second}}
	c.start(3, joinAll)
	c.old = c.nodes[0].ClusterID()
	for i := range 6 {
		for shard := uint32(1); shard <= 2; shard++ {
			if i == 3 {
				c.mustSnapshot(0, shard)
			}
			if i < 2+2*int(shard) {
				c.mustTake(shard)
				c.takes[shard]++
			}
		}
	}
	eventually(t, "the first node has all entries", func() bool {
		for i, g := range c.nodes[0].groupList() {
			for _, n := range c.nodes[1:] {
				if n.groupList()[i].raft.LastIndex() != g.raft.LastIndex() {
					return false
				}
			}
		}
		return true
	})
	for i := range c.nodes {
		c.close(i)
	}
	return c
}

func (c *stopped) folder(i int) string { return c.config(i).DataDir }

// copyOf is a copy of the first node's folder.
func (c *stopped) copyOf(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(c.folder(0))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// place puts a folder in the place of the first node's.
func (c *stopped) place(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(c.folder(0)), os.CopyFS(c.folder(0), os.DirFS(dir))); err != nil {
		t.Fatal(err)
	}
}

// startAlone starts the first node, and checks that it is a cluster of one with all that was
// taken, and which knows a take that is sent again.
func (c *stopped) startAlone(t *testing.T) *Node {
	t.Helper()
	c.t = t
	n := c.open(c.config(0), c.listen(0))
	c.nodes[0] = n
	c.ready()
	if id := n.ClusterID(); id == c.old || n.Catalog().ClusterID != id {
		t.Errorf("its cluster is %s, and was %s; the catalog says %s", id, c.old, n.Catalog().ClusterID)
	}
	for shard := uint32(1); shard <= 2; shard++ {
		if got := voterIDs(n.groupList()[shard]); !slices.Equal(got, []string{"n1"}) {
			t.Errorf("the members of shard %d are %v", shard, got)
		}
		if res, err := take(t, n, shard, fmt.Sprintf("take-%d", shard)); err != nil || !res.Duplicate {
			t.Errorf("shard %d does not know a take that it made: %+v, %v", shard, res, err)
		}
		res := c.mustTake(shard)
		c.takes[shard]++
		if want := int64(10 - c.takes[shard]); res.Limits[0].Remaining != want {
			t.Errorf("shard %d has %d tokens left, want %d", shard, res.Limits[0].Remaining, want)
		}
	}
	return n
}

// tree is the names and sums of all that a folder holds.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintln(&all, rel, info.Mode(), info.ModTime().UnixNano())
		if d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%x\n", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestOneFolderIsMadeANewCluster recovers one node's folder. It has all that the old
// cluster had, others join it, and a node of the old cluster and it refuse each other.
func TestOneFolderIsMadeANewCluster(t *testing.T) {
	for _, store := range []string{LogStoreBolt, LogStoreWAL} {
		t.Run(store, func(t *testing.T) {
			c := stop(t, store)
			dir := c.folder(0)
			before := tree(t, dir)
			told, err := Recover(RecoverOptions{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if tree(t, dir) != before {
				t.Error("it has changed something, and was only to look")
			}
			for _, g := range told.Groups {
				if !g.Whole() || g.Index == 0 || g.Shard > 0 && (g.Buckets != 1 || g.SnapshotIndex == 0 || g.Time.IsZero()) {
					t.Errorf("of a whole folder: %+v", g)
				}
			}
			if len(told.Groups) != 3 || len(told.Damaged) > 0 || told.NewClusterID != "" || told.MayBeMissing == "" || len(told.Members) != 3 {
				t.Errorf("%+v", told)
			}
			told, err = Recover(RecoverOptions{DataDir: dir, Write: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(told.Aside, "node.json")); err != nil || exists(dir, recoveryFolder) || exists(dir, recoveryStaging) {
				t.Errorf("the old files are in %q: %v", told.Aside, err)
			}
			n := c.startAlone(t)
			if n.ClusterID() != told.NewClusterID {
				t.Errorf("its cluster is %s, want %s", n.ClusterID(), told.NewClusterID)
			}

			// The second node has its old folder: it and the new cluster are strangers.
			old := c.open(c.config(1), c.listen(1))
			c.nodes[1] = old
			for _, pair := range [][2]*Node{{n, old}, {old, n}} {
				var refused *RefusedError
				_, err := pair[0].ask(request(t), pair[1].cfg.RaftAdvertise)
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), "belongs to another cluster") {
					t.Errorf("node %s is told %v", pair[0].NodeID(), err)
				}
			}
			c.close(1)

			// It and the third node come with empty folders, under their old ids.
			for i := 1; i <= 2; i++ {
				if err := os.RemoveAll(c.folder(i)); err != nil {
					t.Fatal(err)
				}
				cfg := c.config(i)
				cfg.Join = c.addrs[:1]
				c.nodes[i] = c.open(cfg, c.listen(i))
			}
			eventually(t, "they vote", func() bool {
				for _, g := range n.groupList() {
					if len(voterIDs(g)) < 3 {
						return false
					}
				}
				return true
			})
			c.ready()
			c.close(0)
			c.mustTake(1) // by those two alone
		})
	}
}

// TestARecoveryIsNotForARunningNode: neither of the folder that is made new, nor of
// one that is only read.
func TestARecoveryIsNotForARunningNode(t *testing.T) {
	c := stop(t, "")
	c.nodes[0] = c.open(c.config(0), c.listen(0))
	for _, o := range []RecoverOptions{
		{DataDir: c.folder(0)}, {DataDir: c.folder(0), Write: true}, {DataDir: c.folder(1), From: []string{c.folder(0)}},
	} {
		if _, err := Recover(o); err == nil || !strings.Contains(err.Error(), "its node runs; stop it first") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	reader, err := lockStopped(c.folder(1), false)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := Recover(RecoverOptions{DataDir: c.folder(1)}); err != nil {
		t.Errorf("while somebody else looks: %v", err)
	}
	if _, err := Recover(RecoverOptions{DataDir: c.folder(1), Write: true}); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("it writes while somebody else looks: %v", err)
	}
	if _, err := Recover(RecoverOptions{DataDir: c.folder(1), From: []string{c.folder(1) + "/."}}); err == nil || !strings.Contains(err.Error(), "is the data folder itself") {
		t.Errorf("with its own folder twice: %v", err)
	}
	other := startCluster(t, 1)
	other.close(0)
	_, err = Recover(RecoverOptions{DataDir: c.folder(1), From: []string{other.config(0).DataDir}})
	if err == nil || !strings.Contains(err.Error(), "name folders of one cluster only") {
		t.Errorf("with the folder of another cluster: %v", err)
	}
	if _, err := Recover(RecoverOptions{DataDir: filepath.Join(c.dir, "none"), Write: true}); err == nil || exists(c.dir, "none") {
		t.Errorf("of no folder: %v", err)
	}
}

var errCrash = errors.New("crash")

// TestARecoveryThatIsCutOffGoesOn cuts a recovery off before each of its steps. Until
// it is decided nothing has changed; then no node starts from the folder; and the same
// call makes the same of it.
func TestARecoveryThatIsCutOffGoesOn(t *testing.T) {
	c := stop(t, "")
	pristine := c.copyOf(t)
	var names []string
	for crash := 0; ; crash++ {
		c.place(t, pristine)
		dir, step, last := c.folder(0), 0, ""
		told, err := Recover(RecoverOptions{DataDir: dir, Write: true, step: func(what string) error {
			if step++; step > crash {
				last = what
				return errCrash
			}
			return nil
		}})
		if err == nil {
			if told.CutOff {
				t.Error("nothing was cut off")
			}
			break
		}
		names = append(names, last)
		if !errors.Is(err, errCrash) {
			t.Fatalf("before %s: %v", last, err)
		}
		decided := exists(dir, recoveryFolder)
		if next := map[bool]string{false: "nothing was changed", true: "the same command with --yes goes on"}[decided]; !strings.Contains(err.Error(), next) {
			t.Errorf("before %s: %q does not say that %s", last, err, next)
		}
		if decided {
			cfg := c.config(0)
			cfg.Listener = c.listen(0)
			if n, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "recover --data-dir "+dir+" --yes") {
				t.Errorf("cut off before %s, the node starts: %v", last, err)
				n.Close()
			}
			before := tree(t, dir)
			if told, err := Recover(RecoverOptions{DataDir: dir}); err != nil || !told.CutOff || len(told.Groups) != 3 {
				t.Errorf("cut off before %s: %+v, %v", last, told, err)
			}
			if tree(t, dir) != before {
				t.Error("it has changed something, and was only to look")
			}
		} else {
			if err := os.RemoveAll(filepath.Join(dir, recoveryStaging)); err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Count(tree(t, dir), "\n"), strings.Count(tree(t, pristine), "\n"); got != want {
				t.Errorf("cut off before %s, before it was decided, %d lines instead of %d", last, got, want)
			}
		}
		told, err = Recover(RecoverOptions{DataDir: dir, Write: true})
		if err != nil || told.CutOff != decided || told.NewClusterID == "" {
			t.Fatalf("cut off before %s, it does not go on: %+v, %v", last, told, err)
		}
		again, err := Recover(RecoverOptions{DataDir: dir})
		if err != nil {
			t.Fatalf("cut off before %s: %v", last, err)
		}
		for i, g := range again.Groups {
			was := told.Groups[i]
			if g.Index != was.Index || g.Buckets != was.Buckets || g.Policies != was.Policies || !g.Whole() {
				t.Errorf("cut off before %s, there is %+v, want %+v", last, g, was)
			}
		}
		if again.ClusterID != told.NewClusterID || len(again.Members) != 1 {
			t.Errorf("cut off before %s: %+v", last, again)
		}
		if set := setAside(t, dir); !slices.Contains(set, "logs.db") || !slices.Contains(set, "node.json") {
			t.Errorf("cut off before %s, the old files are not set aside: %v", last, set)
		}
	}
	t.Logf("cut off before each of: %s", strings.Join(names, "; "))
	if len(names) < 10 {
		t.Error("those are too few")
	}
	c.startAlone(t)
}

// TestWhatWasSetAsideIsRecovered: nodes whose logs are damaged have set them aside
// before anybody comes to recover. What a recovery has set aside is another cluster's.
func TestWhatWasSetAsideIsRecovered(t *testing.T) {
	c := stop(t, "")
	dir := c.folder(0)
	flipIn(t, filepath.Join(dir, "logs.db"), boltPageHead)
	c.nodes[0] = c.open(c.config(0), c.listen(0))
	if lost := c.nodes[0].groupList()[1].repair.isLost(); !lost {
		t.Fatal("the node believes a damaged log")
	}
	c.close(0)
	told, err := Recover(RecoverOptions{DataDir: dir, Write: true})
	if err != nil || len(told.Damaged) != 1 || !strings.Contains(told.Damaged[0], asideFolder) {
		t.Fatalf("%+v, %v", told, err)
	}
	c.startAlone(t)
	c.close(0)
	takes := c.takes
	again, err := Recover(RecoverOptions{DataDir: dir, Write: true})
	if err != nil || len(again.Damaged) > 0 {
		t.Errorf("of the new cluster: %+v, %v", again, err)
	}
	for i, g := range again.Groups {
		if !g.Whole() || g.Index <= told.Groups[i].Index {
			t.Errorf("the second time: %+v, and the first: %+v", g, told.Groups[i])
		}
	}
	c.startAlone(t)
	if c.takes[1] != takes[1]+1 {
		t.Errorf("%v takes, and before %v", c.takes, takes)
	}
}

// TestADamagedSnapshotIsRecoveredInPart: the buckets of a record whose checksum is
// wrong start full, and what the others hold stays.
func TestADamagedSnapshotIsRecoveredInPart(t *testing.T) {
	c := stop(t, "")
	dir := c.folder(0)
	if _, err := Recover(RecoverOptions{DataDir: dir, Write: true}); err != nil { // there are no logs now
		t.Fatal(err)
	}
	path := one(t, dir, "groups/001/snapshots/*/state.bin")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What can't be read at all is not taken for damaged.
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(RecoverOptions{DataDir: dir, Write: true}); err == nil || !strings.Contains(err.Error(), "copy what can be to another one first") || exists(dir, recoveryStaging) {
		t.Errorf("of a snapshot that can't be read: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), "key-") // in the only bucket
	flipIn(t, path, at)
	told, err := Recover(RecoverOptions{DataDir: dir, Write: true})
	if err != nil {
		t.Fatal(err)
	}
	g := told.Groups[1]
	if g.Losses.Buckets != 1 || g.Losses.RequestIDs != 0 || g.Losses.Uncounted || g.Buckets != 0 || !told.Groups[2].Whole() || !told.Groups[0].Whole() {
		t.Errorf("%+v", told.Groups)
	}
	c.takes[1] = 0
	c.startAlone(t)
}

// TestAShardOfWhichNothingIsLeftBeginsAnew, and the catalog, whose revision goes on behind
// what the shards have seen; nothing at all is no cluster.
func TestAShardOfWhichNothingIsLeftBeginsAnew(t *testing.T) {
	c := stop(t, "")
	dir := c.folder(0)
	if _, err := Recover(RecoverOptions{DataDir: dir, Write: true}); err != nil {
		t.Fatal(err)
	}
	remove := func(group string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, "groups", group)); err != nil {
			t.Fatal(err)
		}
	}
	remove("000")
	remove("002")
	told, err := Recover(RecoverOptions{DataDir: dir, Write: true})
	if err != nil || !told.Groups[0].Lost || told.Groups[1].Lost || !told.Groups[2].Lost {
		t.Fatalf("%+v, %v", told, err)
	}
	n := c.open(c.config(0), c.listen(0))
	c.nodes[0] = n
	c.ready()
	if v := n.Catalog(); v.ClusterID != told.NewClusterID || v.SlotMapVersion() == 0 || v.Revision < n.groupList()[1].buckets.Revision() {
		t.Errorf("the catalog is of cluster %s, at revision %d", v.ClusterID, v.Revision)
	}
	c.takes[2] = 0
	for shard := uint32(1); shard <= 2; shard++ {
		res := c.mustTake(shard)
		if want := int64(9 - c.takes[shard]); res.Limits[0].Remaining != want {
			t.Errorf("shard %d has %d left, want %d", shard, res.Limits[0].Remaining, want)
		}
	}
	c.close(0)

	if err := os.Remove(filepath.Join(dir, "logs.db")); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"000", "001", "002"} {
		remove(group)
	}
	before := tree(t, dir)
	for _, write := range []bool{false, true} {
		if _, err := Recover(RecoverOptions{DataDir: dir, Write: write}); err == nil || !strings.Contains(err.Error(), "nothing can be recovered") {
			t.Errorf("%v", err)
		}
	}
	if strings.Count(tree(t, dir), "\n") != strings.Count(before, "\n") {
		t.Error("it has changed something all the same")
	}
}

// TestFlippedBitsInALogAreRecoveredFrom flips bits all over the log. What is recovered
// never goes further than the log did, and where it goes as far it is the same; with
// another node's folder at hand all of it comes back.
func TestFlippedBitsInALogAreRecoveredFrom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, store := range []string{LogStoreBolt, LogStoreWAL} {
		t.Run(store, func(t *testing.T) {
			c := stop(t, store)
			dir := c.folder(0)
			whole, err := Recover(RecoverOptions{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "logs.db")
			if store == LogStoreWAL {
				path = one(t, dir, "groups/001/wal/*.wal")
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			used := content[:len(strings.TrimRight(string(content), "\x00"))]
			full := 0
			tries := 12
			if store == LogStoreWAL { // a segment is 16 MiB
				tries = 6
			}
			for range tries {
				damaged, at := flipOne(rng, used)
				if err := os.WriteFile(path, append(damaged, content[len(used):]...), 0o600); err != nil {
					t.Fatal(err)
				}
				told, err := Recover(RecoverOptions{DataDir: dir})
				if err != nil {
					t.Fatalf("byte %d: %v", at, err)
				}
				all := true
				for i, g := range told.Groups {
					was := whole.Groups[i]
					// Without a snapshot, all hangs on the first entry.
					lost := g.Lost && was.SnapshotIndex > 0
					if g.Index > was.Index || g.Buckets != was.Buckets || g.Policies != was.Policies || lost {
						t.Fatalf("byte %d: %+v, and whole it was %+v", at, g, was)
					}
					all = all && g.Index == was.Index
				}
				if all {
					full++
				}
				told, err = Recover(RecoverOptions{DataDir: dir, From: []string{c.folder(1)}})
				if err != nil {
					t.Fatalf("byte %d: %v", at, err)
				}
				for i, g := range told.Groups {
					if g.Index != whole.Groups[i].Index || !g.Whole() {
						t.Fatalf("byte %d, with another folder: %+v, want %+v", at, g, whole.Groups[i])
					}
				}
			}
			t.Logf("%d of %d times all was there in the folder itself", full, tries)
			if store == LogStoreBolt && full < tries/4 { // whose pages have older copies
				t.Error("that is seldom")
			}
		})
	}
}
