package process

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/rlstore/rlstore/raftnode"
)

// A shifted clock is the machine's and what a file of 8 bytes says, little-endian
// nanoseconds: its reader sees a shift the moment that it is written.

// SetClock writes by how much the clock of a file is off.
func SetClock(file string, by time.Duration) error {
	return Overwrite(file, binary.LittleEndian.AppendUint64(nil, uint64(by)))
}

// Overwrite changes a file in place, in one write, so that a reader sees the old bytes
// or the new ones.
func Overwrite(file string, b []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

// OpenClock is the clock of a file that [SetClock] has written, for as long as the
// process lives.
func OpenClock(file string) (raftnode.Clock, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	return shiftedClock{raftnode.BootClock(), f}, nil
}

type shiftedClock struct {
	raftnode.Clock
	shift *os.File
}

// Now implements raftnode.Clock.
func (c shiftedClock) Now() int64 {
	var b [8]byte
	if _, err := c.shift.ReadAt(b[:], 0); err != nil {
		panic(err)
	}
	return c.Clock.Now() + int64(binary.LittleEndian.Uint64(b[:]))
}
