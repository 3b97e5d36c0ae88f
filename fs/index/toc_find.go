package index

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
)

// Annotations of a layer in a manifest that name its table of contents. The
// digest under estargz.TOCJSONDigestAnnotation is of the JSON; a checksum is of
// the compressed JSON, a position is "offset:length:expanded length:type". The
// checksum and position keys of stargz's tools and of old podmans lack "github".
const (
	podmanChecksum = "io.github.containers.zstd-chunked.manifest-checksum"
	podmanPosition = "io.github.containers.zstd-chunked.manifest-position"
)

const (
	tocTail     = 128 << 10 // read first from a blob's end: the footer, and small tables whole
	tocBefore   = 64 << 10  // read before a table, where the tar's last headers usually are
	maxTOC      = 64 << 20  // compressed
	maxTOCJSON  = 512 << 20
	zstdHeader  = 8 // of the skippable frame that holds a zstd:chunked table
	tocTypeCRFS = 1
)

// tocPlace says where a blob's table of contents lies and what proves it.
type tocPlace struct {
	kind    Kind
	off     int64 // of the gzip member, or of the compressed JSON within its skippable frame
	size    int64
	payload int64 // end of the blob's content: file data lies below
	json    digest.Digest
	raw     digest.Digest // of the compressed bytes
}

// findTOC returns where the table of contents of b's blob is. It reads the
// blob's tail unless the manifest gives the position.
func findTOC(b *blobEnd, o TOCOptions) (tocPlace, error) {
	p, err := tocTrust(o.Annotations)
	if err != nil {
		return p, err
	}
	if b.size <= 0 {
		return p, fmt.Errorf("%w: blob of unknown size", ErrNoTOC)
	}
	gz, zst := strings.HasSuffix(o.MediaType, "gzip"), strings.HasSuffix(o.MediaType, "zstd")
	if o.MediaType == "" {
		gz, zst = true, true
	}
	pos := annotation(o.Annotations, podmanPosition, zstdchunked.ManifestPositionAnnotation)
	switch {
	case zst && pos != "":
		err = p.position(pos)
	case gz || zst:
		err = p.footer(b, gz, zst)
	default:
		return p, fmt.Errorf("%w: media type %s", ErrNoTOC, o.MediaType)
	}
	if err != nil {
		return p, err
	}
	return p, p.check(b.size)
}

// NamesTOC reports whether a manifest names the digest of its layer's own table of
// contents, in these annotations of it.
func NamesTOC(annotations map[string]string) bool {
	_, err := tocTrust(annotations)
	return err == nil
}

// tocTrust reads the digests that the manifest names.
func tocTrust(annotations map[string]string) (p tocPlace, err error) {
	parse := func(keys ...string) (d digest.Digest) {
		v := annotation(annotations, keys...)
		if v == "" {
			return ""
		}
		if d, err = digest.Parse(v); err != nil || d.Algorithm() != digest.SHA256 {
			err = fmt.Errorf("%w: annotation %s is %q, not a sha256 digest", ErrNoTOC, keys[0], v)
		}
		return d
	}
	if p.json = parse(estargz.TOCJSONDigestAnnotation); err != nil {
		return p, err
	}
	if p.raw = parse(podmanChecksum, zstdchunked.ManifestChecksumAnnotation); err != nil {
		return p, err
	}
	if p.json == "" && p.raw == "" {
		return p, fmt.Errorf("%w: the manifest names no digest of one", ErrNoTOC)
	}
	return p, nil
}

func annotation(m map[string]string, keys ...string) string {
	for _, k := range keys {
		if v := m[k]; v != "" {
			return v
		}
	}
	return ""
}

// position takes the place from a manifest-position annotation.
func (p *tocPlace) position(s string) error {
	var n [4]int64
	f := strings.Split(s, ":")
	if len(f) != len(n) {
		return fmt.Errorf("%w: position %q", ErrNoTOC, s)
	}
	for i := range f {
		var err error
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil || n[i] < 0 {
			return fmt.Errorf("%w: position %q", ErrNoTOC, s)
		}
	}
	if n[3] != tocTypeCRFS {
		return fmt.Errorf("%w: type %d", ErrNoTOC, n[3])
	}
	if n[2] > maxTOCJSON {
		return fmt.Errorf("%w: TOC expands to %d bytes", ErrCorrupt, n[2])
	}
	p.kind, p.off, p.size, p.payload = ZstdChunked, n[0], n[1], n[0]-zstdHeader
	return nil
}

// footer takes the place from the blob's footer. A blob without one, or whose
// table is kept elsewhere, has no table that can be used.
func (p *tocPlace) footer(b *blobEnd, gz, zst bool) error {
	if err := b.extend(max(0, b.size-tocTail)); err != nil {
		return err
	}
	for _, f := range []struct {
		kind Kind
		try  bool
		dec  estargz.Decompressor
	}{
		{EStargz, gz && p.json != "" && b.extraLen(estargz.FooterSize) == 26, new(estargz.GzipDecompressor)},
		{EStargz, gz && p.json != "", new(estargz.LegacyGzipDecompressor)},
		{ZstdChunked, zst, new(zstdchunked.Decompressor)},
	} {
		n := f.dec.FooterSize()
		if !f.try || b.size < n {
			continue
		}
		payload, off, size, err := f.dec.ParseFooter(b.bytes(b.size-n, b.size))
		if err != nil {
			continue
		}
		if f.kind == EStargz || size == 0 {
			size = b.size - n - off
		}
		p.kind, p.off, p.size, p.payload = f.kind, off, size, payload
		return nil
	}
	return fmt.Errorf("%w: no footer", ErrNoTOC)
}

// check refuses a place that cannot be in a blob of size bytes.
func (p *tocPlace) check(size int64) error {
	switch {
	case p.off < 0 || p.payload < 0 || p.size <= 0 || p.off > size || p.size > size-p.off:
		return fmt.Errorf("%w: TOC at %d, %d bytes, of a blob of %d", ErrCorrupt, p.off, p.size, size)
	case p.size > maxTOC:
		return fmt.Errorf("%w: TOC of %d bytes", ErrCorrupt, p.size)
	}
	return nil
}

// A blobEnd holds a run of a blob that grows towards the blob's beginning, in
// few and large reads: every one may cost a round trip.
type blobEnd struct {
	r    io.ReaderAt
	size int64
	off  int64 // data is the blob's bytes from off on
	data []byte
}

// extend makes the bytes from off on available, up to those held already.
func (b *blobEnd) extend(off int64) error {
	if off >= b.off {
		return nil
	}
	head := b.off - off
	data := make([]byte, head+int64(len(b.data)))
	copy(data[head:], b.data)
	if n, err := b.r.ReadAt(data[:head], off); int64(n) < head {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read blob at %d: %w", off, err)
	}
	b.off, b.data = off, data
	return nil
}

// bytes returns the blob's bytes [from,to), which must be available.
func (b *blobEnd) bytes(from, to int64) []byte { return b.data[from-b.off : to-b.off] }

// extraLen returns the length of the extra field of a gzip footer of n bytes.
// The footer's parser takes it for granted.
func (b *blobEnd) extraLen(n int64) int {
	if b.size < n {
		return -1
	}
	f := b.bytes(b.size-n, b.size)
	return int(f[10]) | int(f[11])<<8
}
