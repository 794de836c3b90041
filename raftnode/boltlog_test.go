package raftnode

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A log that could not be made for want of room leaves nothing behind that the next
// start would take for a damaged file.
func TestALogThatFoundNoRoomCanBeMadeLater(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip("this system has nothing that stands for a full disk: ", err)
	}
	path := filepath.Join(t.TempDir(), "logs.db")
	o := boltOptions()
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		// The file is there, cut short, and what bbolt writes finds no room.
		if err := os.WriteFile(name, make([]byte, 4096), mode); err != nil {
			return nil, err
		}
		return os.OpenFile(full, flag, mode)
	}
	if f, err := openBoltWith(path, o); !errors.Is(err, syscall.ENOSPC) {
		if err == nil {
			f.Close()
		}
		t.Fatalf("on a full disk: %v", err)
	}
	f, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
