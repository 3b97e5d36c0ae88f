package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// ballastSize is about what a daemon holds that serves a few images.
const ballastSize = 8 << 20

// newBallast returns what counts as part of the heap when the garbage collector
// decides how much garbage is worth a round, and takes no memory as long as nobody
// touches it. A daemon's own data is so small that a container's start would else
// cost ten rounds.
func newBallast() ([]byte, error) {
	b := make([]byte, ballastSize)
	if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil { // had it been used before, it would be in memory
		return nil, fmt.Errorf("ballast: %w", err)
	}
	hugeHeap()
	return b, nil
}

// hugeSize is what the heap hardly grows to while containers start.
const hugeSize = 64 << 20

// hugeHeap lets the kernel bring the heap into memory by 2 MiB, not by 4 KiB: while a
// container starts most of it is touched for the first time, or for the first time since
// the runtime gave it back. What is free after this is what is used next, and takes
// memory only when it is touched.
func hugeHeap() {
	b := make([]byte, hugeSize)
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel without them does as before
	runtime.KeepAlive(b)
	runtime.GC()
}
