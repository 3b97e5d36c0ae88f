// Package indextest makes layers for tests: from a list of entries a tar, and
// from a tar every form of layer that the index knows, with the digests and
// annotations a manifest would give it.
//
// Its functions panic when they cannot make what was asked for, which only a
// mistake in the test brings about.
package indextest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Layer is a blob and what a manifest and a config say about it.
type Layer struct {
	Name        string // of its form, for subtests
	Blob        []byte
	Digest      digest.Digest
	DiffID      digest.Digest
	MediaType   string
	Annotations map[string]string
	Tar         []byte // what DiffID is the digest of
}

// Size returns the length of the blob in bytes.
func (l Layer) Size() int64 { return int64(len(l.Blob)) }

// Descriptor returns the layer's descriptor in a manifest.
func (l Layer) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType:   l.MediaType,
		Digest:      l.Digest,
		Size:        l.Size(),
		Annotations: maps.Clone(l.Annotations),
	}
}

func layer(name, mediaType string, blob, tarball []byte) Layer {
	return Layer{
		Name:      name,
		Blob:      blob,
		Digest:    digest.FromBytes(blob),
		DiffID:    digest.FromBytes(tarball),
		MediaType: mediaType,
		Tar:       tarball,
	}
}

// An Entry is one entry of a tar: a header and the content, or bytes that are
// copied as they are, for what archive/tar cannot write.
type Entry struct {
	tar.Header
	Data []byte
	Raw  []byte
}

// Tar returns the tar of entries. Sizes need not be set; owners, modes and
// times are taken as they are.
func Tar(entries ...Entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Raw != nil {
			must(w.Flush())
			b.Write(e.Raw)
			continue
		}
		h := e.Header
		h.Size = int64(len(e.Data))
		if h.PAXRecords != nil {
			h.PAXRecords = maps.Clone(h.PAXRecords)
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(fmt.Errorf("indextest: entry %q: %w", h.Name, err))
		}
		_, err := w.Write(e.Data)
		must(err)
	}
	must(w.Close())
	return b.Bytes()
}

// A part is one entry of a tar as it lies there.
type part struct {
	*tar.Header
	head []byte // all blocks before the content
	data []byte
	tail []byte // padding after the content
}

// split takes a tar apart. rest is what follows its last entry.
func split(tarball []byte) (parts []part, rest []byte) {
	r := bytes.NewReader(tarball)
	t := tar.NewReader(r)
	end := int64(0)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return parts, tarball[end:]
		}
		must(err)
		at := int64(len(tarball)) - int64(r.Len())
		p := part{Header: h, head: tarball[end:at]}
		size := int64(0)
		if h.Typeflag == tar.TypeReg {
			size = h.Size
		}
		p.data = tarball[at : at+size]
		end = at + (size+511)&^511
		p.tail = tarball[at+size : end]
		parts = append(parts, p)
	}
}

// All returns the tar in every form: those without a table of contents first.
func All(tarball []byte) []Layer {
	return slices.Concat(Plain(tarball), WithTOC(tarball))
}

func must(err error) {
	if err != nil {
		panic(fmt.Errorf("indextest: %w", err))
	}
}
