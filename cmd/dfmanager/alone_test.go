package main

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const aloneEnv = "DFMANAGER_TEST_ALONE"

// alone has a test run in a process of its own, whose network is the loopback device
// and nothing else, and returns true there. Chromium drops what it is loading
// (net::ERR_NETWORK_CHANGED) when the machine's addresses change, as they do
// while other packages' tests set up hosts, and a form that was sent is not
// sent again. Without root the test runs where it is.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("ip link set lo up: %v: %s", err, out)
		}
		return true
	}
	if os.Getuid() != 0 {
		return true
	}
	_ = browser(t) // where there is none it is skipped here
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1", "-pictures=" + *pictures}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a network of its own: %v\n%s", err, out)
	} else if !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("it did not run:\n%s", out)
	}
	return false
}
