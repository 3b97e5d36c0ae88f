package indextest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Forge returns an eStargz or stargz zstd:chunked layer whose table of contents
// was changed, and named by the manifest nevertheless. Its diffID is no longer
// right.
func Forge(l Layer, change func(toc *estargz.JTOC)) Layer {
	var c estargz.Compression = gzipCompression{estargz.NewGzipCompressorWithLevel(gzip.BestSpeed), new(estargz.GzipDecompressor)}
	meta := map[string]string{}
	if bytes.HasPrefix(l.Blob, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		c = zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: meta}, new(zstdchunked.Decompressor)}
	}
	payload, off, size := tocOf(l.Blob, c)
	toc, _, err := c.ParseTOC(bytes.NewReader(l.Blob[off : off+size]))
	must(err)
	change(toc)
	b := bytes.NewBuffer(bytes.Clone(l.Blob[:payload]))
	d, err := c.WriteTOCAndFooter(b, payload, toc, nil)
	must(err)
	meta[estargz.TOCJSONDigestAnnotation] = d.String()
	return forged(l, b.Bytes(), meta)
}

// ForgeJSON returns an eStargz layer whose table of contents is text.
func ForgeJSON(l Layer, text []byte) Layer {
	payload, _, _ := tocOf(l.Blob, new(estargz.GzipDecompressor))
	b := bytes.NewBuffer(bytes.Clone(l.Blob[:payload]))
	gzipMember(b, Tar(Entry{Header: File(estargz.TOCTarName, nil).Header, Data: text}), gzip.BestSpeed, len(text)+10_000)
	extra := append([]byte{'S', 'G', 22, 0}, fmt.Sprintf("%016xSTARGZ", payload)...)
	b.Write(estargz.CreateGzipFooter(extra))
	return forged(l, b.Bytes(), map[string]string{estargz.TOCJSONDigestAnnotation: digest.FromBytes(text).String()})
}

func forged(l Layer, blob []byte, annotations map[string]string) Layer {
	f := layer(l.Name+"-forged", l.MediaType, blob, l.Tar)
	f.Annotations = maps.Clone(annotations)
	return f
}

func tocOf(blob []byte, d estargz.Decompressor) (payload, off, size int64) {
	end := int64(len(blob)) - d.FooterSize()
	payload, off, size, err := d.ParseFooter(blob[end:])
	must(err)
	if size == 0 {
		size = end - off
	}
	return payload, off, size
}
