package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

var someTime = time.Unix(1_600_000_000, 0)

// lowers are two layers below one that only implies its folders.
func lowers() (base, other []byte) {
	dir := func(name string, mode int64, uid int) indextest.Entry {
		return indextest.Dir(name).Mode(mode).Owner(uid, uid+1).At(someTime)
	}
	base = indextest.Tar(
		dir("tmp", 0o1777, 0), dir("home", 0o755, 0), dir("home/user", 0o700, 1000).Xattr("user.note", "mine"),
		dir("usr", 0o755, 0), dir("usr/lib", 0o750, 7), indextest.Symlink("lib", "usr/lib"), indextest.File("plain", []byte("a file")),
	)
	other = indextest.Tar(dir("tmp", 0o755, 5), dir("home", 0o711, 5), dir("home/user", 0o711, 6))
	return base, other
}

func top() []byte {
	return indextest.Tar(
		indextest.File("tmp/x", []byte("1")), indextest.File("home/user/deep/y", []byte("2")),
		indextest.File("lib/z", []byte("3")), indextest.File("plain/f", []byte("4")), indextest.File("new/g", []byte("5")),
	)
}

// TestPlace compares implied folders with what containerd makes of them.
func TestPlace(t *testing.T) {
	e := newEnv(t, nil)
	base, other := lowers()
	upper := e.want(indextest.Gzip(top(), indextest.GzipOptions{}))
	over := func(lower []byte) (*Layer, string) {
		b := e.layer(e.want(indextest.Gzip(lower, indextest.GzipOptions{})))
		l := e.layer(upper, Below{Layer: b})
		dir := t.TempDir()
		_, err := archive.Apply(t.Context(), dir, bytes.NewReader(top()),
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents([]string{unpacked(t, lower)}))
		if err != nil {
			t.Fatal(err)
		}
		return l, dir
	}
	first, want := over(base)
	same(t, want, filepath.Join(e.root, "m", first.name()), impliedPaths(first))
	if !first.hasXattrs() {
		t.Error("a layer with an inherited xattr is said to have none")
	}
	second, want := over(other)
	if second == first {
		t.Fatal("one layer in two chains that do not agree")
	}
	same(t, want, filepath.Join(e.root, "m", second.name()), impliedPaths(second))
	for _, l := range []*Layer{first, second} {
		if err := l.hurry(); err != nil {
			t.Fatal(err)
		}
	}
	same(t, want, second.tree, impliedPaths(second))
	if again, _ := over(base); again != first {
		t.Errorf("layer %d is not shared by chains that agree, %d is made", first.ID(), again.ID())
	}
}

// TestPlaceOnDirectory places a layer above one that containerd has unpacked.
func TestPlaceOnDirectory(t *testing.T) {
	e := newEnv(t, nil)
	base, _ := lowers()
	dir := unpacked(t, base)
	l := e.layer(e.want(indextest.Gzip(top(), indextest.GzipOptions{})), Below{Dir: dir})
	for path, mode := range map[string]uint32{"tmp": 0o1777, "home/user": 0o700, "lib": 0o750, "plain": 0o755, "new": 0o755} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(e.path(l, AnyForm), path), &st); err != nil || st.Mode&0o7777 != mode {
			t.Errorf("%s has mode %o, want %o (%v)", path, st.Mode&0o7777, mode, err)
		}
	}
	v := make([]byte, 16)
	if n, err := unix.Getxattr(filepath.Join(e.path(l, AnyForm), "home/user"), "user.note", v); err != nil || string(v[:n]) != "mine" {
		t.Errorf("inherited xattr is %q: %v", v[:max(n, 0)], err)
	}
}

// TestManyNames lists a folder of 10,000 files and finds each.
func TestManyNames(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.Gzip(indextest.Tar(indextest.Many(10_000)...), indextest.GzipOptions{})))
	names, err := os.ReadDir(filepath.Join(e.path(l, AnyForm), "many"))
	if err != nil || len(names) != 10_000 {
		t.Fatalf("%d names: %v", len(names), err)
	}
	for _, n := range names[:100] {
		if b, err := os.ReadFile(filepath.Join(e.path(l, AnyForm), "many", n.Name())); err != nil || len(b) == 0 {
			t.Errorf("%s: %q, %v", n.Name(), b, err)
		}
	}
	if _, err := os.Stat(filepath.Join(e.path(l, AnyForm), "many/f10000")); !os.IsNotExist(err) {
		t.Errorf("a name that is not there: %v", err)
	}
}

// TestSessionRoot looks for what is no layer.
func TestSessionRoot(t *testing.T) {
	e := newEnv(t, nil)
	for _, name := range []string{"0", "1", "01", "-1", "4294967296", "x", ".."} {
		fi, err := os.Lstat(filepath.Join(e.root, "m") + "/" + name + "/.")
		if name != ".." && err == nil {
			t.Errorf("%s is %v", name, fi.Mode())
		}
	}
	if list, err := os.ReadDir(filepath.Join(e.root, "n")); err != nil || len(list) != 0 {
		t.Errorf("root lists %v: %v", list, err)
	}
}

// TestInheritedXattr: what a layer inherits from one below outlives that.
func TestInheritedXattr(t *testing.T) {
	e := newEnv(t, nil)
	base, _ := lowers()
	b := e.layer(e.want(indextest.Gzip(base, indextest.GzipOptions{})))
	l := e.layer(e.want(indextest.Gzip(top(), indextest.GzipOptions{})), Below{Layer: b})
	if err := e.fs.Remove(t.Context(), b.ID()); err != nil {
		t.Fatal(err)
	}
	names := make([]byte, 64)
	n, err := unix.Listxattr(filepath.Join(e.path(l, AnyForm), "home/user"), names)
	if err != nil || string(names[:n]) != "user.note\x00" {
		t.Errorf("inherited xattrs are %q: %v", names[:max(n, 0)], err)
	}
}

// TestPlaceNotSaved: a place that could not be written down is not taken.
func TestPlaceNotSaved(t *testing.T) {
	e := newEnv(t, nil)
	base, other := lowers()
	b := e.layer(e.want(indextest.Gzip(base, indextest.GzipOptions{})))
	o := e.layer(e.want(indextest.Gzip(other, indextest.GzipOptions{})))
	l, err := e.fs.Resolve(t.Context(), e.want(indextest.Gzip(top(), indextest.GzipOptions{})))
	if err != nil {
		t.Fatal(err)
	}
	before := l.rec
	obstacle := filepath.Join(l.dir, "layer.json.tmp")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := e.fs.Place(t.Context(), l, []Below{{Layer: b}}); err == nil {
		t.Fatal("a record is written in spite of everything")
	}
	if !reflect.DeepEqual(l.rec, before) || len(*l.placed.Load()) > 0 {
		t.Error("the layer is placed without a record")
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	if got := e.layer(e.want(indextest.Gzip(top(), indextest.GzipOptions{})), Below{Layer: o}); got != l {
		t.Errorf("layer %d, which has no place yet, is not used; %d is made", l.ID(), got.ID())
	}
}

// TestCloneCopies: a layer in a second chain takes what the first has, half
// filled or complete, and asks for nothing twice.
func TestCloneCopies(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	tarball := indextest.Tar(append(content(60), indextest.File("tmp/x", []byte("1")))...)
	form := indextest.EStargz(tarball, indextest.EStargzOptions{ChunkSize: 256 << 10})
	w := e.want(form)
	in := func(mode int64) *Layer {
		t.Helper()
		lower := indextest.Tar(indextest.Dir("tmp").Mode(mode))
		return e.layer(w, Below{Layer: e.layer(e.want(indextest.Gzip(lower, indextest.GzipOptions{})))})
	}
	read := func(l *Layer, file string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), file))
		if want, werr := os.ReadFile(filepath.Join(unpacked(t, form.Tar), file)); err != nil || werr != nil || !bytes.Equal(got, want) {
			t.Errorf("%s of layer %d reads wrong: %v, %v", file, l.ID(), err, werr)
		}
	}
	first := in(0o1777)
	read(first, "data/text")
	half := in(0o755)
	if half == first {
		t.Fatal("one layer in chains that do not agree")
	}
	sent := e.registry.Sent(form.Digest)
	evict(t, first)
	read(half, "data/text")
	if n := e.registry.Sent(form.Digest) - sent; n != 0 {
		t.Errorf("%d bytes are fetched of what the first layer has", n)
	}
	if err := first.hurry(); err != nil {
		t.Fatal(err)
	}
	sent = e.registry.Sent(form.Digest)
	evict(t, first)
	for _, l := range []*Layer{half, in(0o711)} {
		for _, file := range []string{"data/text", "data/random", "tmp/x"} {
			read(l, file)
		}
	}
	if err := half.hurry(); err != nil {
		t.Error(err)
	}
	if n := e.registry.Sent(form.Digest) - sent; n != 0 {
		t.Errorf("%d bytes are fetched of what the first layer has, or has proven", n)
	}
}

// evict takes the layer's blob from the store.
func evict(t *testing.T, l *Layer) {
	t.Helper()
	blob, err := l.fs.fetcher.Blob(l.rec.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(blob.Discard(0, blob.Size()), blob.Close()); err != nil {
		t.Fatal(err)
	}
}
