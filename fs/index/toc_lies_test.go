package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// refused holds FromTOC to an error for l, and to leaving nothing behind.
func refused(t *testing.T, l indextest.Layer, want error, text string) {
	t.Helper()
	dir := t.TempDir()
	_, err := index.FromTOC(t.Context(), filepath.Join(dir, "x"), bytes.NewReader(l.Blob), tocOptions(l))
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error is %q, want %q that says %q", err, want, text)
	}
	for _, other := range []error{index.ErrCorrupt, index.ErrNoTOC, index.ErrInvalid} {
		if errors.Is(err, other) && !errors.Is(want, other) {
			t.Errorf("error is also %q: %v", other, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

func smallTar() []byte {
	return indextest.Tar(
		indextest.Dir("d"),
		indextest.File("d/big", indextest.Random(1, 10_000)),
		indextest.File("d/small", []byte("small")),
		indextest.Link("d/link", "d/small"),
		indextest.Symlink("d/sym", "small"),
		indextest.File("d/end", []byte("end")),
	)
}

func TestNoTOC(t *testing.T) {
	tarball := smallTar()
	es := indextest.EStargz(tarball, indextest.EStargzOptions{})
	podman := indextest.PodmanZstdChunked(tarball, 4000)
	const position = "io.github.containers.zstd-chunked.manifest-position"
	with := func(l indextest.Layer, key, value string) indextest.Layer {
		l.Annotations = maps.Clone(l.Annotations)
		l.Annotations[key] = value
		return l
	}
	plain := indextest.Gzip(tarball, indextest.GzipOptions{Level: 6})
	plain.Annotations = es.Annotations
	tests := []struct {
		name string
		l    indextest.Layer
		text string
	}{
		{"no annotation", func() indextest.Layer { l := es; l.Annotations = nil; return l }(), "names no digest"},
		{"empty annotation", with(es, estargz.TOCJSONDigestAnnotation, ""), "names no digest"},
		{"annotation without a digest", with(es, estargz.TOCJSONDigestAnnotation, "latest"), "not a sha256 digest"},
		{"annotation with another hash", with(es, estargz.TOCJSONDigestAnnotation, "sha512:"+strings.Repeat("00", 64)), "not a sha256 digest"},
		{"external table", indextest.EStargz(tarball, indextest.EStargzOptions{External: true}), "no footer"},
		{"plain gzip with an annotation", plain, "no footer"},
		{"media type of a tar", func() indextest.Layer { l := es; l.MediaType = ocispec.MediaTypeImageLayer; return l }(), "media type"},
		{"media type of zstd", func() indextest.Layer { l := es; l.MediaType = ocispec.MediaTypeImageLayerZstd; return l }(), "no footer"},
		{"empty blob", func() indextest.Layer { l := es; l.Blob = nil; return l }(), "unknown size"},
		{"tiny blob", func() indextest.Layer { l := es; l.Blob = l.Blob[:30]; return l }(), "no footer"},
		{"footer that lies about its length", func() indextest.Layer {
			l := es
			extra := append([]byte{'S', 'G', 22, 0}, make([]byte, 2)...)
			l.Blob = append(bytes.Clone(l.Blob), make([]byte, 20)...)
			l.Blob = append(l.Blob, estargz.CreateGzipFooter(extra)...)
			l.Blob = append(l.Blob, make([]byte, 20)...)
			return l
		}(), "no footer"},
		{"position is no position", with(podman, position, "here"), "position"},
		{"position is negative", with(podman, position, "-1:2:3:1"), "position"},
		{"position of another type", with(podman, position, "100:20:30:2"), "type 2"},
		{"chunk without a digest", indextest.Forge(es, func(toc *estargz.JTOC) {
			e := entry(toc, "d/small")
			e.Digest, e.ChunkDigest = "", ""
		}), "no digest"},
		{"chunk of a gigabyte", indextest.Forge(es, func(toc *estargz.JTOC) { entry(toc, "d/end").Size = 1 << 30 }), "d/end"},
		{"chunk deep in a member", indextest.Forge(es, func(toc *estargz.JTOC) { entry(toc, "d/end").InnerOffset = 1 << 40 }), "d/end"},
		{"name that JSON cannot hold", indextest.EStargz(indextest.Tar(indextest.Unholdable()[2]), indextest.EStargzOptions{}), "JSON"},
		{"version 2", indextest.Forge(es, func(toc *estargz.JTOC) { toc.Version = 2 }), "version 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.l, index.ErrNoTOC, tt.text) })
	}
}

func entry(toc *estargz.JTOC, name string) *estargz.TOCEntry {
	for _, e := range toc.Entries {
		if e.Name == name {
			return e
		}
	}
	panic("no entry " + name)
}

func TestTOCLies(t *testing.T) {
	es := indextest.EStargz(smallTar(), indextest.EStargzOptions{ChunkSize: 4000})
	shared := indextest.EStargz(smallTar(), indextest.EStargzOptions{ChunkSize: 4000, MinChunkSize: 1 << 20})
	chunks := func(toc *estargz.JTOC) (c []*estargz.TOCEntry) {
		for _, e := range toc.Entries {
			if e.Type == "chunk" {
				c = append(c, e)
			}
		}
		return c
	}
	tests := []struct {
		name   string
		change func(toc *estargz.JTOC)
		text   string
	}{
		{"data after the table", func(toc *estargz.JTOC) { entry(toc, "d/end").Offset = es.Size() - 60 }, `"d/end": data at`},
		{"data after the blob", func(toc *estargz.JTOC) { entry(toc, "d/end").Offset = 1 << 50 }, `"d/end": data at`},
		{"negative offset", func(toc *estargz.JTOC) { entry(toc, "d/big").Offset = -1 }, `"d/big": data at -1`},
		{"backwards", func(toc *estargz.JTOC) { entry(toc, "d/end").Offset = 1 }, `"d/end": data at 1 after data`},
		{"same data twice", func(toc *estargz.JTOC) { entry(toc, "d/end").Offset = entry(toc, "d/small").Offset }, `"d/end": data at`},
		{"negative size", func(toc *estargz.JTOC) { entry(toc, "d/end").Size = -5 }, `"d/end": size -5`},
		{"negative chunk", func(toc *estargz.JTOC) { entry(toc, "d/big").ChunkSize = -4000 }, `"d/big": chunk of -4000 bytes`},
		{"negative inner offset", func(toc *estargz.JTOC) { entry(toc, "d/small").InnerOffset = -1 }, `"d/small": inner offset -1`},
		{"chunks overlap", func(toc *estargz.JTOC) { chunks(toc)[0].ChunkOffset = 3999 }, `"d/big": chunk at 3999, want 4000`},
		{"gap between chunks", func(toc *estargz.JTOC) { chunks(toc)[0].ChunkOffset = 4001 }, `"d/big": chunk at 4001, want 4000`},
		{"chunk beyond the file", func(toc *estargz.JTOC) { chunks(toc)[1].ChunkSize = 2001 }, `"d/big": chunk of 2001 bytes at 8000`},
		{"file longer than its chunks", func(toc *estargz.JTOC) { chunks(toc)[1].ChunkSize = 1999 }, `"d/big": chunks cover 9999 of 10000`},
		{"chunk of nothing", func(toc *estargz.JTOC) { toc.Entries = append(chunks(toc)[:1:1], toc.Entries...) }, `"d/big": chunk`},
		{"chunk of a folder", func(toc *estargz.JTOC) { toc.Entries = append(toc.Entries, entry(toc, "d/"), chunks(toc)[0]) }, `"d/big": chunk`},
		{"file without content", func(toc *estargz.JTOC) { toc.Entries = toc.Entries[:len(toc.Entries)-1] }, `file "d/end" is not in the TOC`},
		{"digest that is none", func(toc *estargz.JTOC) { entry(toc, "d/end").ChunkDigest = "sha256:abc" }, `"d/end", chunk at 0`},
		{"digest of another hash", func(toc *estargz.JTOC) {
			entry(toc, "d/end").ChunkDigest = "sha512:" + strings.Repeat("0", 64)
		}, `"d/end", chunk at 0`},
		{"digest not in hex", func(toc *estargz.JTOC) {
			entry(toc, "d/end").ChunkDigest = "sha256:" + strings.Repeat("x", 64)
		}, `"d/end", chunk at 0`},
		{"unknown type", func(toc *estargz.JTOC) { entry(toc, "d/sym").Type = "socket" }, `"d/sym" is a "socket"`},
		{"time that is none", func(toc *estargz.JTOC) { entry(toc, "d/sym").ModTime3339 = "yesterday" }, `"d/sym": time "yesterday"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { refused(t, indextest.Forge(es, tt.change), index.ErrCorrupt, tt.text) })
	}
	t.Run("overlap in a member", func(t *testing.T) {
		l := indextest.Forge(shared, func(toc *estargz.JTOC) { entry(toc, "d/small").InnerOffset -= 2000 })
		refused(t, l, index.ErrCorrupt, `"d/small": data at`)
	})
	t.Run("another table", func(t *testing.T) {
		l := es
		l.Annotations = shared.Annotations
		refused(t, l, index.ErrCorrupt, "the manifest says")
	})
	t.Run("another compressed table", func(t *testing.T) {
		l := indextest.PodmanZstdChunked(smallTar(), 4000)
		l.Annotations = maps.Clone(l.Annotations)
		l.Annotations["io.github.containers.zstd-chunked.manifest-checksum"] = string(es.Digest)
		refused(t, l, index.ErrCorrupt, "the manifest says")
	})
	t.Run("position outside the blob", func(t *testing.T) {
		l := indextest.PodmanZstdChunked(smallTar(), 4000)
		l.Annotations = maps.Clone(l.Annotations)
		l.Annotations["io.github.containers.zstd-chunked.manifest-position"] = fmt.Sprintf("%d:200:300:1", l.Size()-100)
		refused(t, l, index.ErrCorrupt, "of a blob of")
	})
}

// TestTOCNames: names that unpacking refuses are refused here too.
func TestTOCNames(t *testing.T) {
	es := indextest.EStargz(smallTar(), indextest.EStargzOptions{})
	for _, tt := range []struct {
		name   string
		change func(toc *estargz.JTOC)
		text   string
	}{
		{"long", func(toc *estargz.JTOC) { entry(toc, "d/sym").Name = strings.Repeat("n", 256) }, "256 bytes"},
		{"below a file", func(toc *estargz.JTOC) { entry(toc, "d/sym").Name = "d/small/x" }, "no folder"},
		{"link to what comes later", func(toc *estargz.JTOC) { entry(toc, "d/link").LinkName = "d/end" }, "not in the layer before it"},
		{"link to a folder", func(toc *estargz.JTOC) { entry(toc, "d/link").LinkName = "d" }, "folder"},
		{"symbolic link to nothing", func(toc *estargz.JTOC) { entry(toc, "d/sym").LinkName = "" }, "target of 0 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, indextest.Forge(es, tt.change), index.ErrInvalid, tt.text) })
	}
}

func TestTOCBombs(t *testing.T) {
	es := indextest.EStargz(smallTar(), indextest.EStargzOptions{})
	for _, tt := range []struct {
		name, json, text string
	}{
		{"nothing", ``, "TOC"},
		{"no object", `[]`, "where { belongs"},
		{"cut short", `{"version":1,"entries":[{"name":"a"`, "TOC"},
		{"entries are a number", `{"version":1,"entries":7}`, "entries are 7"},
		{"name is a number", `{"version":1,"entries":[{"name":7}]}`, "TOC"},
		{"huge name", `{"version":1,"entries":[{"name":"` + strings.Repeat("x", 2<<20) + `"}]}`, "entry of more than"},
		{"huge unknown field", `{"x":"` + strings.Repeat("x", 2<<20) + `","version":1}`, "entry of more than"},
		{"deep unknown field", `{"x":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `}`, "depth"},
		{"blanks without end", `{"version":1,"entries":[` + strings.Repeat(" ", 2<<20) + `]}`, "entry of more than"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, indextest.ForgeJSON(es, []byte(tt.json)), index.ErrCorrupt, tt.text) })
	}
	t.Run("more inodes than allowed", func(t *testing.T) {
		l := indextest.EStargz(indextest.Tar(indextest.Many(100)...), indextest.EStargzOptions{})
		o := tocOptions(l)
		o.Limits.Inodes = 50
		if _, err := index.FromTOC(t.Context(), filepath.Join(t.TempDir(), "x"), bytes.NewReader(l.Blob), o); !errors.Is(err, index.ErrInvalid) {
			t.Errorf("100 inodes with a limit of 50: %v", err)
		}
	})
}

// tailOnly is a large blob of zeros with an end.
type tailOnly struct {
	size int64
	tail []byte
}

func (b tailOnly) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if at := b.size - int64(len(b.tail)) - off; at < int64(len(p)) {
		copy(p[max(0, at):], b.tail[max(0, -at):])
	}
	return len(p), nil
}

// TestTOCTooLarge: no memory is taken for what a footer merely claims.
func TestTOCTooLarge(t *testing.T) {
	extra := append([]byte{'S', 'G', 22, 0}, fmt.Sprintf("%016xSTARGZ", 1000)...)
	b := tailOnly{1 << 40, estargz.CreateGzipFooter(extra)}
	l := indextest.EStargz(smallTar(), indextest.EStargzOptions{})
	o := tocOptions(l)
	o.Size = b.size
	_, err := index.FromTOC(t.Context(), filepath.Join(t.TempDir(), "x"), b, o)
	if !errors.Is(err, index.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "TOC of 10995") {
		t.Errorf("table of a terabyte: %v", err)
	}
}
