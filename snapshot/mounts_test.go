package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// option returns the value of a mount option.
func option(m mount.Mount, name string) string {
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return v
		}
	}
	return ""
}

func splitLower(m mount.Mount) []string { return strings.Split(option(m, "lowerdir"), ":") }

// lowers returns the lower directories of mounts, relative to root.
func lowers(t *testing.T, mounts []mount.Mount, root string) []string {
	t.Helper()
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		t.Fatalf("mounts %+v; want one overlay", mounts)
	}
	var rel []string
	for _, dir := range splitLower(mounts[0]) {
		r, err := filepath.Rel(root, dir)
		if err != nil {
			t.Fatal(err)
		}
		rel = append(rel, r)
	}
	return rel
}

// 127 layers, the most that Docker allows, must fit the page that mount(2) takes.
func TestManyLayers(t *testing.T) {
	n := newNode(t)
	ownTempMounts(t)
	var trees []tree
	want := map[string]string{}
	for j := range 127 {
		name := fmt.Sprintf("file%d", j)
		trees = append(trees, tree{files: files(name, "x", "same", name), lazy: j%2 == 0})
		want[name], want["same"] = "x", name
	}
	i := n.image("example.org/many:1", trees)
	n.mustPull("a", i, true)
	if diff := cmp.Diff(want, n.run("a", i)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, n.run("a", i, mapped)); diff != "" {
		t.Errorf("files of a container with mapped IDs (-want +got):\n%s", diff)
	}
}

// ownTempMounts gives containerd's mount package a folder for its temporary
// mounts. It does not always succeed in unmounting there: the thread that has
// made a mount with relative paths still stands in that folder when it tries,
// and if that is the process's first thread, which cannot end, it does so for
// good. So the mounts are only detached.
func ownTempMounts(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := mount.SetTempMountLocation(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.SetTempMountLocation(os.TempDir()); err != nil {
			t.Error(err)
		}
		if err := mount.UnmountRecursive(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

var mapped = snapshots.WithLabels(map[string]string{
	snapshots.LabelSnapshotUIDMapping: "0:70000:65536",
	snapshots.LabelSnapshotGIDMapping: "0:80000:65536",
})

func TestMountsAreBestNow(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", append(three[:2:2], three[0]))
	n.mustPull("a", i, true)
	if _, err := n.inner().Prepare(n.ctx("a"), "c", i.top()); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"l/1", "m/2"}, {"l/1", "l/2"}} {
		mounts, err := n.inner().Mounts(n.ctx("a"), "c")
		if err != nil {
			t.Fatal(err)
		}
		got := lowers(t, mounts, n.layers.root)
		if fixed := renumber(got); !slices.Equal(fixed, want) {
			t.Errorf("lower directories %v, want %v", got, want)
		}
		n.layers.complete(i.layers[1].Digest)
	}
}

// renumber replaces layer numbers, which depend on who is resolved first, by
// the order of appearance.
func renumber(dirs []string) (out []string) {
	for j, d := range dirs {
		out = append(out, fmt.Sprint(filepath.Dir(d), "/", j+1))
	}
	return out
}

func TestViews(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three)
	n.mustPull("a", i, true)
	for layer, want := range []map[string]string{
		files("a", "1", "same", "1"),
		files("a", "1", "b", "2", "same", "2"),
		threeFiles,
	} {
		key := fmt.Sprint("view", layer)
		mounts, err := n.inner().View(n.ctx("a"), key, i.chains[layer].String())
		if err != nil {
			t.Fatal(err)
		}
		if layer == 0 && mounts[0].Type != "bind" {
			t.Errorf("view of one layer is mounted as %+v", mounts)
		}
		if diff := cmp.Diff(want, n.files(mounts)); diff != "" {
			t.Errorf("files up to layer %d (-want +got):\n%s", layer, diff)
		}
		dir := t.TempDir()
		if err := mount.All(mounts, dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write to a view: %v", err)
		}
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	}
}

// With mapped IDs all lower directories are of one kind, and files of root
// belong to the container's root user.
func TestMappedIDs(t *testing.T) {
	for _, tt := range []struct {
		name  string
		trees []tree
		base  bool // the lowest layer was unpacked by containerd
		want  []string
	}{
		{"plain", three[:1], false, []string{"l"}},
		{"plain and lazy", three[:2], false, []string{"m", "m"}},
		{"on an unpacked base", []tree{three[0], {files: files("z", "1")}}, true, []string{"l", "s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			i := n.image("example.org/app:1", tt.trees)
			if tt.base {
				n.mustPull("a", n.image("example.org/base:1", tt.trees[:1]), false)
			}
			n.mustPull("a", i, true)
			mounts, err := n.inner().Prepare(n.ctx("a"), "c", i.top(), mapped)
			if err != nil {
				t.Fatal(err)
			}
			if got := option(mounts[0], "uidmap") + " " + option(mounts[0], "gidmap"); got != "0:70000:65536 0:80000:65536" {
				t.Errorf("mappings %q", got)
			}
			var kinds []string
			for _, dir := range splitLower(mounts[0]) {
				if filepath.Base(dir) == "fs" {
					dir = filepath.Dir(dir)
				}
				kinds = append(kinds, filepath.Base(filepath.Dir(dir)))
			}
			if diff := cmp.Diff(tt.want, kinds); diff != "" {
				t.Errorf("lower directories (-want +got):\n%s", diff)
			}
			dir := t.TempDir()
			if err := mount.All(mounts, dir); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = mount.UnmountAll(dir, 0) }()
			for _, name := range []string{"", "a"} {
				checkOwner(t, filepath.Join(dir, name), 70000, 80000)
			}
		})
	}
}

func checkOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// A containerd that was not told of remap-ids copies and chowns the tree
// itself, and sends the same labels.
func TestIDsShiftedByContainerd(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:1])
	n.mustPull("a", i, true)
	sn, ctx := n.inner(), n.ctx("a")
	mounts, err := sn.Prepare(ctx, "copy", i.top())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(option(mounts[0], "upperdir"), 70000, 80000); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(ctx, "shifted", "copy"); err != nil {
		t.Fatal(err)
	}
	mounts, err = sn.Prepare(ctx, "c", "shifted", mapped)
	if err != nil {
		t.Fatal(err)
	}
	if got := option(mounts[0], "uidmap"); got != "" {
		t.Errorf("IDs that are shifted already are mapped again: %q", got)
	}
}

// A snapshot with mapped IDs above both kinds waits for complete layers, as
// long as its client does.
func TestMappedIDsWait(t *testing.T) {
	n := newNode(t)
	base := n.image("example.org/base:1", three[:1])
	app := n.image("example.org/app:1", three[:2])
	n.mustPull("a", base, false)
	n.mustPull("a", app, true)
	ctx, cancel := context.WithCancel(n.ctx("a"))
	cancel()
	if _, err := n.inner().Prepare(ctx, "gone", app.top(), mapped); !errors.Is(err, context.Canceled) {
		t.Errorf("Prepare of a client that is gone: %v", err)
	}
	if _, err := n.sn.Stat(t.Context(), "gone"); !errdefs.IsNotFound(err) {
		t.Errorf("its snapshot: %v; want not found", err)
	}
	n.layers.complete(app.layers[1].Digest)
	if _, err := n.inner().Prepare(n.ctx("a"), "c", app.top(), mapped); err != nil {
		t.Error(err)
	}
}

// The upper directory belongs to whom the root directory below belongs to.
func TestUpperOwner(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", []tree{{files: files("a", "1"), uid: 1234}})
	n.mustPull("a", i, true)
	mounts, err := n.inner().Prepare(n.ctx("a"), "c", i.top())
	if err != nil {
		t.Fatal(err)
	}
	upper := option(mounts[0], "upperdir")
	checkOwner(t, upper, 1234, 1234)
	if fi, err := os.Stat(upper); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("upper directory: %v, %v", fi.Mode(), err)
	}
}

func TestBadIDMappings(t *testing.T) {
	n := newNode(t)
	for _, mapping := range []string{"0", "0:1", "a:1:1", "1:70000:1", "0:-1:5", "0:70000:0", ","} {
		_, err := n.sn.Prepare(t.Context(), "k"+mapping, "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: mapping}))
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("mapping %q: %v; want invalid argument", mapping, err)
		}
	}
}

func TestRootThatCannotBeMounted(t *testing.T) {
	_, err := snapshot.New(snapshot.Config{Root: filepath.Join(t.TempDir(), "a,b"), Layers: newFakeLayers(t), Images: &fakeImages{}})
	if err == nil || !strings.Contains(err.Error(), "commas") {
		t.Errorf("New: %v", err)
	}
}
