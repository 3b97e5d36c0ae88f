package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// TestFlightUnderResolve: a read starts its flight while a Resolve holds FS.mu,
// since Resolve then waits for the lock that the read holds.
func TestFlightUnderResolve(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.EStargz(big(30), indextest.EStargzOptions{})))
	e.fs.mu.Lock()
	done := make(chan error, 1)
	go func() {
		f, err := l.board(0, 0, fetcher.OnDemand)
		if err == nil {
			err = f.await(l.ctx, 0)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
		e.fs.mu.Unlock()
	case <-time.After(20 * time.Second):
		e.fs.mu.Unlock()
		t.Error("a flight waits for FS.mu")
		<-done
	}
}

// TestReadWhileClosing: as long as one session still waits for its answers, and
// after that, nobody reads an error.
func TestReadWhileClosing(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.EStargz(big(31), indextest.EStargzOptions{})
	l := e.layer(e.want(form))
	e.registry.Fail(form.Digest, origintest.Fault{Hang: true})
	read := func(session, file string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := os.ReadFile(filepath.Join(e.root, session, l.name(), file))
			done <- err
		}()
		return done
	}
	first := read("m", "data/random")
	waitUntil(t, "the reader waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.flights) > 0 })
	closed := make(chan struct{})
	go func() { defer close(closed); e.close() }()
	waitUntil(t, "the sessions stop", func() bool { return e.fs.sessions[0].stopping.Load() })
	second := read("n", "data/text")
	<-closed
	e.registry.Heal()
	e.open()
	for name, done := range map[string]<-chan error{"one from before": first, "one that came meanwhile": second} {
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFailedUnpack: what a failed unpacking has written is not kept by open
// descriptors.
func TestFailedUnpack(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Gzip(big(32), indextest.GzipOptions{})
	w := e.want(form)
	w.DiffID = indextest.Gzip(big(33), indextest.GzipOptions{}).DiffID
	if _, err := e.fs.Resolve(t.Context(), w); err == nil {
		t.Fatal("a layer of another diffID is accepted")
	}
	if n := len(e.fs.files.m); n != 0 {
		t.Errorf("%d deleted files are open", n)
	}
}

// TestIndexLost: a layer with a record whose index is gone is reported, and its
// tree is left alone until it is to be removed.
func TestIndexLost(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.Gzip(big(34), indextest.GzipOptions{})))
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	e.close()
	if err := os.Remove(filepath.Join(l.dir, "index")); err != nil {
		t.Fatal(err)
	}
	e.open()
	if _, err := os.Stat(filepath.Join(l.tree, "data/text")); err != nil {
		t.Errorf("the tree that containers use is gone: %v", err)
	}
	if ids := e.fs.IDs(); !slices.Equal(ids, []uint32{l.ID()}) {
		t.Errorf("layers %v, not the one that nobody could remove otherwise", ids)
	}
	if err := e.fs.Remove(t.Context(), l.ID()); err != nil {
		t.Error(err)
	}
	gone(e, l)
}

// TestRemoveFails: what could not be removed keeps no daemon from starting, and
// is removed when that is asked for again.
func TestRemoveFails(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			e := newEnv(t, nil)
			l := e.layer(e.want(indextest.Gzip(big(35), indextest.GzipOptions{})))
			obstacle := filepath.Join(l.dir, "busy")
			if err := os.Mkdir(obstacle, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", obstacle, "tmpfs", 0, "size=1m"); err != nil {
				t.Fatal(err)
			}
			unmount := sync.OnceValue(func() error { return unix.Unmount(obstacle, 0) })
			defer func() { _ = unmount() }()
			if err := e.fs.Remove(t.Context(), l.ID()); !errors.Is(err, unix.EBUSY) {
				t.Fatalf("a busy folder is removed: %v", err)
			}
			if restart {
				e.close()
				e.open()
			}
			if ids := e.fs.IDs(); !slices.Equal(ids, []uint32{l.ID()}) {
				t.Errorf("layers %v, not the one to remove", ids)
			}
			if err := unmount(); err != nil {
				t.Fatal(err)
			}
			if err := e.fs.Remove(t.Context(), l.ID()); err != nil {
				t.Error(err)
			}
			gone(e, l)
		})
	}
}

// gone fails the test if anything is left of a layer.
func gone(e *env, l *Layer) {
	e.t.Helper()
	for _, path := range []string{l.dir, l.tree} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			e.t.Errorf("%s is left: %v", path, err)
		}
	}
	if ids := e.fs.IDs(); len(ids) > 0 {
		e.t.Errorf("layers %v are left", ids)
	}
}

// TestOpenFails: a node that cannot be opened says why.
func TestOpenFails(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.Gzip(big(36), indextest.GzipOptions{})))
	e.close()
	next := filepath.Join(e.root, "layers", "next")
	right, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next, []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Root: e.root, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "layers/next") {
		t.Errorf("opening gives %v", err)
	}
	if err := os.WriteFile(next, right, 0o600); err != nil {
		t.Fatal(err)
	}
	e.open()
	if _, ok := e.fs.Layer(l.ID()); !ok {
		t.Error("the layer is gone")
	}
}

// TestOtherFormat: a daemon that does not know the format of a layer's index
// leaves the mounts to one that does, whom the readers wait for.
func TestOtherFormat(t *testing.T) {
	e := newEnv(t, nil)
	layer := indextest.EStargz(big(37), indextest.EStargzOptions{})
	l := e.layer(e.want(layer))
	tree, dir := unpacked(t, layer.Tar), e.path(l, AnyForm)
	e.close()
	read := make(chan string, 1)
	go func() {
		out, err := exec.CommandContext(t.Context(), "cmp", tree+"/data/text", dir+"/data/text").CombinedOutput()
		read <- fmt.Sprint(err, string(out))
	}()
	path := filepath.Join(l.dir, "index")
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(right)
	other[8]++ // the version's first byte
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Root: e.root, Keeper: e.keeper, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	if _, err := Open(t.Context(), c); !errors.Is(err, index.ErrVersion) {
		t.Fatalf("opening gives %v", err)
	}
	if err := os.WriteFile(path, right, 0o600); err != nil {
		t.Fatal(err)
	}
	e.open()
	if got := <-read; got != "<nil>" {
		t.Errorf("the reader ends with %s", got)
	}
}
