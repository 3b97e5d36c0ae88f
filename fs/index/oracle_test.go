package index_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// attrs is what can be seen of one path.
type attrs struct {
	Mode, UID, GID, Rdev uint32
	Nlink                uint64
	Size                 int64
	Mtime                string // "" where unpacking gives the time of day
	Target               string
	Same                 string // first path that names the same inode
	Xattrs               map[string]string
	Content              string
}

// unpacked is what containerd makes of a tar when its snapshotter is overlayfs.
func unpacked(t *testing.T, tarball []byte) (map[string]attrs, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking with owners and devices needs root")
	}
	root := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	_, err := archive.Apply(t.Context(), root, bytes.NewReader(tarball), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	if err != nil {
		return nil, err
	}
	all, first := map[string]attrs{}, map[uint64]string{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = name
		}
		a := attrs{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: uint32(st.Rdev), Nlink: st.Nlink,
			Size: st.Size, Mtime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec), Same: first[st.Ino], Xattrs: xattrs(t, p),
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			a.Size = 0
		case unix.S_IFLNK:
			a.Target, err = os.Readlink(p)
		case unix.S_IFREG:
			var b []byte
			b, err = os.ReadFile(p)
			a.Content = fmt.Sprintf("%d bytes %x", len(b), sha(b))
		}
		all[name] = a
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, nil
}

func xattrs(t *testing.T, p string) map[string]string {
	t.Helper()
	list, value := make([]byte, 64<<10), make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = string(value[:n])
	}
	return m
}

// indexed is what the index of a layer says.
func indexed(t *testing.T, blob []byte) (map[string]attrs, error) {
	t.Helper()
	x, err := build(t, blob, index.Options{})
	if err != nil {
		return nil, err
	}
	files := fileBytes(t, x, blob)
	all, first := map[string]attrs{}, map[uint32]string{}
	var walk func(ino uint32, name string)
	walk = func(ino uint32, name string) {
		i, ok := x.Inode(ino)
		if !ok || i.Dead {
			t.Fatalf("%q: inode %d is not there, or dead", name, ino)
		}
		if _, ok := first[ino]; !ok {
			first[ino] = name
		}
		a := attrs{
			Mode: i.Mode, UID: i.UID, GID: i.GID, Rdev: i.Rdev, Nlink: uint64(i.Nlink), Size: i.Size,
			Mtime: fmt.Sprintf("%d.%09d", i.Mtime, i.MtimeNsec), Same: first[ino], Target: x.Readlink(ino), Xattrs: map[string]string{},
		}
		for k, v := range x.Xattrs(ino) {
			a.Xattrs[k] = string(v)
		}
		whiteout := i.Mode&unix.S_IFMT == unix.S_IFCHR && i.Rdev == 0
		if i.Implied || ino == index.Root || whiteout && i.Mode&0o7777 == 0 {
			a.Mtime = ""
		}
		if i.Mode&unix.S_IFMT == unix.S_IFREG {
			b := files[ino]
			a.Content = fmt.Sprintf("%d bytes %x", len(b), sha(b))
		}
		all[name] = a
		for n := range x.Entries(ino) {
			child, c := x.Entry(ino, n)
			if found, ok := x.Lookup(ino, child); !ok || found != c {
				t.Errorf("Lookup of %q in %q = %d, %v; want %d", child, name, found, ok, c)
			}
			walk(c, filepath.Join(name, child))
		}
		if p := x.Path(ino); first[ino] == name && p != name && i.Nlink == 1 {
			t.Errorf("Path(%d) = %q, want %q", ino, p, name)
		}
	}
	walk(index.Root, "")
	return all, nil
}

// fileBytes decodes all regular files, extent by extent; holes are zeros.
func fileBytes(t *testing.T, x *index.Index, blob []byte) map[uint32][]byte {
	t.Helper()
	files := map[uint32][]byte{}
	for ino := uint32(index.Root); int(ino) <= x.Info().Inodes; ino++ {
		if i, _ := x.Inode(ino); i.Mode&unix.S_IFMT == unix.S_IFREG && !i.Dead {
			files[ino] = make([]byte, i.Size)
		}
	}
	for i := 0; i < x.Info().Chunks; {
		e := x.Extent(i)
		err := x.Decode(bytes.NewReader(blob[e.Off:e.Off+e.Len]), e, func(n int, data []byte) error {
			c := x.Chunk(n)
			if first, last, ok := x.Find(c.Ino, c.Off, c.Len); !ok || first != n || last != n {
				t.Errorf("Find of chunk %d = %d, %d, %v", n, first, last, ok)
			}
			copy(files[c.Ino][c.Off:c.Off+c.Len], data)
			i = n + 1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// compare holds the index of blob to what containerd makes of the tar in it.
func compare(t *testing.T, want map[string]attrs, err error, blob []byte) {
	t.Helper()
	want = maps.Clone(want)
	got, goterr := indexed(t, blob)
	if (err == nil) != (goterr == nil) {
		t.Fatalf("containerd: %v\nindex: %v", err, goterr)
	}
	if err != nil {
		if !errors.Is(goterr, index.ErrInvalid) {
			t.Fatalf("containerd: %v\nindex: %v, want ErrInvalid", err, goterr)
		}
		return
	}
	for name, a := range got {
		if a.Mtime == "" {
			b := want[name]
			b.Mtime = ""
			want[name] = b
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("containerd -, index +:\n%s", diff)
	}
}

func TestUnpacksAsContainerd(t *testing.T) {
	quiet(t)
	entries := map[string][]indextest.Entry{
		"nasty": indextest.Nasty(),
		"unholdable": slices.DeleteFunc(indextest.Unholdable(), func(e indextest.Entry) bool {
			return len(e.Raw) > 0 && e.Raw[156] == tar.TypeGNUSparse // which containerd does not unpack
		}),
		"many":  indextest.Many(2_000),
		"empty": nil,
	}
	for name, e := range entries {
		tarball := indextest.Tar(e...)
		want, err := unpacked(t, tarball)
		for _, l := range indextest.Plain(tarball) {
			t.Run(name+"/"+l.Name, func(t *testing.T) { compare(t, want, err, l.Blob) })
		}
	}
}

// TestRandomTars makes small tars in which everything happens to the same few
// names, and compares what comes of them, errors included.
func TestRandomTars(t *testing.T) {
	const tars = 200
	quiet(t)
	refused := 0
	for seed := range uint64(tars) {
		tarball := randomTar(rand.New(rand.NewPCG(seed, 0)))
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			want, err := unpacked(t, tarball)
			compare(t, want, err, tarball)
		})
		if !ok {
			t.Log(list(tarball))
		}
		if _, err := build(t, tarball, index.Options{}); err != nil {
			refused++
		}
	}
	if refused == 0 || refused > tars*3/4 {
		t.Errorf("%d of %d tars are refused: the mix is bad", refused, tars)
	}
}

func randomTar(r *rand.Rand) []byte {
	names := []string{
		"a", "b", "a/b", "a/b/c", "./a", "b/a", "c/d/e", "l", "l/x", "a/l", "a/l/y", "/b/z", "../a", "a/../b/q", "l/l",
	}
	targets := []string{"a", "b", "../b", "/a", "/a/b", "l", "../../c", ".", "c/d", "/", "nowhere", "..", "a/", "./b"}
	pick := func(s []string) string { return s[r.IntN(len(s))] }
	var entries []indextest.Entry
	for i := range 3 + r.IntN(8) {
		name := pick(names)
		e := indextest.File(name, fmt.Appendf(nil, "content %d", i))
		switch r.IntN(12) {
		case 0, 1, 2:
			e = indextest.Dir(name)
			if r.IntN(4) == 0 {
				e = e.Mode(0o2775).Owner(0, 50)
			}
		case 3, 4:
			e = indextest.Symlink(name, pick(targets))
		case 5:
			e = indextest.Link(name, pick(slices.Concat(names, targets)))
		case 6:
			dir, base := filepath.Split(filepath.Clean(name))
			e = indextest.File(dir+".wh."+base, nil)
		case 7:
			e = indextest.File(filepath.Join(name, ".wh..wh..opq"), nil)
		case 8:
			e = e.Capability()
		case 9:
			e = indextest.Node(name, []byte{tar.TypeChar, tar.TypeFifo}[r.IntN(2)], 1, 3)
		}
		e = e.Mode(e.Header.Mode | int64(r.IntN(8))).At(indextest.Time.AddDate(0, 0, i))
		if r.IntN(3) == 0 {
			e = e.Owner(r.IntN(3), r.IntN(3))
		}
		if r.IntN(4) == 0 {
			e = e.Xattr(pick([]string{"user.a", "security.x", "trusted.overlay.opaque", "odd"}), "v")
		}
		entries = append(entries, e)
	}
	return indextest.Tar(entries...)
}

// quiet drops what containerd logs.
func quiet(t *testing.T) {
	t.Helper()
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(io.Discard)
	t.Cleanup(func() { log.L.Logger.SetOutput(out) })
}

// list shows a tar's headers.
func list(tarball []byte) string {
	var s strings.Builder
	for tr := tar.NewReader(bytes.NewReader(tarball)); ; {
		h, err := tr.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(&s, err)
			}
			return s.String()
		}
		fmt.Fprintf(&s, "%c %o %d:%d %s -> %s %v\n", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, h.PAXRecords)
	}
}
