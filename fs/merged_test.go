package fs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// chainOfThree has what merging can get wrong: folders in several layers, hidden
// and opaque ones, files that became folders and the reverse. Lowest first.
func chainOfThree() (chain []indextest.Layer) {
	file, dir, gone := indextest.File, indextest.Dir, func(name string) indextest.Entry { return indextest.File(name, nil) }
	base := append(indextest.Many(300), content(1)...)
	base = append(base,
		dir("./"), dir("a"), dir("a/deep"), file("a/deep/below", []byte("base")), file("a/one", []byte("1")), file("a/two", []byte("2")),
		dir("hidden"), file("hidden/x", []byte("x")), dir("again"), file("again/old", []byte("old")),
		dir("opaque"), file("opaque/old", []byte("old")), dir("opaque/sub"), file("opaque/sub/old", nil),
		dir("wasdir"), file("wasdir/x", nil), file("wasfile", []byte("f")), dir("three"), file("three/base", nil), dir("data"),
		indextest.Symlink("wasdir2", "a"), dir("mode").Mode(0o700).Owner(3, 4).Xattr("user.note", "base"),
	)
	middle := []indextest.Entry{
		dir("./"), dir("three"), dir("many"), dir("a"), file("a/two", []byte("two of the middle")), gone("a/.wh.one"), dir("a/deep"), file("a/deep/middle", nil),
		gone(".wh.hidden"), gone(".wh.again"), gone(".wh.nothing"), gone("three/.wh.base"),
		dir("opaque").Mode(0o711), gone("opaque/.wh..wh..opq"), file("opaque/new", []byte("new")),
		file("wasdir", []byte("now a file")), dir("wasfile"), file("wasfile/in", []byte("in")), dir("wasdir2"), file("wasdir2/y", nil),
	}
	for i := 100; i < 400; i += 2 {
		middle = append(middle, file(fmt.Sprintf("many/f%05d", i), []byte("middle")))
	}
	top := []indextest.Entry{
		dir("./"), dir("a"), dir("opaque"), dir("wasfile"), dir("three"), dir("many"),
		file("a/one", []byte("back")), dir("again"), file("again/new", []byte("new")), dir("opaque/sub"), file("opaque/sub/top", nil),
		dir("wasdir"), file("wasdir/z", []byte("a folder again")), gone("wasfile/.wh.in"), file("three/top", nil),
		dir("mode").Mode(0o750).Xattr("user.note", "top"), gone("many/.wh.f00000"), gone("many/.wh.f00398"), file("many/zz", nil),
	}
	for _, entries := range [][]indextest.Entry{base, middle, top} {
		chain = append(chain, indextest.EStargz(indextest.Tar(entries...), indextest.EStargzOptions{}))
	}
	return chain
}

// stacked is what containerd and overlayfs make of a chain.
func stacked(t *testing.T, chain []indextest.Layer) string {
	t.Helper()
	var lower []string // uppermost first
	for _, l := range chain {
		dir := t.TempDir()
		opts := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lower)}
		if _, err := archive.Apply(t.Context(), dir, bytes.NewReader(l.Tar), opts...); err != nil {
			t.Fatal(err)
		}
		lower = append([]string{dir}, lower...)
	}
	return overlay(t, lower)
}

func overlay(t *testing.T, lower []string) string {
	t.Helper()
	dir := t.TempDir()
	upper, work, top := filepath.Join(dir, "u"), filepath.Join(dir, "w"), filepath.Join(dir, "m")
	for _, d := range []string{upper, work, top} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "index=off,lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", top, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return top
}

// chain resolves and places layers, lowest first, and returns their slots,
// uppermost first.
func (e *env) chain(layers []indextest.Layer) (ids []uint32) {
	e.t.Helper()
	var below []Below
	for _, layer := range layers {
		l := e.layer(e.want(layer), below...)
		below = append(below, Below{Layer: l})
		ids = slices.Insert(ids, 0, l.ID())
	}
	return ids
}

func (e *env) mergedPath(ids []uint32, form Form) string {
	e.t.Helper()
	paths, err := e.fs.Paths(e.t.Context(), ids, form, true)
	if err != nil || len(paths) != 1 {
		e.t.Fatalf("directories %v: %v", paths, err)
	}
	return paths[0]
}

// TestMerged compares a chain's one tree with overlayfs, by itself and below it.
func TestMerged(t *testing.T) {
	e := newEnv(t, nil)
	layers := chainOfThree()
	want := stacked(t, layers)
	ids := e.chain(layers)
	path := e.mergedPath(ids, AnyForm)
	same(t, want, path, nil)
	same(t, want, overlay(t, []string{path}), nil)
	readers(t, want, path)
	if again := e.mergedPath(ids, AnyForm); again != path {
		t.Errorf("one chain has two trees, %s and %s", path, again)
	}
	if other := e.mergedPath(ids[1:], AnyForm); other == path {
		t.Error("two chains have one tree")
	}
}

// TestMergedGone: who stands in a tree whose layer is removed gets an error, and
// nobody else finds it.
func TestMergedGone(t *testing.T) {
	e := newEnv(t, nil)
	ids := e.chain(chainOfThree())
	path := e.mergedPath(ids, AnyForm)
	if err := e.fs.Remove(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "a")); err == nil {
		t.Error("a removed layer's tree is served")
	}
	if left, err := os.ReadDir(filepath.Join(e.root, "merged")); err != nil || len(left) != 0 {
		t.Errorf("files left: %v %v", left, err)
	}
	if _, err := e.fs.Paths(t.Context(), ids, AnyForm, true); err == nil {
		t.Error("a chain without one of its layers was given out")
	}
}

// TestMergedRestart: a tree outlives the process; folders and listings that
// were begun are gone on with.
func TestMergedRestart(t *testing.T) {
	e := newEnv(t, nil)
	layers := chainOfThree()
	want := stacked(t, layers)
	ids := e.chain(layers)
	path := overlay(t, []string{e.mergedPath(ids, AnyForm)})
	deep, err := os.Open(filepath.Join(path, "a/deep"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deep.Close() }()
	many, err := os.Open(filepath.Join(path, "many"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = many.Close() }()
	first, err := many.Readdirnames(100)
	if err != nil {
		t.Fatal(err)
	}
	e.close()
	e.open()
	names, err := deep.Readdirnames(-1)
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"below", "middle"}) {
		t.Errorf("a folder open across the restart has %v: %v", names, err)
	}
	rest, err := many.Readdirnames(-1)
	all, rerr := os.ReadDir(filepath.Join(want, "many"))
	if err != nil || rerr != nil || len(first)+len(rest) != len(all) {
		t.Errorf("%d and %d names of %d: %v %v", len(first), len(rest), len(all), err, rerr)
	}
	same(t, want, path, nil)
}

// TestMergedMixed: with a large plain directory in the chain each layer is
// mounted by itself.
func TestMergedMixed(t *testing.T) {
	e := newEnv(t, nil)
	ids := e.chain(chainOfThree())
	l, _ := e.fs.Layer(ids[2])
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	paths, err := e.fs.Paths(t.Context(), ids, AnyForm, true)
	if err != nil || len(paths) != 3 || paths[2] != l.tree {
		t.Errorf("directories %v: %v", paths, err)
	}
}
