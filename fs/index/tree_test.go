package index_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// TestInvalid: what containerd refuses is refused, by the entry's name.
func TestInvalid(t *testing.T) {
	file, link := indextest.File, indextest.Link
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		entries []indextest.Entry
		want    string
	}{
		"link to nothing":        {[]indextest.Entry{link("a", "missing")}, `"a"`},
		"link to a later file":   {[]indextest.Entry{link("a", "b"), file("b", nil)}, `"a"`},
		"link to itself":         {[]indextest.Entry{file("a", nil), link("a", "a")}, `"a"`},
		"link to a folder":       {[]indextest.Entry{indextest.Dir("d"), link("a", "d")}, `"a"`},
		"link to the root":       {[]indextest.Entry{link("a", "/")}, `"a"`},
		"below a file":           {[]indextest.Entry{file("a", nil), file("a/b", nil)}, `"a/b"`},
		"below a file, deep":     {[]indextest.Entry{file("a", nil), file("a/b/c", nil)}, `"a/b/c"`},
		"below a dangling loop":  {[]indextest.Entry{indextest.Symlink("a", "b"), indextest.Symlink("b", "a"), file("a/c", nil)}, `"a/c"`},
		"long name":              {[]indextest.Entry{file(long, nil)}, "256 bytes"},
		"long folder":            {[]indextest.Entry{file(long+"/a", nil)}, "256 bytes"},
		"long path":              {[]indextest.Entry{file(strings.Repeat("d/", 2100)+"f", nil)}, "4200 bytes"},
		"long target":            {[]indextest.Entry{indextest.Symlink("s", strings.Repeat("t", 4096))}, `"s"`},
		"empty target":           {[]indextest.Entry{indextest.Symlink("s", "")}, `"s"`},
		"whiteout of nothing":    {[]indextest.Entry{file("d/.wh.", nil)}, `"d/.wh."`},
		"whiteout of the parent": {[]indextest.Entry{file("d/.wh...", nil)}, `"d/.wh..."`},
		"whiteout of its own":    {[]indextest.Entry{file("a", nil), file(".wh.a", nil)}, `".wh.a"`},
		"folder gone":            {[]indextest.Entry{indextest.Dir("d/e"), file("d", nil), indextest.Dir("d")}, `"d/e"`},
		"long xattr name":        {[]indextest.Entry{file("a", nil).Xattr("user."+long, "v")}, `"a"`},
		"big xattr":              {[]indextest.Entry{file("a", nil).Xattr("user.v", strings.Repeat("v", 64<<10+1))}, `"a"`},
		"bad capability":         {[]indextest.Entry{file("a", nil).Xattr("security.capability", "v")}, `"a"`},
		"unknown type":           {[]indextest.Entry{raw(tar.Header{Typeflag: tar.TypeReg, Name: "cont"}, func(b []byte) { b[156] = '7' })}, `"cont"`},
		"negative size":          {[]indextest.Entry{file("before", nil), raw(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, negative)}, `"before"`},
		"bad checksum":           {[]indextest.Entry{file("before", nil), {Raw: bytes.Repeat([]byte("x"), 512)}}, `"before"`},
		"content cut off":        {[]indextest.Entry{{Raw: indextest.Tar(file("cut", make([]byte, 4000)))[:2000]}}, `"cut"`},
	} {
		t.Run(name, func(t *testing.T) {
			tarball := indextest.Tar(c.entries...)
			if strings.Contains(name, "cut off") {
				tarball = c.entries[0].Raw
			}
			_, err := build(t, tarball, index.Options{})
			if !errors.Is(err, index.ErrInvalid) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v, want ErrInvalid that names %s", err, c.want)
			}
			if len(fmt.Sprint(err)) > 1000 {
				t.Errorf("error of %d bytes", len(fmt.Sprint(err)))
			}
		})
	}
}

// raw is a header block with some of it changed.
func raw(h tar.Header, change func(block []byte)) indextest.Entry {
	b := indextest.Tar(indextest.Entry{Header: h})[:512]
	change(b)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return indextest.Entry{Raw: b}
}

// negative makes the size -1, in base 256.
func negative(b []byte) { copy(b[124:136], bytes.Repeat([]byte{0xff}, 12)) }

// TestGlobalHeader: a global PAX header names nothing, yet takes away the file
// of its name, because containerd removes before it looks at the type.
func TestGlobalHeader(t *testing.T) {
	global := indextest.Entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "a", PAXRecords: map[string]string{"comment": "c"}}}
	tarball := indextest.Tar(indextest.File("a", nil), indextest.File("b", nil), global)
	want, err := unpacked(t, tarball)
	compare(t, want, err, tarball)
	if _, ok := want["a"]; ok {
		t.Error("containerd keeps the file")
	}
}

func TestLimits(t *testing.T) {
	tarball := indextest.Tar(append(indextest.Nasty(), indextest.Sparse()...)...)
	for name, lim := range map[string]index.Limits{
		"inodes":  {Inodes: 10},
		"strings": {Strings: 100},
		"chunks":  {Chunks: 3},
		"stream":  {Stream: 10_000},
		"sparse":  {Sparse: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := build(t, tarball, index.Options{Limits: lim}); !errors.Is(err, index.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

// TestHugeHeader: a PAX header longer than any real one is refused before it
// takes memory.
func TestHugeHeader(t *testing.T) {
	head := raw(tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders/a", Size: 1 << 40}, func(b []byte) { b[156] = tar.TypeXHeader })
	tarball := append(head.Raw, bytes.Repeat([]byte("30 comment=not a huge record\n"), 100_000)...)
	if _, err := build(t, tarball, index.Options{}); !errors.Is(err, index.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

func TestSparse(t *testing.T) {
	tarball := indextest.Tar(indextest.Sparse()...)
	x := mustBuild(t, tarball, index.Options{})
	files := fileBytes(t, x, tarball)
	for i := range x.Entries(index.Root) {
		name, ino := x.Entry(index.Root, i)
		if !bytes.Equal(files[ino], indextest.SparseContent()) {
			t.Errorf("%s: content differs", name)
		}
		if _, _, ok := x.Find(ino, 200_000, 10); ok {
			t.Errorf("%s: chunks in a hole", name)
		}
		if first, last, ok := x.Find(ino, 0, 300_000); !ok || last-first != 2 {
			t.Errorf("%s: chunks %d to %d, %v; want three", name, first, last, ok)
		}
	}
	if x.Info().Chunks != 6 || x.Info().Bytes != 600_000 {
		t.Errorf("%+v", x.Info())
	}
}

func TestReader(t *testing.T) {
	tarball := indextest.Tar(
		indextest.File("usr/lib/a.so", make([]byte, 600_000)),
		indextest.Dir("usr/lib64"),
		indextest.Symlink("usr/lib64/lib", "../lib"),
		indextest.File("etc/conf", []byte("v")).Xattr("user.b", "2").Xattr("user.a", ""),
		indextest.File("var/.wh..wh..opq", nil),
		indextest.File("var/.wh.gone", nil),
	)
	x := mustBuild(t, tarball, index.Options{})
	find := func(p string) uint32 {
		ino := uint32(index.Root)
		for name := range strings.SplitSeq(p, "/") {
			var ok bool
			if ino, ok = x.Lookup(ino, name); !ok {
				t.Fatalf("%s: no %s", p, name)
			}
		}
		return ino
	}
	var implied []string
	for ino, p := range x.Implied() {
		if i, _ := x.Inode(ino); !i.Implied || find(p) != ino {
			t.Errorf("%d, %q is not implied", ino, p)
		}
		implied = append(implied, p)
	}
	if diff := cmp.Diff([]string{"usr", "usr/lib", "etc", "var"}, implied); diff != "" {
		t.Error(diff)
	}
	if v, ok := x.Xattr(find("var"), "trusted.overlay.opaque"); string(v) != "y" || !ok {
		t.Errorf("opaque = %q, %v", v, ok)
	}
	if i, _ := x.Inode(find("var/gone")); i.Mode&unix.S_IFMT != unix.S_IFCHR || i.Rdev != 0 {
		t.Errorf("whiteout: %+v", i)
	}
	var names []string
	for name := range x.Xattrs(find("etc/conf")) {
		names = append(names, name)
	}
	if diff := cmp.Diff([]string{"user.a", "user.b"}, names); diff != "" {
		t.Error(diff)
	}
	lib := find("usr/lib/a.so")
	if first, last, ok := x.Find(lib, 262_143, 2); !ok || last-first != 1 {
		t.Errorf("Find across a boundary: %d, %d, %v", first, last, ok)
	}
	for _, at := range []int64{600_000, 1 << 62} {
		if _, _, ok := x.Find(lib, at, 1<<62); ok {
			t.Errorf("chunks at %d, behind the end", at)
		}
	}
	if i := x.Info(); i.Usage != 6*4096+602_112+4096 || i.Bytes != 600_001 || !i.Xattrs {
		t.Errorf("%+v", i)
	}
	checkMissing(t, x, lib)
}

// checkMissing asks for what is not there.
func checkMissing(t *testing.T, x *index.Index, file uint32) {
	t.Helper()
	for _, ino := range []uint32{0, 1 << 31, file} {
		if _, ok := x.Lookup(ino, "a"); ok || x.Entries(ino) != 0 {
			t.Errorf("inode %d is a folder", ino)
		}
		if name, child := x.Entry(ino, 0); name != "" || child != 0 {
			t.Errorf("inode %d has an entry", ino)
		}
		if _, ok := x.Xattr(ino, "a"); ok || x.Readlink(ino) != "" {
			t.Errorf("inode %d has an attribute or target", ino)
		}
	}
	for range x.Xattrs(0) {
		t.Error("inode 0 has attributes")
	}
	if _, child := x.Entry(index.Root, -1); child != 0 {
		t.Error("entry -1")
	}
	if _, _, ok := x.Find(index.Root, 0, 1); ok {
		t.Error("a folder has chunks")
	}
}

// TestSame finds each kind of difference.
func TestSame(t *testing.T) {
	base := func() []indextest.Entry {
		return []indextest.Entry{
			indextest.Dir("d"), indextest.File("d/f", []byte("f")).Xattr("user.a", "1"), indextest.Symlink("s", "t"),
		}
	}
	x := mustBuild(t, indextest.Tar(base()...), index.Options{})
	for name, change := range map[string]func([]indextest.Entry) []indextest.Entry{
		"more":  func(e []indextest.Entry) []indextest.Entry { return append(e, indextest.File("z", nil)) },
		"name":  func(e []indextest.Entry) []indextest.Entry { e[1].Name = "d/g"; return e },
		"mode":  func(e []indextest.Entry) []indextest.Entry { e[1] = e[1].Mode(0o600); return e },
		"owner": func(e []indextest.Entry) []indextest.Entry { e[0] = e[0].Owner(1, 0); return e },
		"size":  func(e []indextest.Entry) []indextest.Entry { e[1].Data = []byte("ff"); return e },
		"time": func(e []indextest.Entry) []indextest.Entry {
			e[1] = e[1].At(indextest.Time.Add(-time.Minute))
			return e
		},
		"xattr": func(e []indextest.Entry) []indextest.Entry {
			e[1].PAXRecords = nil
			e[1] = e[1].Xattr("user.a", "2")
			return e
		},
		"xattrs": func(e []indextest.Entry) []indextest.Entry { e[1] = e[1].Xattr("user.b", "2"); return e },
		"target": func(e []indextest.Entry) []indextest.Entry { e[2].Linkname = "u"; return e },
		"order":  func(e []indextest.Entry) []indextest.Entry { return []indextest.Entry{e[2], e[0], e[1]} },
	} {
		t.Run(name, func(t *testing.T) {
			y := mustBuild(t, indextest.Tar(change(base())...), index.Options{})
			if err := index.Same(y, x); err == nil {
				t.Error("no difference found")
			}
		})
	}
	if err := index.Same(x, mustBuild(t, indextest.Tar(base()...), index.Options{})); err != nil {
		t.Error(err)
	}
	fraction := base()
	fraction[1] = fraction[1].At(indextest.Time.Add(999_999_999))
	fraction[1].Format = tar.FormatPAX
	if err := index.Same(x, mustBuild(t, indextest.Tar(fraction...), index.Options{})); err != nil {
		t.Errorf("a fraction of a second: %v", err)
	}
}
