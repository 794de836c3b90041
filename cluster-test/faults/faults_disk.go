package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var diskFaults = []fault{
	{"disk-full", "a node's disk is full, and has room again later; the node may be started while it has none", time.Second, 4 * time.Second, strikeFull},
	{"disk-refuses", "a node's writes fail, and nothing is written", 200 * time.Millisecond, 2 * time.Second, writesFail(diskRefuses)},
	{"disk-lies", "a node's writes fail, though they are written", 200 * time.Millisecond, 2 * time.Second, writesFail(diskLies)},
	{"disk-slow", "each write of a node takes 60 ms more", time.Second, 6 * time.Second, writesLag(diskSlow)},
	{"disk-hangs", "a node's writes hang for seconds, then pass", time.Second, 4 * time.Second, writesLag(diskStuck)},
	{"disk-stuck", "a node's writes hang for longer than it bears", 12 * time.Second, 14 * time.Second, writesFail(diskStuck)},
	{"bit-flip", "a bit flips in a file of a node that is down; then it starts", 0, time.Second, strikeBitFlip},
	{"lost-disk", "a node loses its data, is refused under its old id, and another one takes its place", 0, time.Second, strikeLostDisk},
}

// afterFailure bounds how long a node may take to end once a write has failed:
// package server gives its close 10 s.
const afterFailure = 15 * time.Second

// writesFail makes a node's writes fail in a way after which it has to end.
func writesFail(how diskFault) func(context.Context, *blow) error {
	return func(ctx context.Context, b *blow) error {
		n, release, err := b.hold(ctx)
		if err != nil {
			return err
		}
		defer release()
		b.note("%s for %v", n.id, b.Lasts)
		n.expectEnd()
		if err := n.setDisk(how); err != nil {
			return err
		}
		wait(ctx, b.Lasts)
		if err := n.setDisk(diskHealthy); err != nil {
			return err
		}
		return b.afterWrites(ctx, n)
	}
}

// afterWrites lets a node whose writes failed end, if it was to write at all,
// and starts it again.
func (b *blow) afterWrites(ctx context.Context, n *node) error {
	if p := n.process(); !p.EndsWithin(afterFailure) {
		n.mu.Lock()
		n.expected = false
		n.mu.Unlock()
		return nil
	}
	return b.back(ctx, n)
}

// writesLag delays a node's writes in a way that it has to bear.
func writesLag(how diskFault) func(context.Context, *blow) error {
	return func(ctx context.Context, b *blow) error {
		n, release, err := b.hold(ctx)
		if err != nil {
			return err
		}
		defer release()
		b.note("%s for %v", n.id, b.Lasts)
		if err := n.setDisk(how); err != nil {
			return err
		}
		wait(ctx, b.Lasts)
		return n.setDisk(diskHealthy)
	}
}

func strikeFull(ctx context.Context, b *blow) error {
	n, release, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	n.expectEnd()
	if !n.small { // then its writes only say so
		b.note("%s for %v, not really", n.id, b.Lasts)
		if err := n.setDisk(diskFull); err != nil {
			return err
		}
		wait(ctx, b.Lasts)
		if err := n.setDisk(diskHealthy); err != nil {
			return err
		}
		return b.afterWrites(ctx, n)
	}
	b.note("%s for %v", n.id, b.Lasts)
	filler := filepath.Join(n.data(), "filler")
	if err := fill(filler); err != nil {
		return err
	}
	wait(ctx, b.Lasts/2)
	if b.rng.IntN(2) == 0 && !n.running() { // who starts it does not know yet
		if err := n.start(); err != nil {
			return err
		}
		n.expectEnd()
	}
	wait(ctx, b.Lasts/2)
	if err := os.Remove(filler); err != nil {
		return err
	}
	return b.afterWrites(ctx, n)
}

// fill writes a file until its disk has no room.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, size := range []int{1 << 20, 4 << 10, 1} { // down to the last byte
		for b := make([]byte, size); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			break
		}
		err = nil
	}
	return errors.Join(err, f.Close())
}

func strikeBitFlip(ctx context.Context, b *blow) error {
	repaired, err := b.mayDamage()
	if err != nil {
		return err
	}
	n, release, err := b.hold(ctx)
	if err != nil {
		repaired()
		return err
	}
	defer release()
	n.kill()
	file, err := b.flip(n)
	if err != nil {
		repaired()
		return err
	}
	b.note("%s", file)
	n.mu.Lock()
	n.damaged = file
	n.mu.Unlock()
	from := n.logSize()
	if err := n.start(); err != nil {
		return err
	}
	p := n.process()
	started, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	_ = poll(started, func() error { return n.ready(started, b.operator) }, func() bool { return !p.Running() })
	if !p.Running() { // it could not be repaired, and its message asks for another node
		output := n.logSince(from)
		if err := saysWhy(output, file); err != nil {
			b.violation("bit-flip: %v", err)
		} else if !strings.Contains(output, syscall.ENOSPC.Error()) {
			b.violation("bit-flip: %s ended, where it should have been repaired:\n%s", n.id, output)
		}
		if err := b.replace(ctx, n); err != nil {
			return err
		}
		repaired()
		return nil
	}
	// Other faults may keep its leaders from sending it all again, for as long as they
	// last. Until then nobody else's files are damaged.
	if err := b.votes(ctx, n); err != nil {
		return err
	}
	if n.running() {
		n.mu.Lock()
		n.damaged = ""
		n.mu.Unlock()
		if err := os.RemoveAll(filepath.Join(n.data(), "damaged")); err != nil { // as an operator would
			return err
		}
		repaired()
	}
	return nil
}

// saysWhy checks what a node wrote that refused to start: a sentence that names
// a place, and no trace of a panic.
func saysWhy(output, file string) error {
	what := filepath.Base(file)
	switch {
	case strings.Contains(output, "goroutine "):
		return fmt.Errorf("damage of %s ends the node with a panic:\n%s", file, output)
	case !strings.Contains(output, what) && !strings.Contains(output, "group ") && !strings.Contains(output, "node.json"):
		return fmt.Errorf("the node does not say that %s is damaged:\n%s", file, output)
	}
	return nil
}

// flip changes one bit of a file of n that is in use, and tells which.
func (b *blow) flip(n *node) (string, error) {
	want := []string{"logs.db", "logs.db", "logs.db", "state.bin", "meta.json", "node.json", "node.spare.json"}[b.rng.IntN(7)]
	var files []string
	for _, want := range []string{want, "logs.db"} { // there may be no snapshot yet
		if len(files) > 0 {
			break
		}
		err := filepath.WalkDir(n.data(), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == want {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%w: %s has no log yet", errNotNow, n.id)
	}
	path := files[b.rng.IntN(len(files))]
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	// Most of a log's file may never have been written; a zero there is no loss.
	var used []int
	for i, c := range content {
		if c != 0 {
			used = append(used, i)
		}
	}
	if len(used) == 0 {
		return "", fmt.Errorf("%w: %s is empty", errNotNow, path)
	}
	at, bit := used[b.rng.IntN(len(used))], b.rng.IntN(8)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	_, err = f.WriteAt([]byte{content[at] ^ 1<<bit}, int64(at))
	rel, _ := filepath.Rel(n.dir, path)
	return fmt.Sprintf("%s: bit %d of byte %d: %s", n.id, bit, at, rel), errors.Join(err, f.Close())
}

func strikeLostDisk(ctx context.Context, b *blow) error {
	repaired, err := b.mayDamage()
	if err != nil {
		return err
	}
	defer repaired()
	n, release, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	b.note("%s", n.id)
	n.kill()
	if err := n.wipe(); err != nil {
		return err
	}
	from := n.logSize()
	if err := n.start(); err != nil {
		return err
	}
	n.expectEnd()
	p := n.process()
	if wait(ctx, 100*time.Millisecond) && p.EndsWithin(8*time.Second) {
		if out := n.logSince(from); !strings.Contains(out, "forgotten its votes") {
			b.violation("lost-disk: %s does not say why it may not return:\n%s", n.id, out)
		}
	} // else it has found nobody to ask yet, and has not voted either
	return b.replace(ctx, n)
}
