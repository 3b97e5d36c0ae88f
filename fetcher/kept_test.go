package fetcher_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// TestImport holds what becomes of blobs that are brought: right ones are kept, others
// leave nothing, and nothing of what was there is lost.
func TestImport(t *testing.T) {
	t.Parallel()
	data := content(3<<20, 1)
	r := ref(data)
	f := open(t, fetcher.Config{Dir: tempDir(t), Max: 64 << 20, Sources: []fetcher.Source{newFake(nil, data)}})
	kept := func() (n int) {
		for _, k := range f.Kept() {
			if k.Verified {
				n++
			}
		}
		return n
	}
	for name, c := range map[string]struct {
		bytes []byte
		size  int64
		want  error
	}{
		"wrong":     {content(3<<20, 2), r.Size, fetcher.ErrDigest},
		"short":     {data[:1<<20], r.Size, io.ErrUnexpectedEOF},
		"too large": {data, 65 << 20, fetcher.ErrFull},
	} {
		if err := f.Import(t.Context(), r.Digest, c.size, bytes.NewReader(c.bytes)); !errors.Is(err, c.want) || kept() != 0 {
			t.Errorf("%s: %v, want %v; %d are kept", name, err, c.want, kept())
		}
	}
	b := openBlob(t, f, r)
	if _, err := read(t.Context(), b, 1<<20, 1<<20, fetcher.OnDemand); err != nil { // some of it is there already
		t.Fatal(err)
	}
	there := missing(b)
	for _, bad := range [][]byte{content(3<<20, 2), data[:1<<20]} {
		if err := f.Import(t.Context(), r.Digest, r.Size, bytes.NewReader(bad)); err == nil || missing(b) != there {
			t.Errorf("beside what is there: %v; %d bytes are missing, before it was %d", err, missing(b), there)
		}
	}
	if _, _, err := f.Content(r.Digest); !errors.Is(err, store.ErrMissing) {
		t.Errorf("what is not whole is given: %v", err)
	}
	if err := f.Import(t.Context(), r.Digest, r.Size, bytes.NewReader(data)); err != nil || kept() != 1 {
		t.Fatalf("%v; %d are kept", err, kept())
	}
	c, size, err := f.Content(r.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err = errors.Join(err, c.Close(), b.Close()); err != nil || size != r.Size || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), size, err)
	}
}
