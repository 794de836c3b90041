//go:build !linux

package main

// coarseTimers is for Linux only.
func coarseTimers() {}
