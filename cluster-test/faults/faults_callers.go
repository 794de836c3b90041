package main

import (
	"context"
	"time"
)

var callerFaults = []fault{
	{"callers-gone", "kill -9 of a process of callers in the midst of their requests; another one begins", 0, 2 * time.Second, strikeCallers},
}

func strikeCallers(ctx context.Context, b *blow) error {
	b.note("for %v", b.Lasts)
	b.callersMu.Lock()
	defer b.callersMu.Unlock()
	b.passing.Kill()
	wait(ctx, b.Lasts)
	return b.startPassing()
}
