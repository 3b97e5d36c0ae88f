package indextest_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// TestForms holds every form to what it claims: the blob decodes to the tar of
// the diffID.
func TestForms(t *testing.T) {
	for _, l := range indextest.All(indextest.Tar(indextest.Nasty()...)) {
		t.Run(l.Name, func(t *testing.T) {
			var r io.Reader = bytes.NewReader(l.Blob)
			switch {
			case bytes.HasPrefix(l.Blob, []byte{0x1f, 0x8b}):
				z, err := gzip.NewReader(r)
				if err != nil {
					t.Fatal(err)
				}
				r = z
			case bytes.HasPrefix(l.Blob, []byte{0x28, 0xb5, 0x2f, 0xfd}):
				z, err := zstd.NewReader(r)
				if err != nil {
					t.Fatal(err)
				}
				defer z.Close()
				r = z
			}
			tarball, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if d := digest.FromBytes(tarball); d != l.DiffID {
				t.Errorf("diffID is %s, the layer says %s", d, l.DiffID)
			}
			if d := digest.FromBytes(l.Blob); d != l.Digest {
				t.Errorf("digest is %s, the layer says %s", d, l.Digest)
			}
		})
	}
}

// TestTOCIsEStargz opens the layers with stargz's own reader.
func TestTOCIsEStargz(t *testing.T) {
	for _, l := range indextest.WithTOC(indextest.Tar(indextest.Nasty()...)) {
		want := digest.Digest(l.Annotations[estargz.TOCJSONDigestAnnotation])
		if want == "" {
			continue // podman's own
		}
		r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(l.Blob), 0, l.Size()),
			estargz.WithDecompressors(new(zstdchunked.Decompressor)))
		if err != nil {
			t.Errorf("%s: %v", l.Name, err)
			continue
		}
		if d := r.TOCDigest(); d != want {
			t.Errorf("%s: TOC digest %s, annotation %s", l.Name, d, want)
		}
	}
}

func TestSparse(t *testing.T) {
	r := tar.NewReader(bytes.NewReader(indextest.Tar(append(indextest.Sparse(), indextest.File("after", []byte("x")))...)))
	for _, want := range []string{"sparse-gnu", "sparse-pax"} {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		data, err := io.ReadAll(r)
		if err != nil || h.Name != want {
			t.Fatalf("entry %q, want %q: %v", h.Name, want, err)
		}
		if !bytes.Equal(data, indextest.SparseContent()) {
			t.Errorf("%s: content differs (%d bytes)", want, len(data))
		}
	}
	if h, err := r.Next(); err != nil || h.Name != "after" {
		t.Errorf("entry after the sparse ones: %v, %v", h, err)
	}
}
