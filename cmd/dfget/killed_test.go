package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

var killedSize = flag.Int64("killed", 32, "MiB of the files of TestKilled")

// interrupted is a download from another host, through an agent, of which something is
// killed in the middle.
type interrupted struct {
	parent, child *host
	url, to, part string
	dfget         context.CancelFunc // kills it
	had           int64              // bytes that the child had before
}

// file is how much of the file is where dfget puts it, from the beginning.
func (i *interrupted) file() int64 {
	fi, err := os.Stat(i.part)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// pieces is how much of it the child's agent has, whichever part.
func (i *interrupted) pieces() int64 {
	var s agent.Status
	if err := agent.Get(context.Background(), i.child.socket, "/v1/status", &s); err != nil {
		return 0
	}
	return s.Cache.Used - i.had
}

// TestKilled kills dfget, its agent, and the host that the file comes from, each when
// half of it is there.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs programs")
	}
	hosts := cluster(t, 2)
	parent, child := hosts[0], hosts[1]
	parent.restart(t, fmt.Sprintf("[limits]\nupload = '%dMiB'\n", *killedSize/4)) // so that there is a middle
	size := *killedSize * mib
	for seed, c := range []struct {
		name        string
		there       func(i *interrupted) int64
		kill        func(i *interrupted)
		again       func(i *interrupted) // starts what was killed
		least, most int64                // that the server sends to the child; the rest comes from the parent
	}{
		{"dfget", (*interrupted).file, func(i *interrupted) { i.dfget() }, func(*interrupted) {}, 0, mib},
		{"the agent", (*interrupted).pieces, func(i *interrupted) { i.child.kill(t) }, func(i *interrupted) { i.child.start(t) }, 0, size * 5 / 8},
		{"the parent", (*interrupted).pieces, func(i *interrupted) { i.parent.kill(t) }, func(*interrupted) {}, mib, size * 5 / 8},
	} {
		t.Run(c.name, func(sub *testing.T) {
			data := random(int(size), byte(100+seed))
			s := serve(sub, data)
			i := &interrupted{parent: parent, child: child, url: s.URL + "/f", to: filepath.Join(sub.TempDir(), "f")}
			i.part = filepath.Join(filepath.Dir(i.to), ".f.dfget")
			if r, says, err := parent.get(sub.Context(), sub, i.url, "-O", i.to); err != nil {
				sub.Fatalf("%+v, %v: %s", r, err, says)
			}
			if err := os.Remove(i.to); err != nil {
				sub.Fatal(err)
			}
			s.pace.Store(size / 4)
			i.had = i.pieces()
			sent := s.sent.Load()
			r, says, err := i.run(sub, func() bool { return c.there(i) >= size/2 }, func() { c.kill(i) }, func() { c.again(i) })
			more := s.sent.Load() - sent
			if err != nil || r.Direct != "" || r.Digest != digest.FromBytes(data) || more < c.least || more > c.most {
				sub.Errorf("%+v, %v: %s; the server sent %d bytes", r, err, says, more)
			}
			checkFile(sub, i.to, data)
		})
	}
}

// run downloads the file, kills something when half of it is there, starts it again, and
// calls dfget again if that was killed. It returns what the last one says.
func (i *interrupted) run(t *testing.T, half func() bool, kill, again func()) (r result, says string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	i.dfget = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, says, err = i.child.get(ctx, t, i.url, "-O", i.to)
	}()
	for !half() {
		select {
		case <-done:
			t.Fatalf("dfget has ended before anything was killed: %+v, %v: %s", r, err, says)
		case <-time.After(10 * time.Millisecond):
		}
	}
	kill()
	if _, err := os.Stat(i.to); err == nil {
		t.Error("there is a file before all of it has come")
	}
	again()
	<-done
	if ctx.Err() == nil {
		return r, says, err
	}
	if i.file() == 0 {
		t.Error("dfget has left nothing to go on with")
	}
	return i.child.get(t.Context(), t, i.url, "-O", i.to)
}

// kill ends the agent as a crash does.
func (h *host) kill(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.cmd.Wait() // it was killed
}

// restart kills the agent and starts it, with more in its configuration.
func (h *host) restart(t *testing.T, more string) {
	t.Helper()
	h.kill(t)
	f, err := os.OpenFile(h.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(more)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	h.start(t)
}
