package containerd_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
)

// waits runs a program until the test ends, under a name that makes /proc hard to read.
func waits(t *testing.T) (pid int) {
	t.Helper()
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Skip("missing: cat")
	}
	program := filepath.Join(t.TempDir(), "a) S 1 (b")
	if err := os.Symlink(cat, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it runs
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestChanged compares a file's time with a process's start, also where nobody has
// looked at the process before the file was changed: its folder in /proc is as old as
// the first look at it.
func TestChanged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	write := func(at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now()
	p := containerd.Process{PID: waits(t), Config: path}
	after := time.Now().Add(50 * time.Millisecond) // more than what the kernel rounds by
	write(after)
	time.Sleep(time.Until(after.Add(50 * time.Millisecond))) // a first look now is later than the file
	if at, ok := p.Changed(); !ok || !at.Equal(after) {
		t.Errorf("changed after the start, it says %v, %v", at, ok)
	}
	write(before)
	if at, ok := p.Changed(); ok {
		t.Errorf("changed before the start, it says at %v", at)
	}
	write(before.Add(-time.Hour))
	if _, ok := p.Changed(); ok {
		t.Error("changed an hour before the start")
	}
	for what, p := range map[string]containerd.Process{"no file": {PID: p.PID, Config: path + ".none"}, "no process": {PID: 1 << 30, Config: path}} {
		if at, ok := p.Changed(); ok {
			t.Errorf("%s: changed at %v", what, at)
		}
	}
}
