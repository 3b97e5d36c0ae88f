package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/install"
)

// site is a machine with containerd, Docker and CRI-O, whose systemctl writes down what
// it is asked, and fails if a file of that name is beside it ("restart containerd").
type site struct {
	*testing.T
	dir string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t, t.TempDir()}
	s.program("systemctl", `cd "${0%/*}"
echo "$*" >>asked
[ ! -e "$*" ] || { cat "$*" >&2; exit 5; }
`)
	s.program("crio", "")
	t.Setenv("PATH", s.dir+":"+os.Getenv("PATH"))
	return s
}

func (s *site) program(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		s.Fatal(err)
	}
}

// fails has what systemctl is asked fail, or work again.
func (s *site) fails(what, says string, yes bool) {
	s.Helper()
	path := filepath.Join(s.dir, what)
	err := os.Remove(path)
	if yes {
		err = os.WriteFile(path, []byte(says), 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// asked returns what systemctl was asked since the last time.
func (s *site) asked() []string {
	s.Helper()
	path := filepath.Join(s.dir, "asked")
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Fatal(err)
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

// install runs the command.
func (s *site) install(args ...string) (string, error) {
	s.Helper()
	containerd, err := filepath.Abs("../../.tools/bin/containerd")
	if err == nil {
		_, err = os.Stat(containerd)
	}
	if err != nil {
		s.Skipf("missing: %v (script/install-deps)", err)
	}
	config := filepath.Join(s.dir, "df.toml")
	text := "[registry]\nhosts_dir = '" + s.dir + "/certs.d'\n[mirror]\nlisten = '127.0.0.1:65001'\nupstream = 'https://registry-1.docker.io'\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	cmd := newCommand()
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{
		"install", "--config", config, "--state", filepath.Join(s.dir, "state"), "--containerd", containerd,
		"--containerd-config", filepath.Join(s.dir, "containerd/config.toml"),
		"--docker-config", filepath.Join(s.dir, "daemon.json"), "--registries-conf", filepath.Join(s.dir, "registries.conf"),
	}, args...))
	err = cmd.ExecuteContext(s.Context())
	return out.String(), err
}

// asks runs the command, which must ask systemctl this and no more.
func (s *site) asks(args string, want ...string) {
	s.Helper()
	if out, err := s.install(strings.Fields(args)...); err != nil {
		s.Errorf("install %s: %v: %s", args, err, out)
	}
	if diff := cmp.Diff(want, s.asked(), cmpopts.EquateEmpty()); diff != "" {
		s.Errorf("install %s (-want +got):\n%s", args, diff)
	}
}

// TestRestart restarts only what was asked for, and only if its files were changed.
func TestRestart(t *testing.T) {
	s := newSite(t)
	s.asks("--restart containerd docker cri-o")
	s.asks("--write --restart docker", "reload docker", "is-active --quiet docker")
	s.asks("--write --restart docker")
	s.asks("--write cri-o")
	s.asks("--write --restart docker containerd", "restart containerd", "is-active --quiet containerd")
	s.asks("--undo --restart")
	s.asks("--undo --write --restart cri-o", "reload crio", "is-active --quiet crio")
	s.asks("--undo --write docker")
	s.asks("--undo --write --restart", "restart containerd", "is-active --quiet containerd")
	if err := os.Remove(filepath.Join(s.dir, "crio")); err != nil {
		t.Fatal(err)
	}
	if install.Unit.Here(install.Unit{Name: "crio"}) {
		t.Skip("this machine has CRI-O")
	}
	s.asks("--write --restart podman")
	s.asks("--undo --write --restart podman")
}

// TestRestartFails says which service did not take notice, why, and how to go back; its
// files stay as they were written, and going back restarts it again.
func TestRestartFails(t *testing.T) {
	s := newSite(t)
	s.fails("restart containerd", "Job for containerd.service failed.", true)
	_, err := s.install("--write", "--restart", "containerd")
	for _, want := range []string{
		"systemctl restart containerd: exit status 5: Job for containerd.service failed.", "What was written stays",
		"journalctl -u containerd", "dfsnapshotter install containerd --undo --write --restart",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q: %v", want, err)
		}
	}
	written, err := os.ReadFile(filepath.Join(s.dir, "containerd/config.toml"))
	if err != nil {
		t.Error(err)
	}
	s.asked()
	s.fails("restart containerd", "", false)
	s.asks("--write docker")

	s.fails("is-active --quiet containerd", "", true) // it ends soon after its start
	_, err = s.install("--undo", "--write", "--restart")
	if want := "systemctl is-active --quiet containerd: exit status 5\nIts files are as they were before"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("it does not say %q: %v", want, err)
	}
	if diff := cmp.Diff([]string{"reload docker", "is-active --quiet docker", "restart containerd", "is-active --quiet containerd"}, s.asked()); diff != "" {
		t.Errorf("one that fails keeps the other from being restarted (-want +got):\n%s", diff)
	}
	for _, name := range []string{"containerd/config.toml", "daemon.json", "state"} {
		if _, err := os.Stat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%d bytes were written): %v", name, len(written), err)
		}
	}
}

// TestRestartWithoutSystemd asks the real systemctl where systemd does not run.
func TestRestartWithoutSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemctl"); err != nil {
		t.Skip("missing: systemctl")
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd runs here: it is not asked to restart anything")
	}
	s := &site{t, t.TempDir()}
	_, err := s.install("--write", "--restart", "docker")
	if err == nil || !strings.Contains(err.Error(), "systemctl reload docker: exit status") || !strings.Contains(err.Error(), "install docker --undo") {
		t.Errorf("it says %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "daemon.json")); err != nil {
		t.Error(err)
	}
}
