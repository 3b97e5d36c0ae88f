package ztoc_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/ztoc"
)

// written is what SOCI itself has written; ../testdata/soci/README.md says how.
func written(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "soci", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse(t *testing.T) {
	for name, want := range map[string]struct {
		gzip  bool
		spans int
	}{"gzip.ztoc": {true, 2}, "tar.ztoc": {false, 3}} {
		z, err := ztoc.Parse(written(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if z.Gzip != want.gzip || len(z.Spans) != want.spans || z.Len() != 15 {
			t.Errorf("%s: gzip %v, %d spans, %d entries", name, z.Gzip, len(z.Spans), z.Len())
		}
		found := map[string]ztoc.Entry{}
		for i := range z.Len() {
			e, err := z.Entry(i)
			if err != nil {
				t.Fatal(err)
			}
			found[e.Name] = e
		}
		if e := found["./sub/text3"]; e.Type != "reg" || e.Size != 5635 || e.PAX["SCHILY.xattr.user.k"] != "v" {
			t.Errorf("%s: a file with an attribute: %+v", name, e)
		}
		if e := found["./random"]; e.Mode != 0o4755 {
			t.Errorf("%s: a file with a mode: %+v", name, e)
		}
		if e := found["./sub/text4"]; e.ModTime.UnixNano() != 1706933106789012345 {
			t.Errorf("%s: a file with a time: %v", name, e.ModTime)
		}
		if e := found["./null"]; e.Type != "char" || e.Devmajor != 1 || e.Devminor != 3 {
			t.Errorf("%s: a device: %+v", name, e)
		}
		if e := found["./sym"]; e.Type != "symlink" || e.Linkname != "sub/text2" {
			t.Errorf("%s: a link: %+v", name, e)
		}
	}
}

// TestTruncated: whatever is missing at the end, it is noticed.
func TestTruncated(t *testing.T) {
	data := written(t, "gzip.ztoc")
	for n := 0; n < len(data); n += 1 + n/50 {
		z, err := ztoc.Parse(data[:n:n])
		for i := 0; err == nil && i < z.Len(); i++ {
			_, err = z.Entry(i)
		}
		if !errors.Is(err, ztoc.ErrInvalid) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// TestHugeBlob: the spans of a blob that nobody can have are not counted.
func TestHugeBlob(t *testing.T) {
	z := indextest.Ztoc{BlobSize: math.MaxInt64, TarSize: 1024, SpanSize: 1 << 43}
	if _, err := ztoc.Parse(z.Encode()); !errors.Is(err, ztoc.ErrInvalid) {
		t.Errorf("a blob of %d bytes: %v", z.BlobSize, err)
	}
}

// FuzzParse: any bytes are ErrInvalid, or a ztoc within its bounds.
func FuzzParse(f *testing.F) {
	f.Add(written(f, "gzip.ztoc"))
	f.Add(written(f, "tar.ztoc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := ztoc.Parse(data)
		if err != nil {
			if !errors.Is(err, ztoc.ErrInvalid) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		prev := ztoc.Span{In: -1, Out: -1}
		for i, s := range z.Spans {
			if s.Off() < 0 || s.In <= prev.In || s.In >= z.BlobSize || s.Out <= prev.Out || s.Bits > 7 || int64(len(s.Window)) > s.Out {
				t.Fatalf("span %d is %d, %d, %d bits, after %d, %d", i, s.In, s.Out, s.Bits, prev.In, prev.Out)
			}
			prev = s
		}
		taken := 0
		for i := range z.Len() {
			e, err := z.Entry(i)
			if err != nil {
				if !errors.Is(err, ztoc.ErrInvalid) {
					t.Fatalf("error without a kind: %v", err)
				}
				return
			}
			taken += len(e.Name) + len(e.Type) + len(e.Linkname)
			for k, v := range e.PAX {
				taken += len(k) + len(v)
			}
		}
		if taken > len(data) {
			t.Fatalf("%d bytes were taken out of %d", taken, len(data))
		}
	})
}
