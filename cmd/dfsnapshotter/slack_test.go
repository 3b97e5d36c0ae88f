package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTimerSlack(t *testing.T) {
	before, err := slackOf("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setTimerSlack(before); err != nil {
			t.Error(err)
		}
	})
	want := before + time.Microsecond
	if err := setTimerSlack(want); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, th := range threads {
		got, err := slackOf(filepath.Join("/proc", th.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil || got != want {
			t.Errorf("thread %s: %s, want %s: %v", th.Name(), got, want, err)
		}
	}
}

func slackOf(dir string) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(dir, "timerslack_ns"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return time.Duration(n), err
}
