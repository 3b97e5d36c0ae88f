package index_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// indexFile returns an index as it lies on disk, and its blob.
func indexFile(t testing.TB) (file, blob []byte) {
	t.Helper()
	l := indextest.Gzip(indextest.Tar(
		indextest.Dir("d").Xattr("user.a", "v"),
		indextest.File("d/f", indextest.Text(1, 30_000)),
		indextest.Link("d/g", "d/f"),
		indextest.Symlink("s", "d/f"),
		indextest.File("implied/x", indextest.Text(2, 40_000)),
		indextest.File("implied/x", []byte("again")),
		indextest.File(".wh.w", nil),
	), indextest.GzipOptions{Level: gzip.BestSpeed, Flush: 9000})
	path := filepath.Join(t.TempDir(), "index")
	if _, err := index.Build(t.Context(), path, bytes.NewReader(l.Blob), index.Options{Spacing: 10_000}); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file, l.Blob
}

// open opens an index of the given bytes.
func open(t testing.TB, file []byte) (*index.Index, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return index.Open(path)
}

func TestOpenRefuses(t *testing.T) {
	file, _ := indexFile(t)
	other := bytes.Clone(file)
	other[8]++
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"nothing":         {nil, index.ErrCorrupt},
		"another file":    {bytes.Repeat([]byte("text"), 2000), index.ErrCorrupt},
		"another version": {other, index.ErrVersion},
		"half":            {file[:len(file)/2], index.ErrCorrupt},
		"a byte less":     {file[:len(file)-1], index.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, c.file); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := index.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestOpenFindsDamage: no flipped bit goes unnoticed, in the windows excepted;
// those are found when they are used.
func TestOpenFindsDamage(t *testing.T) {
	file, blob := indexFile(t)
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		at := r.IntN(len(file))
		damaged := bytes.Clone(file)
		damaged[at] ^= 1 << r.IntN(8)
		x, err := open(t, damaged)
		if err != nil {
			if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrVersion) {
				t.Fatalf("bit in byte %d: %v", at, err)
			}
			continue
		}
		err = index.Verify(t.Context(), x, bytes.NewReader(blob))
		unused := at >= 800 && at < 4096 || file[at] == 0 // behind the header, or padding
		if at >= indextest.Tables(file) && !unused || err != nil && !errors.Is(err, index.ErrCorrupt) {
			t.Errorf("bit in byte %d: %v", at, err)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWindowDamage: a damaged window is found when its span is decoded.
func TestWindowDamage(t *testing.T) {
	file, blob := indexFile(t)
	for i := 4096; i < indextest.Tables(file); i += 16 {
		file[i] ^= 0xff
	}
	x, err := open(t, file)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := index.Verify(t.Context(), x, bytes.NewReader(blob)); !errors.Is(err, index.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// use asks an index for everything.
func use(t testing.TB, x *index.Index, blob []byte) {
	t.Helper()
	for ino := uint32(0); int(ino) <= x.Info().Inodes+1; ino++ {
		x.Inode(ino)
		x.Path(ino)
		x.Readlink(ino)
		for name := range x.Xattrs(ino) {
			if _, ok := x.Xattr(ino, name); !ok {
				t.Errorf("inode %d has and has not %q", ino, name)
			}
		}
		for i := range x.Entries(ino) {
			name, child := x.Entry(ino, i)
			if found, ok := x.Lookup(ino, name); !ok || found != child {
				t.Errorf("inode %d has and has not %q", ino, name)
			}
		}
		x.Find(ino, 0, 1<<62)
	}
	for range x.Implied() {
	}
	for i := range x.Info().Chunks {
		x.Chunk(i)
		e := x.Extent(i)
		if e.First > i || e.Last < i || e.Off < 0 || e.Len < 0 {
			t.Fatalf("extent of %d: %+v", i, e)
		}
		if e.Off+e.Len <= int64(len(blob)) {
			_ = x.Decode(bytes.NewReader(blob[e.Off:e.Off+e.Len]), e, func(int, []byte) error { return nil })
		}
	}
}
