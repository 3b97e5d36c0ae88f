package indextest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WithTOC returns the tar in the forms that have a table of contents. Entries
// that these forms cannot hold (sparse files) must not be in it.
func WithTOC(tarball []byte) []Layer {
	named := func(name string, o EStargzOptions) Layer {
		l := EStargz(tarball, o)
		l.Name = name
		return l
	}
	return []Layer{
		EStargz(tarball, EStargzOptions{}),
		named("estargz-lossless", EStargzOptions{Lossless: true}),
		named("estargz-small-chunks", EStargzOptions{ChunkSize: 16384}),
		named("estargz-shared-members", EStargzOptions{ChunkSize: 20_000, MinChunkSize: 50_000}),
		named("estargz-legacy-footer", EStargzOptions{LegacyFooter: true}),
		named("zstdchunked", EStargzOptions{Zstd: true}),
		named("zstdchunked-shared-frames", EStargzOptions{Zstd: true, Lossless: true, ChunkSize: 20_000, MinChunkSize: 50_000}),
		PodmanZstdChunked(tarball, 30_000),
	}
}

// EStargzOptions say how a layer with a table of contents is made.
type EStargzOptions struct {
	ChunkSize    int      // 0: 4 MiB
	MinChunkSize int      // above 0: members hold several files
	Prioritized  []string // files before the prefetch landmark
	Lossless     bool     // the tar's bytes are kept, as BuildKit does; no landmark then
	LegacyFooter bool
	External     bool // the table is not in the blob
	Zstd         bool // zstd:chunked as stargz's tools write it
}

// EStargz returns the tar as an eStargz or zstd:chunked layer.
func EStargz(tarball []byte, o EStargzOptions) Layer {
	name, mediaType := "estargz", ocispec.MediaTypeImageLayerGzip
	meta := map[string]string{}
	var c estargz.Compression = gzipCompression{estargz.NewGzipCompressorWithLevel(gzip.BestSpeed), new(estargz.GzipDecompressor)}
	switch {
	case o.External:
		x := externaltoc.NewGzipCompressorWithLevel(gzip.BestSpeed)
		c = externalCompression{x, externaltoc.NewGzipDecompressor(nil)}
	case o.LegacyFooter:
		c = gzipCompression{legacyFooter{estargz.NewGzipCompressorWithLevel(gzip.BestSpeed)}, new(estargz.GzipDecompressor)}
	case o.Zstd:
		name, mediaType = "zstdchunked", ocispec.MediaTypeImageLayerZstd
		c = zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: meta}, new(zstdchunked.Decompressor)}
	}
	blob, toc := stargz(tarball, o, c)
	l := layer(name, mediaType, blob, decode(blob, c))
	meta[estargz.TOCJSONDigestAnnotation] = toc.String()
	l.Annotations = meta
	return l
}

func stargz(tarball []byte, o EStargzOptions, c estargz.Compression) ([]byte, digest.Digest) {
	if o.Lossless {
		var b bytes.Buffer
		w := estargz.NewWriterWithCompressor(&b, c)
		w.ChunkSize, w.MinChunkSize = o.ChunkSize, o.MinChunkSize
		must(w.AppendTarLossLess(bytes.NewReader(tarball)))
		toc, err := w.Close()
		must(err)
		return b.Bytes(), toc
	}
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(tarball), 0, int64(len(tarball))),
		estargz.WithChunkSize(o.ChunkSize), estargz.WithMinChunkSize(o.MinChunkSize),
		estargz.WithPrioritizedFiles(o.Prioritized), estargz.WithCompression(c), estargz.WithParallelism(2))
	must(err)
	blob, err := io.ReadAll(b)
	must(err)
	must(b.Close())
	return blob, b.TOCDigest()
}

func decode(blob []byte, c estargz.Compression) []byte {
	r, err := c.Reader(bytes.NewReader(blob))
	must(err)
	tarball, err := io.ReadAll(r)
	must(err)
	must(r.Close())
	return tarball
}

type gzipCompression struct {
	estargz.Compressor
	*estargz.GzipDecompressor
}

type externalCompression struct {
	*externaltoc.GzipCompressor
	*externaltoc.GzipDecompressor
}

type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

// legacyFooter ends a blob with the footer of stargz before eStargz.
type legacyFooter struct{ *estargz.GzipCompressor }

func (c legacyFooter) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, h hash.Hash) (digest.Digest, error) {
	var b bytes.Buffer
	d, err := c.GzipCompressor.WriteTOCAndFooter(&b, off, toc, h)
	if err != nil {
		return "", err
	}
	b.Truncate(b.Len() - estargz.FooterSize)
	b.Write(estargz.CreateGzipFooter(fmt.Appendf(nil, "%016xSTARGZ", off)))
	_, err = w.Write(b.Bytes())
	return d, err
}

// PodmanTOC is the table of contents of podman's zstd:chunked.
type PodmanTOC struct {
	Version int           `json:"version"`
	Entries []PodmanEntry `json:"entries"`
}

// PodmanEntry is an entry of a PodmanTOC.
type PodmanEntry struct {
	estargz.TOCEntry
	EndOffset int64  `json:"endOffset,omitempty"`
	ChunkType string `json:"chunkType,omitempty"`
}

// PodmanZstdChunked returns the tar as podman and buildah write zstd:chunked:
// each chunk of up to chunk bytes in a frame of its own, runs of zeros marked,
// and the table named by its compressed digest and position.
func PodmanZstdChunked(tarball []byte, chunk int) Layer {
	var b bytes.Buffer
	toc := PodmanTOC{Version: 1}
	parts, rest := split(tarball)
	var head []byte
	for _, p := range parts {
		head = append(head, p.head...)
		if len(p.data) > 0 {
			b.Write(zstdFrame(head))
			head = nil
		}
		toc.Entries = append(toc.Entries, podmanFile(&b, p, chunk)...)
		head = append(head, p.tail...)
	}
	b.Write(zstdFrame(append(head, rest...)))
	text, err := json.Marshal(toc)
	must(err)
	raw := zstdFrame(text)
	at := b.Len() + 8
	skippable(&b, raw)
	split := []byte("no tar-split data")
	skippable(&b, split)
	skippable(&b, podmanFooter(at, len(raw), len(text), at+len(raw)+8, len(split)))
	l := layer("podman-zstdchunked", ocispec.MediaTypeImageLayerZstd, b.Bytes(), tarball)
	l.Annotations = map[string]string{
		"io.github.containers.zstd-chunked.manifest-checksum": digest.FromBytes(raw).String(),
		"io.github.containers.zstd-chunked.manifest-position": fmt.Sprintf("%d:%d:%d:1", at, len(raw), len(text)),
	}
	return l
}

var podmanTypes = map[byte]string{
	tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink",
	tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
}

// podmanFile writes p's content and returns its entries.
func podmanFile(b *bytes.Buffer, p part, chunk int) []PodmanEntry {
	var e PodmanEntry
	e.Name, e.Type, e.LinkName = p.Name, podmanTypes[p.Typeflag], p.Linkname
	if e.Type == "" {
		panic(fmt.Errorf("indextest: zstd:chunked cannot hold %q of type %q", p.Name, p.Typeflag))
	}
	e.Mode, e.Size, e.UID, e.GID = p.Mode, p.Size, p.Uid, p.Gid
	e.DevMajor, e.DevMinor = int(p.Devmajor), int(p.Devminor)
	if !p.ModTime.IsZero() {
		e.ModTime3339 = p.ModTime.UTC().Format("2006-01-02T15:04:05.999999999Z07:00")
	}
	for k, v := range p.PAXRecords {
		if name, ok := bytes.CutPrefix([]byte(k), []byte("SCHILY.xattr.")); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[string(name)] = []byte(v)
		}
	}
	if len(p.data) == 0 {
		return []PodmanEntry{e}
	}
	e.Offset, e.Digest = int64(b.Len()), digest.FromBytes(p.data).String()
	entries := []PodmanEntry{e}
	for off := 0; off < len(p.data); off += chunk {
		data := p.data[off:min(off+chunk, len(p.data))]
		if off > 0 {
			entries = append(entries, PodmanEntry{TOCEntry: estargz.TOCEntry{Type: "chunk", Name: p.Name}})
		}
		if len(data) < len(p.data) {
			c := &entries[len(entries)-1]
			c.Offset, c.ChunkOffset, c.ChunkSize = int64(b.Len()), int64(off), int64(len(data))
			c.ChunkDigest = digest.FromBytes(data).String()
			if len(bytes.Trim(data, "\x00")) == 0 {
				c.ChunkType = "zeros"
			}
		}
		b.Write(zstdFrame(data))
	}
	entries[0].EndOffset = int64(b.Len())
	return entries
}

func podmanFooter(n ...int) []byte {
	f := make([]byte, 0, 64)
	for _, v := range []int{n[0], n[1], n[2], 1, n[3], n[4], n[4]} {
		f = binary.LittleEndian.AppendUint64(f, uint64(v))
	}
	return append(f, "GNUlInUx"...)
}

func skippable(b *bytes.Buffer, data []byte) {
	b.Write([]byte{0x50, 0x2a, 0x4d, 0x18})
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(data))))
	b.Write(data)
}
