package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/install"
)

// TestUndoNothing undoes what others have undone: it is forgotten all the same.
func TestUndoNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "daemon.json")
	var out strings.Builder
	i := &installer{
		Config: install.Config{Mirror: "127.0.0.1:65001", DockerConfig: path, State: filepath.Join(dir, "install")},
		write:  true, out: &out,
	}
	run := func(want string) {
		t.Helper()
		out.Reset()
		if err := i.run(t.Context(), []string{string(install.Docker)}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("it says %q: %v", out.String(), err)
		}
	}
	run("wrote")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	i.undo, i.write = true, false
	run("nothing to change")
	if _, err := os.Stat(i.State); err != nil {
		t.Errorf("without --write: %v", err)
	}
	i.write = true
	run("nothing to change")
	if _, err := os.Stat(i.State); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder for what there was is left: %v", err)
	}
}

// TestRestartNothing wants Docker to take notice of what an earlier call wrote.
func TestRestartNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out strings.Builder
	i := &installer{
		Config: install.Config{Mirror: "127.0.0.1:65001", DockerConfig: filepath.Join(dir, "daemon.json"), State: filepath.Join(dir, "install")},
		write:  true, out: &out,
	}
	for range 2 {
		out.Reset()
		if err := i.run(t.Context(), []string{string(install.Docker)}); err != nil {
			t.Fatal(err)
		}
		i.restart = true
	}
	for _, want := range []string{"nothing to change", "docker was left alone", "systemctl reload docker"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it says %q, without %q", out.String(), want)
		}
	}
}
