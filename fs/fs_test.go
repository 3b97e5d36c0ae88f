package fs

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// big returns a tar that is not unpacked at once, nasty entries included.
func big(seed uint64) []byte {
	entries := append(indextest.Nasty(), indextest.Dir("data"))
	return indextest.Tar(append(entries, content(seed)...)...)
}

func content(seed uint64) []indextest.Entry {
	return []indextest.Entry{
		indextest.File("data/random", indextest.Random(seed, 5<<20)),
		indextest.File("data/text", indextest.Text(seed, 6<<20)),
	}
}

// TestForms reads every form of layer through the session and as the directory
// it becomes, and compares both with what containerd unpacks.
func TestForms(t *testing.T) {
	e := newEnv(t, nil)
	tarball := big(1)
	want := unpacked(t, tarball)
	for _, form := range indextest.All(tarball) {
		t.Run(form.Name, func(t *testing.T) {
			tree := want
			if len(form.Tar) != len(tarball) {
				tree = unpacked(t, form.Tar)
			}
			l := e.layer(e.want(form))
			implied := impliedPaths(l)
			same(t, tree, filepath.Join(e.root, "m", l.name()), implied)
			if err := l.hurry(); err != nil {
				t.Fatal(err)
			}
			if got := e.path(l, AnyForm); got != l.tree {
				t.Errorf("a complete layer is at %s", got)
			}
			same(t, tree, l.tree, implied)
			same(t, tree, filepath.Join(e.root, "m", l.name()), implied)
			if _, err := os.Stat(filepath.Join(l.dir, "data")); !os.IsNotExist(err) {
				t.Errorf("backing files are left: %v", err)
			}
		})
	}
}

// TestFractions: a TOC rounds times to seconds, and a mounted layer keeps them;
// the directory it becomes has those of the tar.
func TestFractions(t *testing.T) {
	e := newEnv(t, nil)
	at := func(entry indextest.Entry, nsec time.Duration) indextest.Entry {
		entry = entry.At(indextest.Time.Add(nsec))
		entry.Format = tar.FormatPAX
		return entry
	}
	tarball := indextest.Tar(append(content(9), at(indextest.Dir("d"), 1), at(indextest.File("d/f", []byte("f")), 500_000_000),
		at(indextest.Symlink("d/s", "f"), 999_999_999), at(indextest.Link("d/h", "d/f"), 500_000_000))...)
	form := indextest.EStargz(tarball, indextest.EStargzOptions{})
	w := e.want(form)
	l := e.layer(w)
	lazy := func() time.Time {
		fi, err := os.Stat(filepath.Join(e.root, "m", l.name(), "d/f"))
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	before := lazy()
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, unpacked(t, form.Tar), l.tree, impliedPaths(l))
	if after := lazy(); !after.Equal(before) || before.Nanosecond() != 0 {
		t.Errorf("the mount says %v, and before completion %v", after, before)
	}
}

// TestKeptIndex pulls a plain layer twice: the second time it is lazy.
func TestKeptIndex(t *testing.T) {
	e := newEnv(t, nil)
	layer := indextest.Gzip(big(2), indextest.GzipOptions{})
	want := e.want(layer)
	first := e.layer(want)
	if s := first.status(); s.State != Filled {
		t.Errorf("a plain layer nobody has seen is %s, not unpacked", s.State)
	}
	if err := e.fs.Remove(t.Context(), first.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.dir); !os.IsNotExist(err) {
		t.Errorf("a removed layer leaves %s: %v", first.dir, err)
	}
	if _, err := os.Stat(filepath.Join(e.root, "n", first.name())); !os.IsNotExist(err) {
		t.Errorf("a removed layer can be looked up: %v", err)
	}
	second := e.layer(want)
	if second.ID() == first.ID() {
		t.Error("a slot was given twice")
	}
	if s := second.status(); s.State != Lazy || s.Filled != 0 {
		t.Errorf("a layer with a kept index is %s with %d chunks", s.State, s.Filled)
	}
	same(t, unpacked(t, layer.Tar), filepath.Join(e.root, "m", second.name()), impliedPaths(second))
}

// TestRestart goes on with half-filled layers after a stop and after a death.
func TestRestart(t *testing.T) {
	e := newEnv(t, nil)
	layer := indextest.EStargz(big(3), indextest.EStargzOptions{})
	l := e.layer(e.want(layer))
	want := unpacked(t, layer.Tar)
	if _, err := os.ReadFile(filepath.Join(e.path(l, AnyForm), "data/text")); err != nil {
		t.Fatal(err)
	}
	before := l.status()
	if before.Filled == 0 || before.Filled == before.Chunks {
		t.Fatalf("%d of %d chunks after one file was read", before.Filled, before.Chunks)
	}
	open, err := os.Open(filepath.Join(e.path(l, AnyForm), "data/random"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	e.close()
	e.open()
	again, ok := e.fs.Layer(l.ID())
	if !ok {
		t.Fatal("the layer is gone")
	}
	if got := again.status(); got.Filled < before.Filled {
		t.Errorf("%d chunks after a restart, %d before", got.Filled, before.Filled)
	}
	b := make([]byte, 16)
	if _, err := open.ReadAt(b, 1<<20); err != nil {
		t.Errorf("a file open across the restart: %v", err)
	}
	same(t, want, filepath.Join(e.root, "m", again.name()), impliedPaths(again))
}

// TestReaders has many readers of a layer that fills itself under them.
func TestReaders(t *testing.T) {
	e := newEnv(t, nil)
	tarball := indextest.Tar(append([]indextest.Entry{indextest.Dir("./"), indextest.Dir("data")}, content(4)...)...)
	for _, form := range []indextest.Layer{
		indextest.EStargz(tarball, indextest.EStargzOptions{}), indextest.Gzip(tarball, indextest.GzipOptions{}),
	} {
		want := e.want(form)
		l := e.layer(want)
		if l.rec.Proven { // the second time it is lazy
			if err := e.fs.Remove(t.Context(), l.ID()); err != nil {
				t.Fatal(err)
			}
			l = e.layer(want)
		}
		done := make(chan error, 1)
		go func() { done <- l.hurry() }()
		readers(t, unpacked(t, form.Tar), filepath.Join(e.root, "m", l.name()))
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestSameWorkOnce resolves one layer many times at once.
func TestSameWorkOnce(t *testing.T) {
	e := newEnv(t, nil)
	layer := indextest.Gzip(big(5), indextest.GzipOptions{})
	want := e.want(layer)
	ids := make(chan uint32, 8)
	for range cap(ids) {
		go func() {
			l, err := e.fs.Resolve(t.Context(), want)
			if err != nil {
				t.Error(err)
				ids <- 0
				return
			}
			ids <- l.ID()
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("layers %d and %d for one blob", first, id)
		}
	}
	if sent := e.registry.Sent(layer.Digest); sent > layer.Size()+layer.Size()/20 {
		t.Errorf("%d bytes sent of a blob of %d", sent, layer.Size())
	}
}

// TestLies are layers that are not what their image says.
func TestLies(t *testing.T) {
	e := newEnv(t, nil)
	tarball := big(6)
	other := indextest.Gzip(big(7), indextest.GzipOptions{})
	t.Run("plain layer of another diffID", func(t *testing.T) {
		w := e.want(indextest.Gzip(tarball, indextest.GzipOptions{}))
		w.DiffID = other.DiffID
		if _, err := e.fs.Resolve(t.Context(), w); err == nil || !strings.Contains(err.Error(), string(other.DiffID)) {
			t.Errorf("error %v does not name the diffID", err)
		}
	})
	t.Run("eStargz layer of another diffID", func(t *testing.T) {
		w := e.want(indextest.EStargz(tarball, indextest.EStargzOptions{}))
		w.DiffID = other.DiffID
		l := e.layer(w)
		if err := l.hurry(); err == nil {
			t.Fatal("it was completed")
		}
		if l.blob != nil {
			t.Error("its blob is kept from being evicted")
		}
		if _, err := e.fs.Paths(t.Context(), []uint32{l.ID()}, AnyForm, false); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("a new container gets it: %v", err)
		}
		if _, err := e.fs.Resolve(t.Context(), w); err == nil {
			t.Error("a new image gets it")
		}
		if b, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), "data/text")); err != nil || len(b) != 6<<20 {
			t.Errorf("a container that has it already reads %d bytes: %v", len(b), err)
		}
	})
	t.Run("wrong TOC digest", func(t *testing.T) {
		form := indextest.EStargz(big(8), indextest.EStargzOptions{})
		for k := range form.Annotations {
			form.Annotations[k] = string(other.Digest)
		}
		l := e.layer(e.want(form))
		if s := l.status(); s.State != Filled || !s.Proven {
			t.Errorf("a layer whose TOC is not the manifest's is %s, not unpacked", s.State)
		}
	})
}
