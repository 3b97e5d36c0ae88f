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
func setTimerSlack(slack time.Duration) (err error) {
	text := []byte(strconv.FormatInt(slack.Nanoseconds(), 10))
	for seen, fresh := map[string]bool{}, true; fresh; { // one may be made meanwhile by one that has not been set
		threads, e := os.ReadDir("/proc/self/task")
		err, fresh = errors.Join(err, e), false
		for _, t := range threads {
			if seen[t.Name()] {
				continue
			}
			seen[t.Name()], fresh = true, true
			// It is not below /proc/self/task, but each thread has a folder that no listing shows.
			e := os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), text, 0)
			if !errors.Is(e, os.ErrNotExist) { // else it has ended meanwhile
				err = errors.Join(err, e)
			}
		}
	}
	return err
}
