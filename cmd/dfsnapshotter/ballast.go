package main

import (
	"fmt"

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
	return b, nil
}
