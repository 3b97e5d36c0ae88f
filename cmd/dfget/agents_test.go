package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// build builds what the test runs, and returns where it is.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir+"/", "../dfget", "../dfsnapshotter", "../dfscheduler").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return dir
}

// start starts a program, and ends it with the test. ready is in the line that says
// that it serves; what its group matches is returned.
func start(t *testing.T, ready string, argv ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found, done := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(done)
		re := regexp.MustCompile(ready)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if testing.Verbose() {
				fmt.Fprintln(os.Stderr, filepath.Base(argv[0]), lines.Text())
			}
			if m := re.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case found <- m[len(m)-1]:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
		_ = cmd.Wait()
	})
	select {
	case s := <-found:
		return cmd, s
	case <-done:
		t.Fatalf("%s has ended", argv[0])
	case <-time.After(time.Minute):
		t.Fatalf("%s is not ready", argv[0])
	}
	return nil, ""
}

// host is an agent.
type host struct {
	bin    string // where the programs are
	cmd    *exec.Cmd
	config string
	socket string
}

func (h *host) start(t *testing.T) {
	t.Helper()
	h.cmd, _ = start(t, "msg=ready ", filepath.Join(h.bin, "dfsnapshotter"), "--config", h.config, "--log-level", "debug")
}

// cluster starts a scheduler and n agents that mount nothing.
func cluster(t *testing.T, n int) []*host {
	t.Helper()
	bin := build(t)
	config := write(t, "scheduler.toml", "listen = '127.0.0.1:0'\n[debug]\nlisten = '127.0.0.1:0'\n")
	_, addr := start(t, `msg=ready address=(\S+) `, filepath.Join(bin, "dfscheduler"), "--config", config)
	var hosts []*host
	for range n {
		root := t.TempDir()
		h := &host{bin: bin, socket: filepath.Join(root, "status.sock")}
		h.config = write(t, "agent.toml", fmt.Sprintf(`root = %q
address = ''
[mirror]
listen = '127.0.0.1:0'
[peer]
listen = '127.0.0.1:0'
schedulers = [%q]
[debug]
listen = ''
`, root, addr))
		h.start(t)
		hosts = append(hosts, h)
	}
	return hosts
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// get runs dfget in a process of its own.
func (h *host) get(ctx context.Context, t *testing.T, args ...string) (result, string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "dfget"), append(args, "--agent", h.socket, "--json")...)
	var says bytes.Buffer
	cmd.Stderr = &says
	out, err := cmd.Output()
	var r result
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	return r, says.String(), err
}

func checkFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, %s, want %d, %s; %v", filepath.Base(path), len(got), digest.FromBytes(got), len(want), digest.FromBytes(want), err)
	}
}

// exitOf returns the exit code of a process that ended with err.
func exitOf(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return code(err)
}

// TestAgents downloads through the agents of two hosts.
func TestAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs programs")
	}
	hosts := cluster(t, 2)
	dir := t.TempDir()
	to := func(i int) string { return filepath.Join(dir, fmt.Sprint("f", i)) }
	t.Run("once from the server", func(t *testing.T) {
		data := random(24*mib, 11)
		s := serve(t, data)
		var wg sync.WaitGroup
		var peers [2]int64
		for i, h := range hosts {
			wg.Go(func() {
				r, says, err := h.get(t.Context(), t, s.URL+"/f?a=1&X-Amz-Signature="+fmt.Sprint(i), "-O", to(i))
				if err != nil || r.Direct != "" || r.Digest != digest.FromBytes(data) || r.Size != int64(len(data)) {
					t.Errorf("host %d: %+v, %v: %s", i, r, err, says)
				}
				peers[i] = r.From.Peers
				checkFile(t, to(i), data)
			})
		}
		wg.Wait()
		if sent := s.sent.Load(); float64(sent) > 1.1*float64(len(data)) {
			t.Errorf("the server sent %d bytes of a file of %d; from peers came %v", sent, len(data), peers)
		}
		// It is here now: nothing comes from anywhere.
		sent := s.sent.Load()
		r, says, err := hosts[0].get(t.Context(), t, s.URL+"/f?a=1", "-O", to(0))
		if err != nil || r.From.Cache != int64(len(data)) || s.sent.Load() > sent+16 {
			t.Errorf("again: %+v, %v: %s", r, err, says)
		}
	})
	t.Run("killed", func(t *testing.T) { killed(t, hosts[0], to(2)) })
	t.Run("the agent is killed", func(sub *testing.T) {
		agentKilled(sub, hosts[1], to(3), func() { hosts[1].start(t) }) // it is to outlive this subtest
	})
	t.Run("digest", func(t *testing.T) {
		data := random(2*mib, 13)
		s := serve(t, data)
		for i, h := range hosts { // by another URL each
			if r, says, err := h.get(t.Context(), t, fmt.Sprintf("%s/f%d", s.URL, i), "-O", to(4), "--digest", digest.FromBytes(data).String()); err != nil {
				t.Errorf("%+v, %v: %s", r, err, says)
			}
			checkFile(t, to(4), data)
		}
		// The second one comes before the scheduler has heard all that the first one has.
		if sent := s.sent.Load(); float64(sent) > 1.02*float64(len(data)) {
			t.Errorf("the server sent %d bytes", sent)
		}
		wrong := digest.FromString("x").String()
		_, says, err := hosts[0].get(t.Context(), t, s.URL+"/wrong", "-O", to(5), "--digest", wrong)
		if exitOf(err) != exitDigest || !strings.Contains(says, "does not match") {
			t.Errorf("a wrong digest: %v: %s", err, says)
		}
		if _, err := os.Stat(to(5)); err == nil {
			t.Error("a wrong digest: there is a file")
		}
	})
	t.Run("changed between two", func(t *testing.T) {
		data, newer := random(3*mib, 14), random(3*mib, 15)
		s := serve(t, data)
		if r, says, err := hosts[0].get(t.Context(), t, s.URL+"/c", "-O", to(6)); err != nil {
			t.Errorf("%+v, %v: %s", r, err, says)
		}
		checkFile(t, to(6), data)
		s.change(newer, `"2"`)
		for i, h := range hosts {
			if r, says, err := h.get(t.Context(), t, s.URL+"/c", "-O", to(7+i)); err != nil {
				t.Errorf("%+v, %v: %s", r, err, says)
			}
			checkFile(t, to(7+i), newer)
		}
	})
	t.Run("refused", func(t *testing.T) { refused(t, hosts, to(9)) })
}

// killed kills dfget in the middle, and calls it again.
func killed(t *testing.T, h *host, to string) {
	data := random(16*mib, 12)
	s := serve(t, data)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	done := make(chan error, 1)
	go func() {
		_, _, err := h.get(ctx, t, s.URL+"/f", "-O", to, "--rate-limit", "8MiB")
		done <- err
	}()
	part := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".dfget")
	grown(t, part, 4*mib)
	kill() // by SIGKILL
	if err := <-done; err == nil {
		t.Fatal("it was too fast to be killed")
	}
	fi, err := os.Stat(part)
	if err != nil || fi.Size() < 4*mib || fi.Size() >= int64(len(data)) {
		t.Fatalf("the part: %v, %v", fi, err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("there is a file before all of it has come")
	}
	r, says, err := h.get(t.Context(), t, s.URL+"/f", "-O", to)
	if err != nil || r.Direct != "" {
		t.Errorf("%+v, %v: %s", r, err, says)
	}
	checkFile(t, to, data)
	if sent := s.sent.Load(); sent > int64(len(data))+mib {
		t.Errorf("the server sent %d bytes of %d", sent, len(data))
	}
	// A part of something else is not gone on with.
	if err := os.WriteFile(part, random(mib, 99), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, says, err := h.get(t.Context(), t, s.URL+"/f", "-O", to); err != nil {
		t.Errorf("%+v, %v: %s", r, err, says)
	}
	checkFile(t, to, data)
}

// grown waits until a file has n bytes.
func grown(t *testing.T, path string, n int64) {
	t.Helper()
	for range 600 {
		if fi, err := os.Stat(path); err == nil && fi.Size() >= n {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s does not grow to %d bytes", path, n)
}

// agentKilled kills the agent in the middle, and has it started again.
func agentKilled(t *testing.T, h *host, to string, again func()) {
	data := random(16*mib, 16)
	s := serve(t, data)
	done := make(chan struct{})
	var r result
	var says string
	var err error
	go func() {
		defer close(done)
		r, says, err = h.get(t.Context(), t, s.URL+"/f", "-O", to, "--rate-limit", "8MiB")
	}()
	grown(t, filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".dfget"), 4*mib)
	h.kill(t)
	again()
	<-done
	if err != nil || r.Direct != "" {
		t.Errorf("%+v, %v: %s", r, err, says)
	}
	checkFile(t, to, data)
}

// refused holds what dfget says where the server does not give the file.
func refused(t *testing.T, hosts []*host, to string) {
	data := random(mib, 17)
	s := serve(t, data)
	for path, c := range map[string]struct {
		code int
		says string
	}{
		"/absent":   {exitNotFound, "not found"},
		"/private":  {exitUnauthorized, "not authorized"},
		"/unpinned": {0, "straight from the server, since the server tells no ETag"},
	} {
		_, says, err := hosts[0].get(t.Context(), t, s.URL+path, "-O", to)
		if exitOf(err) != c.code || !strings.Contains(says, c.says) {
			t.Errorf("%s: %v: %s", path, err, says)
		}
	}
	// Who has the password gets the file, and no one else does afterwards.
	for i, h := range hosts {
		if r, says, err := h.get(t.Context(), t, s.URL+"/private", "-O", to, "-H", "Authorization: Bearer x"); err != nil || i > 0 && r.From.Peers != mib {
			t.Errorf("host %d: %+v, %v: %s", i, r, err, says)
		}
		if _, says, err := h.get(t.Context(), t, s.URL+"/private", "-O", to); exitOf(err) != exitUnauthorized {
			t.Errorf("host %d without it: %v: %s", i, err, says)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, says, err := hosts[0].get(t.Context(), t, "http://"+nobody+"/f", "-O", to); exitOf(err) != exitUnavailable {
		t.Errorf("nobody listens: %v: %s", err, says)
	}
}
