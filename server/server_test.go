package server

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAStuckDiskDoesNotKeepTheProcessAlive(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	err := closeWithin(time.Millisecond, func() error { <-stuck; return nil })
	if err == nil || !strings.Contains(err.Error(), "did not stop within 1ms") {
		t.Errorf("a close that never ends gives %v", err)
	}
	failed := errors.New("failed")
	if err := closeWithin(time.Minute, func() error { return failed }); err != failed {
		t.Errorf("a close that fails gives %v", err)
	}
}
