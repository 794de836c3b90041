package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/rlstore/rlstore/cluster-test/check"
)

// journal is the file in which one process of callers keeps what it asked and
// was told. Each request is written twice, one line in one write each time:
// before it is sent, as of unknown outcome, and when its outcome is known. So
// what was under way when the process was killed counts as unknown.
type journal struct {
	process int
	file    *os.File
	clients atomic.Int64
	groups  atomic.Int64

	mu   sync.Mutex
	next int64
}

// line is a line of a journal; of two with the same number the later counts.
type line struct {
	N    int64       `json:"n"`
	Ops  []check.Op  `json:"ops,omitempty"`
	Edit *check.Edit `json:"edit,omitempty"`
	// Wrong is what a caller saw that cannot be, whatever the logs say.
	Wrong string `json:"wrong,omitempty"`
}

// newJournal begins the journal of a process; process tells apart those of a run.
func newJournal(path string, process int) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{process: process, file: f}, nil
}

// perProcess bounds the clients, and the atomic batches, of one process.
const perProcess = 1 << 32

// client returns the number of a client that has not asked anything yet. A
// caller that does not know the outcome of its request goes on as another one,
// since the old one's request may still be under way.
func (j *journal) client() int {
	return int(int64(j.process)*perProcess + j.clients.Add(1))
}

// group returns the number of an atomic batch.
func (j *journal) group() int64 { return int64(j.process)*perProcess + j.groups.Add(1) }

func (j *journal) number() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	return j.next
}

// call notes that ops are about to be sent, and returns what notes their end:
// it is given back with outcomes and answers filled in.
func (j *journal) call(ops []check.Op) (returned func()) {
	l := line{N: j.number(), Ops: ops}
	now := sinceBoot()
	for i := range ops {
		ops[i].Call, ops[i].Return, ops[i].Outcome = now, check.Forever, check.Unknown
	}
	j.write(l)
	return func() {
		now := sinceBoot()
		for i := range ops {
			if ops[i].Outcome != check.Unknown {
				ops[i].Return = now
			}
		}
		j.write(l)
	}
}

// edit is call for an edit of a policy.
func (j *journal) edit(e *check.Edit) (returned func()) {
	l := line{N: j.number(), Edit: e}
	e.Call, e.Return, e.Outcome = sinceBoot(), check.Forever, check.Unknown
	j.write(l)
	return func() {
		if e.Outcome != check.Unknown {
			e.Return = sinceBoot()
		}
		j.write(l)
	}
}

// wrong notes what cannot be.
func (j *journal) wrong(format string, args ...any) {
	j.write(line{N: j.number(), Wrong: fmt.Sprintf(format, args...)})
}

func (j *journal) write(l line) {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = j.file.Write(append(b, '\n'))
	}
	if err != nil {
		panic(fmt.Sprintf("keep what was asked: %v", err)) // a history with a hole proves nothing
	}
}

func (j *journal) close() error { return j.file.Close() }

// sinceBoot is the clock of histories: one for all processes of the machine,
// which nobody sets. It stands still while the machine sleeps.
func sinceBoot() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

// readJournal adds what a journal holds to h, and returns what its callers found
// wrong. Its last line may be torn.
func readJournal(r io.Reader, h *check.History) (wrong []string, err error) {
	var lines []line
	at := map[int64]int{}
	dec := json.NewDecoder(r)
	for {
		var l line
		switch err := dec.Decode(&l); {
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			for _, l := range lines {
				h.Ops = append(h.Ops, l.Ops...)
				if l.Edit != nil {
					h.Edits = append(h.Edits, *l.Edit)
				}
				if l.Wrong != "" {
					wrong = append(wrong, l.Wrong)
				}
			}
			return wrong, nil
		case err != nil:
			return nil, fmt.Errorf("read a journal: line %d: %w", len(lines), err)
		}
		if i, ok := at[l.N]; ok {
			lines[i] = l
			continue
		}
		at[l.N] = len(lines)
		lines = append(lines, l)
	}
}
