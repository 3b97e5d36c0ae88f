package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// systemd stands for a machine's: what a unit starts is no child of who asked. It
// understands what `dfsnapshotter node` says to it.
type systemd struct {
	*testing.T
	host string   // root folder of the machine
	flag []string // after the words of a unit's ExecStart; set before serve

	mu   sync.Mutex // guards the rest
	runs map[string]*exec.Cmd
	said []string
}

// serve takes orders, one a line, from the systemctl below the machine's root.
func (s *systemd) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		answer := "ok"
		if err := s.obey(strings.Fields(line)); err != nil {
			answer = err.Error()
		}
		fmt.Fprintln(c, answer)
		_ = c.Close()
	}
}

func (s *systemd) obey(order []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, strings.Join(order, " "))
	unit := order[len(order)-1]
	switch strings.Join(order[:len(order)-1], " ") {
	case "", "enable": // daemon-reload
		return nil
	case "start", "enable --now":
		return s.start(unit)
	case "restart":
		if run := s.runs[unit]; run != nil {
			_ = run.Process.Signal(syscall.SIGTERM) // KillMode=process
			_ = run.Wait()
			delete(s.runs, unit)
		}
		return s.start(unit)
	}
	return fmt.Errorf("systemctl %s is not understood", order)
}

func (s *systemd) start(unit string) error {
	if s.runs[unit] != nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(s.host, "etc/systemd/system", unit))
	if err != nil {
		return err
	}
	_, line, _ := strings.Cut(string(text), "\nExecStart=")
	line, _, _ = strings.Cut(line, "\n")
	if _, after, ok := strings.Cut(line, "; exec "); ok { // the keeper's, in a shell
		line = strings.TrimSuffix(after, "'")
	}
	argv := strings.Fields(line)
	cmd := exec.Command(filepath.Join(s.host, argv[0]), append(argv[1:], s.flag...)...)
	log, err := os.OpenFile(filepath.Join(s.host, unit+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.runs[unit] = cmd
	return cmd.Start()
}

func (s *systemd) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, unit := range []string{"dfsnapshotter.service", "dfsnapshotter-keeper.service"} {
		if run := s.runs[unit]; run != nil {
			_ = run.Process.Kill()
			_ = run.Wait()
		}
	}
}

func (s *systemd) pid(unit string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[unit].Process.Pid
}

// pod runs `dfsnapshotter node` as the DaemonSet does, in process and mount
// namespaces of its own, until stop kills it with all that it has started.
func (s *systemd) pod(program, config string) (stop func()) {
	s.Helper()
	log := must(os.CreateTemp(s.TempDir(), "pod"))(s.T)
	cmd := exec.CommandContext(s.Context(), program, "node", "--config", config, "--host", s.host)
	cmd.Env = append(os.Environ(), "DF_MANAGER_SERVICE_HOST=10.9.8.7")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	err := lab.Eventually(s.Context(), time.Minute, func() error {
		text, err := os.ReadFile(log.Name())
		if err == nil && !strings.Contains(string(text), "is=ready") {
			err = fmt.Errorf("the pod is not ready:\n%s", text)
		}
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestDaemonSetUpgrade has pods of two versions put the agent onto a machine, and
// kills each: what containers read goes on, mounts and keeper stay.
func TestDaemonSetUpgrade(t *testing.T) {
	n := start(t, options{})
	n.must(n.d.Stop())
	n.must(n.d.Reset(n.ctx)) // ends the lab's own keeper, too
	n.must(n.d.Stop())
	n.must(lab.Eventually(n.ctx, 10*time.Second, func() error {
		for _, pid := range n.d.Keepers() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return errors.New("the lab's keeper lives")
		}
		return nil
	}))
	s := &systemd{T: t, host: n.Path("machine"), runs: map[string]*exec.Cmd{}}
	s.flag = []string{"--config", filepath.Join(s.host, "etc/dfsnapshotter/dfsnapshotter.toml")}
	ln := s.boot()
	defer ln.Close()
	go s.serve(ln)
	defer s.stop()

	config := n.Path("pod.toml")
	text := string(must(os.ReadFile(n.Path("df.toml")))(t)) + "[peer]\nidc = \"${DF_MANAGER_SERVICE_HOST}\"\n"
	n.must(os.WriteFile(config, []byte(text), 0o644))

	stop := s.pod(s.build("v1"), config)
	if put := string(must(os.ReadFile(s.flag[1]))(t)); !strings.Contains(put, `idc = "10.9.8.7"`) {
		t.Errorf("the configuration is %s", put)
	}
	tars := [][]byte{program(t), data(t, 11, "data", 64, 64<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "upgraded")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	want := goprogOutput(t, extract(t, tars...)+"/data")
	target := n.mounted(ours, ref)
	first, keeper := s.pid("dfsnapshotter.service"), s.pid("dfsnapshotter-keeper.service")

	read := make(chan error, 1)
	begun := make(chan struct{})
	go func() { read <- readSlowly(filepath.Join(target, "data"), begun) }()
	<-begun
	stop() // the old pod goes first, as with a DaemonSet
	if err := syscall.Kill(first, 0); err != nil {
		t.Errorf("the agent ended with its pod: %v", err)
	}
	v2 := s.build("v2")
	stop = s.pod(v2, config)
	defer func() { stop() }()
	if err := <-read; err != nil {
		t.Errorf("a reader during the upgrade: %v", err)
	}
	if now := s.pid("dfsnapshotter.service"); now == first {
		t.Error("the agent is still the old one")
	}
	if now := s.pid("dfsnapshotter-keeper.service"); now != keeper {
		t.Error("the keeper was started anew")
	}
	if out := must(exec.Command(filepath.Join(s.host, "usr/local/bin/dfsnapshotter"), "--version").Output())(t); !strings.Contains(string(out), "v2") {
		t.Errorf("the machine has %s", out)
	}
	n.runs(ref, "after", want)

	// The same version once more disturbs nothing.
	second := s.pid("dfsnapshotter.service")
	stop()
	stop = s.pod(v2, config)
	if now := s.pid("dfsnapshotter.service"); now != second {
		t.Error("a pod of the same version started the agent anew")
	}

	// One that was killed after it had written the program leaves the rest to the next.
	stop()
	n.must(os.WriteFile(filepath.Join(s.host, "etc/dfsnapshotter/.agent-is-to-start-anew"), nil, 0o600))
	stop = s.pod(v2, config)
	if now := s.pid("dfsnapshotter.service"); now == second {
		t.Error("the agent still runs as before an upgrade that was interrupted")
	}
}

// boot makes the machine's root, with a systemctl that asks this test.
func (s *systemd) boot() net.Listener {
	s.Helper()
	bin := filepath.Join(s.host, "usr/bin")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(filepath.Join(s.host, "run"), 0o755)); err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(bin, "systemctl"), root+"/script/e2e/testdata/systemctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatal(err, string(out))
	}
	return must(net.Listen("unix", filepath.Join(s.host, "run/systemd.sock")))(s.T)
}

// build builds a version of dfsnapshotter.
func (s *systemd) build(version string) string {
	s.Helper()
	to := filepath.Join(s.TempDir(), version, "dfsnapshotter")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", to, root+"/cmd/dfsnapshotter")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatal(err, string(out))
	}
	return to
}

// readSlowly reads all files of a folder, for some seconds.
func readSlowly(dir string, begun chan<- struct{}) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for i, f := range files {
		if _, err := os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
		if i == 1 {
			close(begun)
		}
		time.Sleep(100 * time.Millisecond) // it is to last as long as the upgrade does
	}
	return nil
}
