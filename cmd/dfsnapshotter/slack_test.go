package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTimerSlack(t *testing.T) {
	before := slackOf(t, "/proc/self")
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
		if got := slackOf(t, filepath.Join("/proc", th.Name())); got != want {
			t.Errorf("thread %s: %s, want %s", th.Name(), got, want)
		}
	}
}

func slackOf(t *testing.T, dir string) time.Duration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "timerslack_ns"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n)
}
