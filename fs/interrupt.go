package fs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"time"
)

var errKilled = errors.New("reader killed")

// killable returns a context that ends when process pid is about to be killed.
// An INTERRUPT alone does not end it: every signal sends one, Go's preemption
// by the thousand, and programs that have never seen EINTR from a disk die of
// it. The kernel sends only one per request, so from then on we look.
func killable(parent context.Context, cancel <-chan struct{}, pid uint32) (context.Context, func()) {
	ctx, stop := context.WithCancelCause(parent)
	go func() { // ends with ctx: stop is always called
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for !killed(pid) {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
		stop(errKilled)
	}()
	return ctx, func() { stop(nil) }
}

// killed reports whether SIGKILL is pending for thread pid, or it is gone. A
// pid of 0 is a process outside our PID namespace, of which nothing is known.
func killed(pid uint32) bool {
	if pid == 0 {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	return err == nil && (pendingKill(b, "SigPnd:") || pendingKill(b, "ShdPnd:"))
}

func pendingKill(status []byte, key string) bool {
	_, rest, ok := bytes.Cut(status, []byte("\n"+key))
	if !ok {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	return err == nil && mask&(1<<(9-1)) != 0
}
