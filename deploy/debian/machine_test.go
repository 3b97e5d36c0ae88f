package debian

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// machine is this machine's root folder, with changes that go with the test, in a
// mount namespace of its own.
type machine struct {
	*testing.T
	pid  int // of a process in the namespace
	root string
}

// layout makes a machine of $1, on which /debs is $2. It has a systemctl that only
// notes what it is told.
const layout = `
	mount -t tmpfs tmpfs "$1"
	mkdir "$1/upper" "$1/work" "$1/root"
	mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root" || exit 77
	cd "$1/root"
	mount --rbind /proc proc
	mount --rbind /dev dev
	mount -t tmpfs tmpfs run
	mkdir -p debs run/systemd/system var/lib/dfsnapshotter
	mount -t tmpfs tmpfs var/lib/dfsnapshotter
	mount --bind "$2" debs
	rm -rf etc/dpkg/dpkg.cfg.d/* etc/systemd/system/df* etc/dfsnapshotter
	echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/test # nobody needs this disk tomorrow
	printf '#!/bin/sh\necho "$@" >>/run/told\n' >usr/local/bin/systemctl
	chmod 755 usr/local/bin/systemctl
	echo ready
	exec sleep infinity`

func boot(t *testing.T, debs string) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("missing: root")
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-euc", layout, "", dir, debs)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 77 {
			t.Skip("missing: overlayfs over /")
		}
		t.Fatal(err)
	}
	return &machine{T: t, pid: cmd.Process.Pid, root: dir + "/root"}
}

// start starts a process that ends with the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
}

// command is one that is run on the machine.
func (m *machine) command(argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--mount", "--target", strconv.Itoa(m.pid), "chroot", m.root}, argv...)...)
}

// start starts a program that ends with the test.
func (m *machine) start(argv ...string) *exec.Cmd {
	m.Helper()
	cmd := m.command(argv...)
	cmd.Stdout, cmd.Stderr = m.Output(), m.Output()
	start(m.T, cmd)
	return cmd
}

// try runs a script.
func (m *machine) try(script string) (string, error) {
	out, err := m.command("sh", "-euc", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run runs a script that must not fail.
func (m *machine) run(script string) string {
	m.Helper()
	out, err := m.try(script)
	if err != nil {
		m.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

// eventually runs a script until it does not fail.
func (m *machine) eventually(script string) {
	m.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		out, err := m.try(script)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.Fatalf("%s: %v: %s", script, err, out)
		}
	}
}

// told returns what systemctl was told since the last time.
func (m *machine) told() string {
	m.Helper()
	return m.run("touch /run/told; cat /run/told; rm /run/told")
}
