package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Without anything to do it starts in less than a second, and has less than 60 MiB of
// memory. Of the second what its processor took counts: a machine that runs
// other tests, too, has it wait.
func TestSmall(t *testing.T) {
	t.Parallel()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	config := write(t, fmt.Sprintf("listen = '127.0.0.1:0'\ngrpc_listen = '127.0.0.1:0'\ndatabase = 'sqlite://%s/manager.db'\n[debug]\nlisten = '127.0.0.1:0'\n", t.TempDir()))
	cmd := exec.Command(filepath.Join(dir, "dfmanager"), "--config", config)
	cmd.Env = []string{"DFMANAGER_SECRET_KEY=" + strings.Repeat("k", 64)}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := false
	for lines := bufio.NewScanner(said); !ready && lines.Scan(); {
		ready = strings.Contains(lines.Text(), "msg=ready")
	}
	took := time.Since(began)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	if !ready {
		t.Fatal("it does not start")
	}
	most, err := strconv.Atoi(regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindStringSubmatch(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	if cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); cpu >= time.Second || most >= 60<<10 {
		t.Errorf("it was ready after %v, with %v of a processor and %d KiB of memory", took, cpu, most)
	} else {
		t.Logf("ready after %v, with %v of a processor and %d KiB of memory at most", took, cpu, most)
	}
}
