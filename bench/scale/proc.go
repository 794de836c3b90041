package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// memory is what /proc tells of a process, in bytes.
type memory struct {
	resident, peak int64
	anonymous      int64 // heap and stacks
	file           int64 // mapped files, which the kernel may drop at any time
}

func (n *node) memory() (m memory, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return m, err
	}
	fields := map[string]*int64{"VmRSS:": &m.resident, "VmHWM:": &m.peak, "RssAnon:": &m.anonymous, "RssFile:": &m.file}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) != 3 || fields[f[0]] == nil {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return m, err
		}
		*fields[f[0]] = kib << 10
	}
	return m, nil
}

func (c *cluster) printMemory(phase string) error {
	for _, n := range c.nodes {
		m, err := n.memory()
		if err != nil {
			return err
		}
		fmt.Printf("%-9s %s resident %s (heap %s, files %s); most so far %s\n",
			phase, n.id, gib(m.resident), gib(m.anonymous), gib(m.file), gib(m.peak))
	}
	return nil
}

func gib(b int64) string { return fmt.Sprintf("%.3f GiB", float64(b)/(1<<30)) }

// tick is the unit of processor time in /proc, the same on every Linux.
const tick = 10 * time.Millisecond

// processorTime sums what the nodes' processes have used.
func (c *cluster) processorTime() (sum time.Duration, err error) {
	for _, n := range c.nodes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
		if err != nil {
			return 0, err
		}
		// The name, which may hold spaces, ends with the last parenthesis; utime
		// and stime are fields 14 and 15, counted from 1.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, ticks := range f[11:13] {
			v, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(v) * tick
		}
	}
	return sum, nil
}
