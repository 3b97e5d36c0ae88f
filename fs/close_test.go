package fs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
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
// tree is left alone.
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
}
