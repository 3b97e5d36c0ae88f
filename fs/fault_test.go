package fs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// century as Config.Quiet keeps the background from filling, even at the start.
const century = 100 * 365 * 24 * time.Hour

// TestPowerLoss reopens a layer whose bitmap reached the disk and of whose
// chunks one did not: that one alone is fetched again, and no more is hashed
// than is read.
func TestPowerLoss(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	form := indextest.EStargz(big(20), indextest.EStargzOptions{ChunkSize: 256 << 10})
	l := e.layer(e.want(form))
	text, err := os.ReadFile(filepath.Join(e.path(l, AnyForm), "data/text"))
	if err != nil {
		t.Fatal(err)
	}
	ino, _ := l.walk("data/text")
	backing := filepath.Join(l.dir, "data", hex(ino.Ino))
	bits := filepath.Join(l.dir, "filled")
	filled, _ := l.filled.filled()
	e.close()
	lose(t, bits, backing)
	if err := os.RemoveAll(filepath.Join(e.root, "blobs")); err != nil {
		t.Fatal(err)
	}
	e.open()
	e.close() // before any was hashed
	e.open()
	again, _ := e.fs.Layer(l.ID())
	if n, _ := again.filled.filled(); n != 0 || filled == 0 {
		t.Errorf("%d chunks trusted after a power loss, of %d", n, filled)
	}
	if err := again.ensure(t.Context(), ino.Ino, 0, 1, fetcher.OnDemand); err != nil {
		t.Fatal(err)
	}
	if n, _ := again.filled.filled(); n != 1 {
		t.Errorf("%d chunks are hashed for a read of one", n)
	}
	sent := e.registry.Sent(form.Digest)
	dropPageCache(t)
	got, err := os.ReadFile(filepath.Join(e.path(again, AnyForm), "data/text"))
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("wrong bytes after a power loss: %v", err)
	}
	if sent = e.registry.Sent(form.Digest) - sent; sent == 0 || sent > 1<<20 {
		t.Errorf("%d bytes are fetched for one lost chunk", sent)
	}
}

// lose makes the bitmap one of an earlier boot that was not shut down, and a
// page of the backing file one that was never written.
func lose(t *testing.T, bits, backing string) {
	t.Helper()
	f, err := os.OpenFile(bits, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_, err = f.WriteAt(append([]byte{0, 0, 0, 0, 0, 0, 0, 0}, "another boot"...), 8)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	if _, err := b.WriteAt(make([]byte, 4096), 1<<20); err != nil {
		t.Fatal(err)
	}
}

func dropPageCache(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Skip("page cache cannot be dropped: ", err)
	}
}

// TestRemovedWhileDown: a layer that is removed, and one that comes, while the
// kernel still knows names of the first.
func TestRemovedWhileDown(t *testing.T) {
	e := newEnv(t, nil)
	a := indextest.EStargz(big(21), indextest.EStargzOptions{})
	b := indextest.EStargz(indextest.Tar(indextest.Dir("data"), indextest.File("data/text", indextest.Text(99, 5<<20))), indextest.EStargzOptions{})
	l := e.layer(e.want(a))
	dir := e.path(l, AnyForm)
	open, err := os.Open(filepath.Join(dir, "data/text"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	e.close()
	if err := os.RemoveAll(l.dir); err != nil {
		t.Fatal(err)
	}
	e.open()
	n := e.layer(e.want(b))
	if n.ID() == l.ID() {
		t.Fatal("the slot is used again")
	}
	if _, err := open.Read(make([]byte, 10)); err == nil {
		t.Error("a file of a removed layer reads something")
	}
	got, err := os.ReadFile(filepath.Join(e.path(n, AnyForm), "data/text"))
	if err != nil || !bytes.Equal(got, indextest.Text(99, 5<<20)) {
		t.Errorf("the new layer reads wrong: %v", err)
	}
}

// TestHungSource: readers of a layer whose source hangs can be killed, and one
// of them going does not take the others along.
func TestHungSource(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.EStargz(big(22), indextest.EStargzOptions{})
	l := e.layer(e.want(form))
	file := filepath.Join(e.path(l, AnyForm), "data/random")
	e.registry.Fail(form.Digest, origintest.Fault{Hang: true})
	cat := exec.Command("cat", file)
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	died := make(chan error, 1)
	go func() { died <- cat.Wait() }()
	waitUntil(t, "the reader waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.flights) > 0 })
	_ = cat.Process.Signal(unix.SIGWINCH) // not one that ends it
	select {
	case err := <-died:
		t.Fatalf("a signal ended the reader: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := cat.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-died:
	case <-time.After(10 * time.Second):
		t.Fatal("a killed reader hangs")
	}
	e.registry.Heal()
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, indextest.Random(22, 5<<20)) {
		t.Errorf("wrong bytes after the source is back: %v", err)
	}
}

// TestWrongBytes: a source that serves other bytes is never believed.
func TestWrongBytes(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.EStargz(big(23), indextest.EStargzOptions{})
	l := e.layer(e.want(form))
	file := filepath.Join(e.path(l, AnyForm), "data/random")
	e.registry.Fail(form.Digest, origintest.Fault{Corrupt: true})
	if _, err := os.ReadFile(file); !errors.Is(err, unix.EIO) {
		t.Errorf("reading wrong bytes gives %v, not EIO", err)
	}
	e.registry.Heal()
	e.registry.Fail(form.Digest, origintest.Fault{Corrupt: true, Times: 1})
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, indextest.Random(23, 5<<20)) {
		t.Errorf("one wrong answer is not mended by the next: %v", err)
	}
}

// TestWrongBytesAtTheEnd: a layer is not refused for what a source does to the
// blob that is to prove it.
func TestWrongBytesAtTheEnd(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	form := indextest.EStargz(big(27), indextest.EStargzOptions{})
	l := e.layer(e.want(form))
	if err := l.ensureAll(); err != nil {
		t.Fatal(err)
	}
	evict(t, l)
	e.registry.Fail(form.Digest, origintest.Fault{Corrupt: true})
	if err := l.hurry(); err == nil {
		t.Error("a layer is proven by wrong bytes")
	}
	if err := l.usable(); err != nil {
		t.Errorf("the layer is blamed: %v", err)
	}
	e.registry.Heal()
	if err := l.hurry(); err != nil {
		t.Error(err)
	}
}

// TestDiskFull: on-demand reads go on when nothing can be written.
func TestDiskFull(t *testing.T) {
	e := newEnv(t, nil)
	for name, size := range map[string]string{"no room for content": "size=1m", "no room for files": "nr_inodes=1"} {
		t.Run(name, func(t *testing.T) {
			form := indextest.EStargz(big(24), indextest.EStargzOptions{})
			l := e.layer(e.want(form))
			// A file system too small for the content takes the backing files' place.
			dir := filepath.Join(l.dir, "data")
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, size); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			small, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(unix.Dup3(small, l.data, unix.O_CLOEXEC), unix.Close(small)); err != nil {
				t.Fatal(err)
			}
			e.fs.noSpace.Store(0)
			got, err := os.ReadFile(filepath.Join(e.path(l, AnyForm), "data/random"))
			if err != nil || !bytes.Equal(got, indextest.Random(24, 5<<20)) {
				t.Errorf("reading on a full disk: %v", err)
			}
			if err := e.fs.space(); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("filling goes on while the disk is full: %v", err)
			}
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			if err := e.fs.Remove(t.Context(), l.ID()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKilledMidway starts on what a daemon leaves that dies while it unpacks
// or completes a layer.
func TestKilledMidway(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Gzip(big(25), indextest.GzipOptions{})
	l := e.layer(e.want(form))
	e.close()
	leftovers := []string{
		"layers/900/data/1", "layers/900/index", // unpacking
		filepath.Join("layers", l.name(), "tree/half"), // completing
		"l/901/etc", // removing
	}
	for _, p := range leftovers {
		p = filepath.Join(e.root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e.open()
	for _, p := range []string{"layers/900", "l/901"} {
		if _, err := os.Stat(filepath.Join(e.root, p)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
	again, ok := e.fs.Layer(l.ID())
	if !ok {
		t.Fatal("the layer is gone")
	}
	if err := again.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, unpacked(t, form.Tar), again.tree, impliedPaths(again))
	if id, err := e.fs.slot(); err != nil || id <= 900 {
		t.Errorf("slot %d is given again: %v", id, err)
	}
}

// TestTruncatedBlob: a blob that is shorter than its manifest says.
func TestTruncatedBlob(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Gzip(big(26), indextest.GzipOptions{})
	form.Blob = form.Blob[:len(form.Blob)/2]
	w := e.want(form)
	w.Desc.Size = form.Size()
	w.Ref.Size = form.Size()
	w.Desc.Digest = e.registry.AddBlob(repo, form.Blob)
	w.Ref.Digest = w.Desc.Digest
	_, err := e.fs.Resolve(t.Context(), w)
	if err == nil || !strings.Contains(err.Error(), w.Desc.Digest.String()) {
		t.Errorf("error %v does not name the blob", err)
	}
	if list := e.fs.IDs(); len(list) != 0 {
		t.Errorf("layers %v are left", list)
	}
}

func hex(n uint32) string {
	const digits = "0123456789abcdef"
	if n < 16 {
		return digits[n : n+1]
	}
	return hex(n/16) + digits[n%16:n%16+1]
}

// waitUntil polls what no channel tells.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("cancelled: ", what)
		}
	}
}
