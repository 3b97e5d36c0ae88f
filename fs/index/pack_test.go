package index_test

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func pack(t testing.TB, x *index.Index) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := x.Pack(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d bytes of %d: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// unpack opens what is in a pack, as one does who has only its head.
func unpack(t testing.TB, packed []byte, get index.Windows) (*index.Index, error) {
	t.Helper()
	h, err := index.ParseHead(packed, int64(len(packed)))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(t.TempDir(), "index")
	if err := index.Unpack(path, h, bytes.NewReader(packed[index.PackPrefix:][:h.Size])); err != nil {
		return nil, err
	}
	x, err := index.Open(path)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	x.Lazy(int64(len(packed)), get)
	return x, nil
}

// TestPack: an index that travelled is the one it was, and takes each window
// once, when it needs it.
func TestPack(t *testing.T) {
	tarball := indextest.Tar(append(indextest.Nasty(), indextest.Sparse()...)...)
	for _, l := range indextest.Plain(tarball) {
		t.Run(l.Name, func(t *testing.T) {
			x := mustBuild(t, l.Blob, index.Options{Blob: l.Digest, DiffID: l.DiffID, Spacing: 20_000})
			packed := pack(t, x)
			taken := map[int64]int{}
			y, err := unpack(t, packed, func(off, n int64) ([]byte, error) {
				taken[off]++
				return packed[off:][:n], nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if x.Info() != y.Info() {
				t.Errorf("%+v became %+v", x.Info(), y.Info())
			}
			want := fileBytes(t, x, l.Blob)
			for range 2 {
				if !maps.EqualFunc(want, fileBytes(t, y, l.Blob), bytes.Equal) {
					t.Error("content differs")
				}
			}
			for off, times := range taken {
				if times != 1 {
					t.Errorf("the window at %d was taken %d times", off, times)
				}
			}
			if l.Name == "gzip" && len(taken) == 0 {
				t.Error("no window was needed")
			}
			if !bytes.Equal(pack(t, y), packed) {
				t.Error("packed again it is another one")
			}
		})
	}
}

// TestPackLacks: what cannot be had now is no fault of blob or index; what is
// wrong is, and is not kept.
func TestPackLacks(t *testing.T) {
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{})
	packed := pack(t, mustBuild(t, l.Blob, index.Options{Spacing: 20_000}))
	gone := errors.New("gone")
	var answer func(off, n int64) ([]byte, error)
	x, err := unpack(t, packed, func(off, n int64) ([]byte, error) { return answer(off, n) })
	if err != nil {
		t.Fatal(err)
	}
	e := x.Extent(x.Info().Chunks - 1)
	decode := func() error {
		return x.Decode(bytes.NewReader(l.Blob[e.Off:]), e, func(int, []byte) error { return nil })
	}
	answer = func(int64, int64) ([]byte, error) { return nil, gone }
	if err := decode(); !errors.Is(err, gone) || errors.Is(err, index.ErrCorrupt) {
		t.Errorf("a window that cannot be had: %v", err)
	}
	answer = func(_, n int64) ([]byte, error) { return make([]byte, n), nil }
	if err := decode(); !errors.Is(err, index.ErrCorrupt) {
		t.Errorf("a wrong window: %v", err)
	}
	answer = func(off, n int64) ([]byte, error) { return packed[off:][:n-1], nil }
	if err := decode(); err == nil {
		t.Error("a short window was taken")
	}
	answer = func(off, n int64) ([]byte, error) { return packed[off:][:n], nil }
	if err := decode(); err != nil {
		t.Error(err)
	}
}

// FuzzUnpack: no pack, whatever is in it, does more than fail.
func FuzzUnpack(f *testing.F) {
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{})
	packed := pack(f, mustBuild(f, l.Blob, index.Options{Spacing: 100_000}))
	f.Add(packed)
	f.Add(packed[:len(packed)-1])
	f.Add(packed[:index.PackPrefix])
	f.Fuzz(func(t *testing.T, packed []byte) {
		x, err := unpack(t, packed, func(off, n int64) ([]byte, error) { return packed[off:][:n], nil })
		if err != nil {
			if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrVersion) {
				t.Error(err)
			}
			return
		}
		for i := range x.Info().Chunks {
			e := x.Extent(i)
			if e.Off+e.Len <= int64(len(l.Blob)) {
				_ = x.Decode(bytes.NewReader(l.Blob[e.Off:]), e, func(int, []byte) error { return nil })
			}
		}
	})
}
