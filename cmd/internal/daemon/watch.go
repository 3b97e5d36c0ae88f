package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// watchSlack is how much later than asked for the kernel may wake the thread of Go's
// runtime that looks after the others (sysmon). It sleeps for 20 µs between two looks
// whenever calls of the kernel block, as reads of /dev/fuse do all the time: with the
// kernel's slack of 50 µs that takes a sixth of a daemon's processor time while
// containers start. It never sleeps for more than 10 ms by itself.
const watchSlack = 10 * time.Millisecond

// RelaxWatch sets that thread's timer slack (proc_pid_timerslack_ns(5)). Threads that it
// makes later inherit it, so that timers may be as late. Without CAP_SYS_NICE it fails,
// which costs processor time only.
func RelaxWatch() error {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return err
	}
	defer dir.Close()
	// The kernel lists threads as they were made, and a program's first makes this one
	// before anything else (main in runtime/proc.go).
	threads, err := dir.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(threads) < 2 {
		return fmt.Errorf("%s lists %d threads", dir.Name(), len(threads))
	}
	// It is not below /proc/self/task, but each thread has a folder that no listing shows.
	name := filepath.Join("/proc", threads[1], "timerslack_ns")
	return os.WriteFile(name, []byte(strconv.FormatInt(watchSlack.Nanoseconds(), 10)), 0)
}
