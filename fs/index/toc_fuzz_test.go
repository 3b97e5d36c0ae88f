package index_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// FuzzTOC: whatever a table says, it is refused with one of the known errors or
// gives an index that Open accepts and whose extents decode, or fail, cleanly.
func FuzzTOC(f *testing.F) {
	es := indextest.EStargz(smallTar(), indextest.EStargzOptions{ChunkSize: 4000, MinChunkSize: 6000})
	for _, s := range []string{
		`{"version":1,"entries":[]}`,
		`{"version":1,"entries":[{"name":"a","type":"reg","size":5,"digest":"sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"}]}`,
		`{"version":1,"entries":[{"name":"a","type":"reg","size":9,"chunkSize":4,"chunkType":"zeros"},{"name":"a","type":"chunk","chunkOffset":4,"offset":9,"chunkType":"zeros"}]}`,
		`{"version":1,"entries":[{"name":"a/b","type":"dir","mode":511,"modtime":"2024-02-29T12:34:56.5Z","xattrs":{"user.a":"YQ=="}},{"name":"c","type":"hardlink","linkName":"a"}]}`,
		`{"entries":[{"name":"x/.wh..wh..opq","type":"reg"},{"name":".wh.y","type":"reg"},{"name":"n","type":"char","devMajor":1,"devMinor":3}]}`,
		`{"entries":null,"version":1,"tarSplitDigest":"x"}`,
	} {
		f.Add([]byte(s))
	}
	indextest.Forge(es, func(toc *estargz.JTOC) {
		text, err := json.Marshal(toc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	})
	f.Fuzz(func(t *testing.T, text []byte) {
		l := indextest.ForgeJSON(es, text)
		p := filepath.Join(t.TempDir(), "x")
		if _, err := index.FromTOC(t.Context(), p, bytes.NewReader(l.Blob), tocOptions(l)); err != nil {
			known(t, err)
			return
		}
		x, err := index.Open(p)
		if err != nil {
			t.Fatalf("FromTOC made what Open refuses: %v", err)
		}
		defer x.Close()
		for i := range x.Info().Chunks {
			e := x.Extent(i)
			err := x.Decode(bytes.NewReader(l.Blob[e.Off:e.Off+e.Len]), e, func(int, []byte) error { return nil })
			if err != nil {
				known(t, err)
			}
		}
	})
}

// FuzzFooter: a blob's end may be anything.
func FuzzFooter(f *testing.F) {
	for _, l := range indextest.WithTOC(smallTar()) {
		f.Add(l.Blob[max(0, len(l.Blob)-300):], l.MediaType, l.Annotations[estargz.TOCJSONDigestAnnotation])
	}
	f.Fuzz(func(t *testing.T, blob []byte, mediaType, toc string) {
		o := index.TOCOptions{Size: int64(len(blob)), MediaType: mediaType, Annotations: map[string]string{
			estargz.TOCJSONDigestAnnotation: toc,
		}}
		if _, err := index.FromTOC(t.Context(), filepath.Join(t.TempDir(), "x"), bytes.NewReader(blob), o); err != nil {
			known(t, err)
		}
	})
}

func known(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrNoTOC) && !errors.Is(err, index.ErrInvalid) {
		t.Fatalf("error without a kind: %v", err)
	}
}

func BenchmarkFromTOC(b *testing.B) {
	l := indextest.EStargz(indextest.Tar(indextest.Many(10_000)...), indextest.EStargzOptions{})
	p := filepath.Join(b.TempDir(), "x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := index.FromTOC(b.Context(), p, bytes.NewReader(l.Blob), tocOptions(l)); err != nil {
			b.Fatal(err)
		}
	}
}
