package raftnode

import (
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// follower is a real Raft of group 2 on the node b that never stands for election, and
// the node a that makes calls to it.
type follower struct {
	t       *testing.T
	a       *transport
	log     *LogStore
	applied *countingMachine
}

// startFollower starts one whose cluster is b, c, and d without a vote.
func startFollower(t *testing.T) *follower {
	t.Helper()
	nodes := openTransports(t, knowsBeats, "a", "b")
	on := func(i int, log storedLog) *transport {
		return unserved(nodes[i].beats.mux, nodes[i].beats, nodes[i].peers, 2, log)
	}
	f := &follower{t: t, a: on(0, emptyLog(t)), applied: &countingMachine{}}
	t.Cleanup(func() { f.a.Close() })
	var err error
	if f.log, err = OpenLogStore(filepath.Join(t.TempDir(), "log"), LogStoreOptions{OnFatal: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	b := on(1, &parallelLog{store: f.log, leads: func() bool { return false }})
	c := raft.DefaultConfig()
	c.LocalID = "b"
	c.HeartbeatTimeout, c.ElectionTimeout = time.Hour, time.Hour
	c.Logger = hclog.NewNullLogger()
	snaps := raft.NewInmemSnapshotStore()
	err = raft.BootstrapCluster(c, f.log, f.log, snaps, b, raft.Configuration{Servers: []raft.Server{
		{ID: "b", Address: "b"}, {ID: "c", Address: "c"}, {ID: "d", Address: "d", Suffrage: raft.Nonvoter},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(c, f.applied, f.log, f.log, snaps, b)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(func() []raft.Server { return r.GetConfiguration().Configuration().Servers })
	t.Cleanup(func() {
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
		b.Close()
		f.log.Close()
	})
	return f
}

func headerOf(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte("the address of " + id)}
}

// append sends the entries from first to last, all of term 2, of which those up to
// commit are committed. Before the first comes the configuration, of term 1.
func (f *follower) append(first, last, commit uint64) {
	f.t.Helper()
	args := &raft.AppendEntriesRequest{RPCHeader: headerOf("c"), Term: 2, PrevLogEntry: first - 1, PrevLogTerm: 2, LeaderCommitIndex: commit}
	if first == 2 {
		args.PrevLogTerm = 1
	}
	for i := first; i <= last; i++ {
		args.Entries = append(args.Entries, &raft.Log{Index: i, Term: 2, Type: raft.LogCommand, Data: []byte("an entry")})
	}
	var resp raft.AppendEntriesResponse
	if err := f.a.AppendEntries("b", "", args, &resp); err != nil || !resp.Success {
		f.t.Fatalf("append entries %d to %d: %+v, error %v", first, last, resp, err)
	}
}

// install sends a snapshot up to an entry.
func (f *follower) install(index, term uint64) {
	f.t.Helper()
	const state = "a state that is as long as this sentence"
	args := &raft.InstallSnapshotRequest{
		RPCHeader: headerOf("c"), Term: 2, SnapshotVersion: raft.SnapshotVersionMax, LastLogIndex: index, LastLogTerm: term, Size: int64(len(state)),
		ConfigurationIndex: 1, Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "b", Address: "b"}, {ID: "c", Address: "c"}}}),
	}
	var resp raft.InstallSnapshotResponse
	if err := f.a.InstallSnapshot("b", "", args, &resp, strings.NewReader(state)); err != nil || !resp.Success || resp.Term != 2 {
		f.t.Fatalf("install a snapshot up to %d: %+v, error %v", index, resp, err)
	}
}

func (f *follower) first() uint64 {
	f.t.Helper()
	i, err := f.log.FirstIndex()
	if err != nil {
		f.t.Fatal(err)
	}
	return i
}

// countingMachine counts what it was given to apply, and to restore.
type countingMachine struct{ applied, restored atomic.Int64 }

func (m *countingMachine) Apply(*raft.Log) any                 { m.applied.Add(1); return nil }
func (m *countingMachine) Snapshot() (raft.FSMSnapshot, error) { return nil, io.EOF }
func (m *countingMachine) Restore(r io.ReadCloser) error {
	m.restored.Add(1)
	_, err := io.Copy(io.Discard, r)
	return err
}

// A snapshot of what the follower has already, since its answer was lost, leaves its log
// as it is. Installed, it would cost the entries behind it, and the library would panic
// when they are committed.
func TestASnapshotOfWhatIsThereKeepsTheLog(t *testing.T) {
	f := startFollower(t)
	f.append(2, 20, 5)
	f.install(10, 2)
	if first := f.first(); first != 1 {
		t.Errorf("the log begins at %d", first)
	}
	f.append(21, 22, 22) // panics if the log is empty
	eventually(t, "all is applied", func() bool { return f.applied.applied.Load() == 21 })
	if f.applied.restored.Load() != 0 {
		t.Error("the snapshot was restored")
	}
	// Nor one of what the log has no longer.
	if err := f.log.DeleteRange(1, 15); err != nil {
		t.Fatal(err)
	}
	f.install(12, 2)
	f.append(23, 23, 23)
	eventually(t, "the next one is applied", func() bool { return f.applied.applied.Load() == 22 })
}

// A snapshot beyond the log is installed, and so is one that parts from it.
func TestASnapshotOfWhatIsMissingIsInstalled(t *testing.T) {
	for name, index := range map[string]uint64{"beyond the log": 30, "of another term": 6} {
		t.Run(name, func(t *testing.T) {
			f := startFollower(t)
			f.append(2, 6, 3)
			f.install(index, 3)
			eventually(t, "it is restored", func() bool { return f.applied.restored.Load() == 1 })
			if first := f.first(); first != 0 {
				t.Errorf("the log still begins at %d", first)
			}
		})
	}
}

// A voter that was down while another node joined does not know it, or not as a voter,
// and votes for it all the same if its log is newer; without that, nobody with a majority
// could be elected.
func TestAVoterNotHeardOfIsElectedIfItsLogIsNewer(t *testing.T) {
	for _, c := range []struct {
		why, id     string
		index, term uint64
		want        bool
	}{
		{"a stranger with a newer log", "x", 7, 2, true},
		{"a stranger with entries of a later term", "x", 4, 3, true},
		{"a stranger with the same log, who has no later configuration", "x", 6, 2, false},
		{"a stranger with an older log", "x", 9, 1, false},
		{"a nonvoter with a newer log", "d", 7, 2, true},
		{"a nonvoter with the same log", "d", 6, 2, false},
		{"a voter with the same log", "c", 6, 2, true},
		{"a voter with an older log", "c", 5, 2, false},
	} {
		t.Run(c.why, func(t *testing.T) {
			f := startFollower(t)
			f.append(2, 6, 3)
			// The follower hears a leader of term 2; that is not what this is about.
			var pre raft.RequestPreVoteResponse
			if err := f.a.RequestPreVote("b", "", &raft.RequestPreVoteRequest{RPCHeader: asLeader(c.id), Term: 4, LastLogIndex: c.index, LastLogTerm: c.term}, &pre); err != nil || pre.Granted != c.want {
				t.Errorf("the vote before the vote: %+v, error %v", pre, err)
			}
			var vote raft.RequestVoteResponse
			if err := f.a.RequestVote("b", "", &raft.RequestVoteRequest{RPCHeader: asLeader(c.id), Term: 4, LastLogIndex: c.index, LastLogTerm: c.term}, &vote); err != nil || vote.Granted != c.want {
				t.Errorf("the vote: %+v, error %v", vote, err)
			}
		})
	}
}

// asLeader is the header of a node under the address of the one that leads: the library
// refuses every other one while it hears a leader.
func asLeader(id string) raft.RPCHeader {
	h := headerOf(id)
	h.Addr = headerOf("c").Addr
	return h
}
