package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// timerSlack is how much later than asked for the kernel may wake a thread of the
// daemon that sleeps (prctl(2), PR_SET_TIMERSLACK); 50 µs is the kernel's default.
// Go's runtime has a thread that looks after the others, and sleeps for 20 µs
// between two looks whenever calls of the kernel block, as reads of /dev/fuse do all
// the time: with the default it takes a sixth of the processor time of a start.
const timerSlack = 500 * time.Microsecond

// setTimerSlack sets the slack of all threads; those made later have that of the
// thread that made them. For other threads than the calling one it takes
// CAP_SYS_NICE.
func setTimerSlack(slack time.Duration) error {
	threads, err := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		// It is not below /proc/self/task, but each thread has a folder that no listing shows.
		file := filepath.Join("/proc", t.Name(), "timerslack_ns")
		if e := os.WriteFile(file, []byte(strconv.FormatInt(slack.Nanoseconds(), 10)), 0); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e) // else it has ended meanwhile
		}
	}
	return err
}
