package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// figures are what was measured, each once a round.
type figures map[string][]float64

func (f figures) add(name string, v float64) { f[name] = append(f[name], v) }

// last is the figure of the present round.
func (f figures) last(name string) float64 { return f[name][len(f[name])-1] }

// median is the figure of all rounds.
func (f figures) median(name string) float64 {
	all := slices.Sorted(slices.Values(f[name]))
	if len(all) == 0 {
		return 0
	}
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// goal is one line of the table: a figure of rlstore against one of another.
type goal struct {
	what, ours, other, peer string  // peer says what other is
	mark                    float64 // 0 is none
	atMost                  bool    // the mark is an upper bound
}

var goals = []goal{
	{what: "takes/s, batches of 1,000", ours: "rlstore batches", other: "redis pipelined", peer: "Redis, pipelines of 1,000", mark: 10},
	{what: "takes/s, 4,000 goroutines", ours: "rlstore many", other: "redis pipelined", peer: "Redis, pipelines of 1,000", mark: 10},
	{what: "takes/s, one hot key, batches of 1,000", ours: "rlstore hot", other: "redis pipelined", peer: "Redis, pipelines of 1,000", mark: 8},
	{what: "takes/s, 64 goroutines", ours: "rlstore 64", other: "redis 64", peer: "Redis, 64 connections", mark: 3},
	{what: "JSON takes/s, 64 connections", ours: "rlstore json", other: "bare", peer: "bare net/http handler", mark: 0.7},
	{what: "one caller, p50 in ms", ours: "rlstore 1 p50", other: "engine p50", peer: "one entry of hashicorp/raft", mark: 1.2, atMost: true},

	// The same with the other log store, which is not the default.
	{what: "takes/s, batches of 1,000, wal", ours: "wal batches", other: "redis pipelined", peer: "Redis, pipelines of 1,000"},
	{what: "takes/s, 4,000 goroutines, wal", ours: "wal many", other: "redis pipelined", peer: "Redis, pipelines of 1,000"},
	{what: "takes/s, 64 goroutines, wal", ours: "wal 64", other: "redis 64", peer: "Redis, 64 connections"},
	{what: "JSON takes/s, 64 connections, wal", ours: "wal json", other: "bare", peer: "bare net/http handler"},
	{what: "one caller, p50 in ms, wal", ours: "wal 1 p50", other: "engine p50", peer: "one entry of hashicorp/raft, bbolt"},

	// The Go client decides these from memory, but for the first take of each key.
	{what: "takes/s, mode leased, 64 goroutines", ours: "rlstore leased", other: "redis 64", peer: "Redis, 64 connections"},
	{what: "takes/s, mode leased, one hot key, 64 goroutines", ours: "rlstore leased hot", other: "redis 64", peer: "Redis, 64 connections"},
	{what: "takes/s, mode soft, 64 goroutines", ours: "rlstore soft", other: "redis 64", peer: "Redis, 64 connections"},
	{what: "takes/s, mode soft, one hot key, 64 goroutines", ours: "rlstore soft hot", other: "redis 64", peer: "Redis, 64 connections"},
}

// peer is one more line: what others do, and why it can't be compared just so.
type peer struct{ what, name, caveat string }

var peers = []peer{
	{"Redis, 1 connection", "redis 1", "in memory, one process, lost with it"},
	{"Redis, 64 connections", "redis 64", "likewise"},
	{"Redis, pipelines of 1,000", "redis pipelined", "likewise; callers must gather their takes themselves"},
	{"Redis, fsync always, 1 connection", "redis-fsync 1", "one disk, no replica"},
	{"Redis, fsync always, 64 connections", "redis-fsync 64", "likewise; one fsync for all that waited"},
	{"Redis, fsync always, pipelines of 1,000", "redis-fsync pipelined", "likewise"},
	{"etcd, 1 caller", "etcd 1", "three members; one transaction a take, without a read, as nobody else writes"},
	{"etcd, 64 callers", "etcd 64", "likewise"},
}

// print writes the table.
func (r *run) print(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.Debug)
	line := func(cells ...any) {
		for _, c := range cells {
			fmt.Fprintf(w, "\t %v ", c)
		}
		fmt.Fprint(w, "\t\n")
	}
	line("what", "rlstore", "beside", "which is", "ratio", "mark", "met")
	line("---", "---", "---", "---", "---", "---", "---")
	for _, g := range goals {
		ours, other := r.figures.median(g.ours), r.figures.median(g.other)
		ratio := ours / other
		var mark, met string
		switch {
		case g.mark == 0:
		case g.atMost:
			mark, met = fmt.Sprintf("at most %g", g.mark), yes(ratio <= g.mark)
		default:
			mark, met = fmt.Sprintf("at least %g", g.mark), yes(ratio >= g.mark)
		}
		line(g.what, amount(ours), amount(other), g.peer, fmt.Sprintf("%.2f", ratio), mark, met)
	}
	for _, half := range []struct {
		what string
		mark float64 // ms
	}{{"p99", 10}, {"p99.9", 20}} {
		ms := r.figures.median("rlstore half " + half.what)
		line("half of the batches' load, "+half.what+" in ms", amount(ms), "", "", "", fmt.Sprintf("at most %g ms", half.mark), yes(ms <= half.mark))
	}
	for _, p := range peers {
		line(p.what, "", amount(r.figures.median(p.name)), fmt.Sprintf("takes/s, p50 %s ms, p99 %s ms; %s",
			amount(r.figures.median(p.name+" p50")), amount(r.figures.median(p.name+" p99")), p.caveat), "", "", "")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s\n", r.circumstances(ctx))
	return err
}

// amount is a figure to three digits, as people write it.
func amount(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// circumstances tells what a reader needs to know to believe the figures.
func (r *run) circumstances(ctx context.Context) string {
	var kernel syscall.Utsname
	_ = syscall.Uname(&kernel) // without it that one is blank
	var release strings.Builder
	for _, c := range kernel.Release {
		if c != 0 {
			release.WriteByte(byte(c))
		}
	}
	version := func(name string, args ...string) string {
		out, _ := exec.CommandContext(ctx, name, args...).CombinedOutput() // wrk -v ends with 1
		first, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSpace(first)
	}
	return strings.Join([]string{
		fmt.Sprintf("%s on %d processors (%s), Linux %s, of which the host took %.0f %% meanwhile",
			time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), processor(), release.String(), 100*r.steal),
		fmt.Sprintf("fdatasync of 4 KiB: p50 %.2f ms, p99 %.2f ms", ms(r.fsync.p50), ms(r.fsync.p99)),
		fmt.Sprintf("%d keys, %s a measurement", r.keys, r.duration),
		runtime.Version(), version(r.rlstore, "version"), version("redis-server", "--version"), version("etcd", "--version"), version("wrk", "-v"),
	}, "\n")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// processor is the model's name.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// startSteal begins to count the time that the host of a virtual machine took.
func startSteal() (share func() float64) {
	read := func() (steal, all float64) {
		f, err := os.Open("/proc/stat")
		if err != nil {
			return 0, 1
		}
		defer f.Close()
		var n [8]float64 // user, nice, system, idle, iowait, irq, softirq, steal
		var cpu string
		_, _ = fmt.Fscan(bufio.NewReader(f), &cpu, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7])
		for _, v := range n {
			all += v
		}
		return n[7], all
	}
	s0, a0 := read()
	return func() float64 {
		s, a := read()
		return (s - s0) / max(a-a0, 1)
	}
}

// fsyncs is what the disk does.
type fsyncs struct{ p50, p99 time.Duration }

// measureFsync appends to a file and syncs it, for a second.
func measureFsync(dir string) (fsyncs, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return fsyncs{}, err
	}
	defer f.Close()
	var all []time.Duration
	page := make([]byte, 4096)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return fsyncs{}, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return fsyncs{}, err
		}
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	return fsyncs{all[len(all)/2], all[len(all)*99/100]}, nil
}
