package fs

import (
	"bytes"
	"debug/elf"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// hostProgram returns a dynamically linked program of this machine, its loader,
// and the libraries that it needs, theirs included, as files of an image.
func hostProgram(t *testing.T) (program []byte, files map[string][]byte) {
	t.Helper()
	program, err := os.ReadFile("/bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	todo := [][]byte{program}
	for len(todo) > 0 {
		l, err := linkedTo(bytes.NewReader(todo[0]))
		if err != nil {
			t.Fatal(err)
		}
		todo = todo[1:]
		for _, name := range l.names() {
			i := slices.IndexFunc(places(name), func(p string) bool { _, err := os.Stat(p); return err == nil })
			if i < 0 {
				t.Fatalf("%s is not on this machine", name)
			}
			p := strings.TrimPrefix(places(name)[i], "/")
			if files[p] != nil {
				continue
			}
			if files[p], err = os.ReadFile("/" + p); err != nil {
				t.Fatal(err)
			}
			todo = append(todo, files[p])
		}
	}
	return program, files
}

// TestStart fetches what a program needs, through a script and links of two
// layers, and nothing else.
func TestStart(t *testing.T) {
	e := newEnv(t, nil)
	program, libraries := hostProgram(t)
	base := []indextest.Entry{
		indextest.File("opt/tool-1", program),
		indextest.File("filler", indextest.Random(1, 5<<20)),
		indextest.File("opt/run.sh", []byte("#!/hidden/by/the/upper/layer\n")),
	}
	for _, p := range slices.Sorted(maps.Keys(libraries)) {
		base = append(base, indextest.File(p, libraries[p]))
	}
	upper := []indextest.Entry{
		indextest.Symlink("usr/bin/tool", "../../opt/tool-1"),
		indextest.File("opt/run.sh", []byte("#! /usr/bin/tool -x\nexit\n")),
		indextest.File("more", indextest.Random(2, 5<<20)),
	}
	lower := e.layer(e.want(indextest.EStargz(indextest.Tar(base...), indextest.EStargzOptions{})))
	top := e.layer(e.want(indextest.EStargz(indextest.Tar(upper...), indextest.EStargzOptions{})), Below{Layer: lower})

	s := &starter{image: image{lower, top}, left: maxStart, seen: map[string]bool{}}
	s.program(Program{Name: "run.sh", Path: "/usr/bin:/opt"})

	want := append(slices.Sorted(maps.Keys(libraries)), "opt/tool-1")
	slices.Sort(want)
	if diff := cmp.Diff(want, there(lower)); diff != "" {
		t.Errorf("files of the lower layer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"opt/run.sh"}, there(top)); diff != "" {
		t.Errorf("files of the upper layer (-want +got):\n%s", diff)
	}
}

// there lists the files of a layer whose content is on disk.
func there(l *Layer) []string {
	var paths []string
	for ino := uint32(1); ; ino++ {
		in, ok := l.index.Inode(ino)
		if !ok {
			slices.Sort(paths)
			return paths
		}
		if isRegular(in.Mode) && in.Size > 0 && l.ready(ino, 0, in.Size) {
			paths = append(paths, l.index.Path(ino))
		}
	}
}

// TestStartOfNothing names programs that cannot be found or run.
func TestStartOfNothing(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.EStargz(indextest.Tar(
		indextest.File("filler", indextest.Random(1, 5<<20)),
		indextest.File("loop.sh", []byte("#!/loop.sh")),
		indextest.File("short", []byte("\x7fELF")),
		indextest.Symlink("self", "self"),
		indextest.Dir("dir"),
	), indextest.EStargzOptions{})))
	for _, name := range []string{"", "none", "/none", "../../filler/x", "/self", "/dir", "/short", "/loop.sh", "/"} {
		s := &starter{image: image{l}, left: maxStart, seen: map[string]bool{}}
		s.program(Program{Name: name, Path: "::/bin"})
	}
	e.fs.Start([]*Layer{l}, Program{Name: "/short"})
	if err := e.fs.Remove(t.Context(), l.ID()); err != nil {
		t.Fatal(err)
	}
	e.fs.Start([]*Layer{l}, Program{Name: "/short"}) // removed this moment
}

func TestFindInImage(t *testing.T) {
	e := newEnv(t, nil)
	lower := e.layer(e.want(indextest.EStargz(indextest.Tar(
		indextest.File("a/one", []byte("1")),
		indextest.File("a/two", []byte("2")),
		indextest.File("b/three", []byte("3")),
		indextest.File("c/four", []byte("4")),
		indextest.Symlink("lib", "usr/lib"),
		indextest.File("usr/lib/five", []byte("5")),
		indextest.File("filler", indextest.Random(1, 5<<20)),
	), indextest.EStargzOptions{})))
	upper := e.layer(e.want(indextest.Uncompressed(indextest.Tar(
		indextest.File("a/.wh.one", nil),
		indextest.File("b/.wh..wh..opq", nil),
		indextest.File("c", []byte("no folder now")),
		indextest.Symlink("to/abs", "/lib/../lib/five"),
		indextest.Symlink("to/out", "../../../../a/two"),
	))), Below{Layer: lower})
	for name, want := range map[string]string{
		"/a/two": "a/two", "/a/one": "", "/b/three": "", "/b": "b", "/c/four": "", "/c": "c", "/lib/five": "usr/lib/five",
		"/to/abs": "usr/lib/five", "/to/out": "a/two", "/to/./../a//two": "a/two", "/none": "",
	} {
		l, in, ok := image{lower, upper}.find(name)
		got := ""
		if ok {
			got = l.index.Path(in.Ino)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestLinkedTo reads programs of this machine as debug/elf does.
func TestLinkedTo(t *testing.T) {
	programs, err := filepath.Glob("/usr/bin/*")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, p := range programs {
		f, err := elf.Open(p)
		if err != nil || f.Class != elf.ELFCLASS64 {
			continue
		}
		want, err := f.ImportedLibraries()
		_ = f.Close()
		if err != nil {
			continue
		}
		if seen++; seen > 100 {
			break
		}
		r, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := linkedTo(r)
		_ = r.Close()
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if diff := cmp.Diff(want, got.needed); diff != "" && len(want)+len(got.needed) > 0 {
			t.Errorf("%s (-want +got):\n%s", p, diff)
		}
	}
	if seen == 0 {
		t.Error("no program was read")
	}
}

func FuzzLinkedTo(f *testing.F) {
	b, err := os.ReadFile("/bin/true")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:64])
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := linkedTo(bytes.NewReader(b))
		if err == nil && len(l.needed) > maxNeeded {
			t.Errorf("%d libraries", len(l.needed))
		}
		interpreter(bytes.NewReader(b))
	})
}
