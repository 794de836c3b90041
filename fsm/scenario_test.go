package fsm

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// TestScenarios plays the transcripts of testdata. Commands:
//
//	new [max-ids=N] [max-sessions=N] [max-answers=N] [max-bytes=N]  a machine that owns every slot, at time 0
//	policy NAME REVISION                 lines: LIMIT RATE PER BURST; REVISION may go back
//	advance DURATION                     of the clock that stamps entries; may go back
//	take|peek|refund|reset POLICY KEY [COST] [id=ID]
//	group [atomic] [session=ID:SEQ:ACKED]   lines: operations as above
//	peek-stale POLICY KEY
//	own VERSION FROM-TO...
//	tick [N]
//	restart                              snapshot, and restore into a new machine
//	stats
//
// A result reads: status, policy@revision, then of each limit tokens/burst, the
// wait before a retry and the wait until full; * is the limit that binds.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := &scenario{rig: newRig(t), sets: map[string]*policy.Set{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t, s.rig.t = t, t
			return s.run(d)
		})
	})
}

type scenario struct {
	*rig
	t    testing.TB
	now  time.Duration
	sets map[string]*policy.Set
}

func (s *scenario) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "new":
		s.rig, s.now = newRig(s.t), 0
		d.MaybeScanArgs(s.t, "max-ids", &s.m.dedup.max)
		d.MaybeScanArgs(s.t, "max-sessions", &s.m.sessions.max)
		d.MaybeScanArgs(s.t, "max-answers", &s.m.sessions.maxReplies)
		d.MaybeScanArgs(s.t, "max-bytes", &s.m.sessions.maxBytes)
	case "policy":
		return s.policy(d)
	case "advance":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		s.now += by
		return fmt.Sprintf("now %v\n", s.now)
	case "take", "peek", "refund", "reset":
		return s.group(d, d.FullCmd(), false)
	case "group":
		return s.group(d, d.Input, d.HasArg("atomic"))
	case "peek-stale":
		op, set := s.op(d, d.FullCmd())
		op.Kind = api.Peek
		res, reply := decodeReply(s.t, s.m.PeekStale(op, set))
		return describe(&res[0], reply)
	case "own":
		version, _ := strconv.ParseUint(d.CmdArgs[0].Key, 10, 64)
		var ranges []api.SlotRange
		for _, a := range d.CmdArgs[1:] {
			r := api.SlotRange{Shard: testShard}
			if _, err := fmt.Sscanf(a.Key, "%d-%d", &r.From, &r.To); err != nil {
				d.Fatalf(s.t, "%v", err)
			}
			ranges = append(ranges, r)
		}
		s.apply(EncodeOwn(uint64(s.now), version, ranges))
	case "tick":
		n := 1
		if len(d.CmdArgs) > 0 {
			n, _ = strconv.Atoi(d.CmdArgs[0].Key)
		}
		for range n {
			s.apply(EncodeTick(uint64(s.now)))
		}
	case "restart":
		file := takeSnapshot(s.t, s.m)
		m := NewBuckets(testShard)
		m.dedup.max, m.sessions.max, m.sessions.maxReplies, m.sessions.maxBytes =
			s.m.dedup.max, s.m.sessions.max, s.m.sessions.maxReplies, s.m.sessions.maxBytes
		if err := m.Restore(bytes.NewReader(file)); err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		if again := takeSnapshot(s.t, m); !bytes.Equal(file, again) {
			d.Fatalf(s.t, "the restored machine's snapshot differs")
		}
		s.m = m
	case "stats":
		st := s.m.Stats()
		return fmt.Sprintf("buckets %d, sets %d, ids %d, sessions %d, dropped %d, time %v\n",
			st.Buckets, st.Sets, st.DedupIDs, st.Sessions, st.Dropped, time.Duration(st.Stamp))
	default:
		d.Fatalf(s.t, "unknown command %s", d.Cmd)
	}
	return ""
}

func (s *scenario) policy(d *datadriven.TestData) string {
	revision, err := strconv.ParseUint(d.CmdArgs[1].Key, 10, 64)
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	info := api.SetInfo{Policy: d.CmdArgs[0].Key, Revision: revision}
	for line := range strings.Lines(d.Input) { // none: the policy is unknown
		var l api.LimitInfo
		var per string
		if _, err := fmt.Sscan(line, &l.Name, &l.Rate, &per, &l.Burst); err != nil {
			d.Fatalf(s.t, "%q: %v", line, err)
		}
		p, err := time.ParseDuration(per)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		l.Per = int64(p)
		info.Limits = append(info.Limits, l)
	}
	s.sets[info.Policy] = policy.NewSet(info)
	return ""
}

func (s *scenario) op(d *datadriven.TestData, line string) (api.Op, *policy.Set) {
	kinds := map[string]api.Kind{"take": api.Take, "peek": api.Peek, "refund": api.Refund, "reset": api.Reset, "peek-stale": api.Peek}
	f := strings.Fields(line)
	set := s.sets[f[1]]
	if set == nil {
		d.Fatalf(s.t, "no policy %s", f[1])
	}
	op := api.Op{Kind: kinds[f[0]], Key: f[2]}
	if op.Kind == api.Take || op.Kind == api.Refund {
		op.Cost = 1
	}
	for _, a := range f[3:] {
		if id, ok := strings.CutPrefix(a, "id="); ok {
			op.RequestID = id
		} else if cost, err := strconv.ParseInt(a, 10, 64); err == nil {
			op.Cost = cost
		} else {
			d.Fatalf(s.t, "%q: %v", a, err)
		}
	}
	return op, set
}

func (s *scenario) group(d *datadriven.TestData, lines string, atomic bool) string {
	b := &api.Batch{Atomic: atomic}
	var sets []*policy.Set
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		op, set := s.op(d, line)
		op.Policy = len(sets)
		sets = append(sets, set)
		b.Add(op)
	}
	if d.HasArg("session") {
		var v string
		d.ScanArgs(s.t, "session", &v)
		f := strings.Split(v, ":")
		copy(b.Session.ID[:], f[0])
		b.Session.Seq, _ = strconv.ParseUint(f[1], 10, 64)
		b.Session.Acked, _ = strconv.ParseUint(f[2], 10, 64)
	}
	results, reply := s.do(uint64(s.now), b, sets...)
	var out strings.Builder
	if reply.Replayed {
		out.WriteString("replayed\n")
	}
	for i := range results {
		out.WriteString(describe(&results[i], reply))
	}
	return out.String()
}

func describe(r *api.Result, reply *api.Reply) string {
	var out strings.Builder
	names := map[api.Status]string{api.StatusDenied: "denied", api.StatusAllowed: "allowed",
		api.StatusState: "state", api.StatusRefunded: "refunded", api.StatusReset: "reset"}
	switch r.Status {
	case api.StatusError:
		return fmt.Sprintf("%s: %s\n", r.Code, r.Detail)
	case api.StatusReset:
		return "reset\n"
	case api.StatusRefunded:
		fmt.Fprintf(&out, "refunded %d", r.Refunded)
	default:
		out.WriteString(names[r.Status])
	}
	set := reply.Sets[r.Set]
	fmt.Fprintf(&out, " %s@%d", set.Policy, set.Revision)
	for i, v := range r.Limits {
		mark := ""
		if i == r.Binding && len(r.Limits) > 1 {
			mark = "*"
		}
		fmt.Fprintf(&out, "  %s%s %d/%d", set.Limits[i].Name, mark, v.Remaining, set.Limits[i].Burst)
		if v.RetryAfter > 0 {
			fmt.Fprintf(&out, " retry %s", span(v.RetryAfter))
		}
		if v.ResetAfter > 0 {
			fmt.Fprintf(&out, " full %s", span(v.ResetAfter))
		}
	}
	if r.Duplicate {
		fmt.Fprintf(&out, "  duplicate of %d.%d at %v", r.Commit.Index, r.Commit.Offset, time.Duration(r.Commit.TimeNS))
	}
	out.WriteString("\n")
	return out.String()
}

// span prints microseconds, as far as a Duration goes.
func span(us uint64) string {
	if us > math.MaxInt64/1000 {
		return "centuries"
	}
	return (time.Duration(us) * time.Microsecond).String()
}

func takeSnapshot(t testing.TB, m *Buckets) []byte {
	t.Helper()
	c := m.Capture()
	defer c.Release()
	var file bytes.Buffer
	n, err := c.WriteTo(&file)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(file.Len()) {
		t.Fatalf("WriteTo counts %d of %d bytes", n, file.Len())
	}
	return file.Bytes()
}
