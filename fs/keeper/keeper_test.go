package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// serve runs a keeper in this process; stop ends it and all it holds.
func serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- keeper.Serve(ctx, keeper.Config{Socket: socket, Log: quiet}) }()
	var ended bool
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, socket string) *keeper.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := keeper.Open(ctx, keeper.ClientConfig{Socket: socket, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// fakeSession is one whose descriptors are no FUSE connection.
func fakeSession(t *testing.T, name string) *keeper.Session {
	t.Helper()
	fd, err := unix.Eventfd(7, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s := &keeper.Session{Name: name, Dir: "/nowhere", Dev: 1, Init: make([]byte, 104), Reply: make([]byte, 80), FD: fd, Table: -1}
	s.Init[3], s.Reply[5] = 1, 2
	t.Cleanup(s.Close)
	return s
}

func sameSession(t *testing.T, got, want *keeper.Session) {
	t.Helper()
	defer got.Close()
	ignore := cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == ".FD"
	}, cmp.Ignore())
	if d := cmp.Diff(want, got, ignore); d != "" {
		t.Error(d)
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(got.FD, &a), unix.Fstat(want.FD, &b)); err != nil || a.Ino != b.Ino {
		t.Error("not the descriptor that was held", err)
	}
	if flags, err := unix.FcntlInt(uintptr(got.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Error("descriptor is inherited", err)
	}
}

func TestHoldTakeRelease(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	serve(t, socket)
	c, other := open(t, socket), open(t, socket)
	m, n := fakeSession(t, "m"), fakeSession(t, "n")
	for _, s := range []*keeper.Session{m, n, m} {
		if err := c.Hold(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	got, err := other.Take(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	sameSession(t, got, m)
	list, err := other.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]keeper.Status{{Name: "m", Dir: "/nowhere"}, {Name: "n", Dir: "/nowhere"}}, list); d != "" {
		t.Error(d)
	}
	if err := c.Release(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Take(t.Context(), "m"); !errors.Is(err, keeper.ErrNotHeld) {
		t.Error("released session:", err)
	}
	if _, _, err := other.Attach(t.Context(), "n"); err == nil {
		t.Error("attached to a session that is not relayed")
	}
}

func TestState(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	serve(t, socket)
	c, other := open(t, socket), open(t, socket)
	if _, err := other.State(t.Context(), "credentials"); !errors.Is(err, keeper.ErrNotHeld) {
		t.Error("state that was never put:", err)
	}
	for _, want := range []string{"first", "", "a longer second"} {
		if err := c.PutState(t.Context(), "credentials", []byte(want)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := other.State(t.Context(), "credentials")
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
	}
	if err := c.PutState(t.Context(), "big", make([]byte, 1<<20+1)); err == nil {
		t.Error("took more than the limit")
	}
}

func TestSecondKeeper(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	serve(t, socket)
	c := open(t, socket)
	err := keeper.Serve(t.Context(), keeper.Config{Socket: socket, Log: quiet})
	if !errors.Is(err, keeper.ErrRunning) {
		t.Errorf("got %v, want %v", err, keeper.ErrRunning)
	}
	if _, err := c.Ping(t.Context()); err != nil {
		t.Error("the first keeper is gone:", err)
	}
}

func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	serve(t, socket)
	if _, err := open(t, socket).Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
}

// The client gives the next keeper what the last one held.
func TestNextKeeper(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	stop := serve(t, socket)
	c := open(t, socket)
	m, gone := fakeSession(t, "m"), fakeSession(t, "gone")
	for _, s := range []*keeper.Session{m, gone} {
		if err := c.Hold(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Release(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if err := c.PutState(t.Context(), "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	stop()
	serve(t, socket)
	got, err := c.Take(t.Context(), "m") // waits until the next keeper has it
	if err != nil {
		t.Fatal(err)
	}
	sameSession(t, got, m)
	if state, err := c.State(t.Context(), "s"); string(state) != "kept" {
		t.Error(state, err)
	}
	if _, err := c.Take(t.Context(), "gone"); !errors.Is(err, keeper.ErrNotHeld) {
		t.Error("released session is back:", err)
	}
}

func TestCallWaitsNoLongerThanItsContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	stop := serve(t, socket)
	c := open(t, socket)
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("with no keeper:", err)
	}
	c.Close()
	if _, err := c.Ping(t.Context()); !errors.Is(err, keeper.ErrClosed) {
		t.Error("closed client:", err)
	}
	if _, err := keeper.Dial(t.Context(), socket, quiet); err == nil {
		t.Error("dialled a dead keeper")
	}
}

// talk plays the other side of the control socket: it answers each message in turn.
func talk(t *testing.T, socket string, answers ...string) {
	t.Helper()
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for _, a := range answers {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write([]byte(a)); err != nil {
				return
			}
		}
		for err == nil {
			_, err = c.Read(buf)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		name, hello string
		want        error
	}{
		{"same", `{"op":"hello","version":1,"min":1,"pid":5}`, nil},
		{"newer that still understands", `{"op":"hello","version":9,"min":1,"pid":5,"colour":"new"}`, nil},
		{"newer", `{"op":"hello","version":9,"min":8,"pid":5}`, keeper.ErrVersion},
		{"older", `{"op":"hello","version":0,"min":0,"pid":5}`, keeper.ErrVersion},
	} {
		t.Run(tc.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "k")
			talk(t, socket, tc.hello)
			c, err := keeper.Open(t.Context(), keeper.ClientConfig{Socket: socket, Log: quiet})
			if err == nil {
				defer c.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// What is no sensible request ends a connection or is refused, and the keeper goes on.
func TestNonsense(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k")
	serve(t, socket)
	c := open(t, socket)
	for _, msg := range []string{
		"", "{", `{"op":"fly"}`, `{"op":"hold"}`, `{"op":"hold","session":{"name":"m","dir":"/d"}}`, `{"op":"put","name":"x"}`, `{"op":"attach"}`,
	} {
		nc, err := net.Dial("unixpacket", socket)
		if err != nil {
			t.Fatal(err)
		}
		if msg != "" {
			if _, err := nc.Write([]byte(msg)); err != nil {
				t.Error(err)
			}
			buf := make([]byte, 4096)
			n, err := nc.Read(buf)
			if err == nil && !bytes.Contains(buf[:n], []byte(`"error":`)) {
				t.Errorf("%s: answered %s", msg, buf[:n])
			}
		}
		nc.Close()
	}
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
}
