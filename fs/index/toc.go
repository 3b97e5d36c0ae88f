package index

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// ErrNoTOC is returned for a layer without a table of contents in its blob that
// the manifest names and that covers it with digests. Treat it as a plain one.
var ErrNoTOC = errors.New("no table of contents to trust")

// TOCOptions describe a layer as its manifest does.
type TOCOptions struct {
	Blob        digest.Digest
	Size        int64
	MediaType   string // "" if unknown
	Annotations map[string]string
	Limits      Limits
}

// tocEntryBytes is about what an entry takes as JSON.
const tocEntryBytes = 320

// tocOwnChunk is the chunk size of a table that is itself a file of the layer.
const tocOwnChunk = 1 << 20

// FromTOC writes the index of a layer from the table of contents that the blob
// carries, and reads no more of the blob than that takes. Kind is EStargz or
// ZstdChunked, and the diffID stays unproven.
//
// Errors: ErrNoTOC (treat the layer as a plain one), ErrCorrupt (the table is
// not the one that the manifest names, or it lies), ErrInvalid, and what r
// returns.
func FromTOC(ctx context.Context, path string, r io.ReaderAt, o TOCOptions) (Info, error) {
	b := &blobEnd{r: r, size: o.Size, off: o.Size}
	p, err := findTOC(b, o)
	if err != nil {
		return Info{}, err
	}
	w, err := newWriter(path, o.Limits)
	if err != nil {
		return Info{}, err
	}
	defer w.abort()
	t := &toc{place: p, tree: w.tree, chunks: tocChunks{w: w, payload: p.payload, codec: codecZstd}}
	if p.kind == EStargz {
		t.chunks.codec = codecMember
		err = t.readGzip(ctx, b)
	} else {
		err = t.readZstd(ctx, b)
	}
	if err != nil {
		return Info{}, err
	}
	info := Info{Blob: o.Blob, BlobSize: o.Size, Kind: p.kind, Seekable: true, Prefetch: t.prefetch}
	return w.commit(info, 0)
}

// A toc is a table of contents that is being read into an index.
type toc struct {
	place    tocPlace
	tree     *tree
	chunks   tocChunks
	bytes    int64   // of all files
	prefetch int64   // end of what is wanted first
	own      *tocOwn // eStargz: the table as a file
	header   tar.Header
}

// readZstd reads the table of a zstd:chunked blob, which is not in the tar.
func (t *toc) readZstd(ctx context.Context, b *blobEnd) error {
	p := &t.place
	if end := p.off + p.size; b.off > end {
		b.off, b.data = end, nil // its place is known without the tail
	}
	if err := b.extend(p.off); err != nil {
		return err
	}
	raw := b.bytes(p.off, p.off+p.size)
	if got := digest.FromBytes(raw); p.raw != "" && got != p.raw {
		return fmt.Errorf("%w: compressed TOC is %s, the manifest says %s", ErrCorrupt, got, p.raw)
	}
	z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxTOC))
	if err != nil {
		return fmt.Errorf("decode TOC: %w", err)
	}
	defer z.Close()
	return t.read(ctx, z)
}

// readGzip reads the table of an eStargz blob: a tar entry in a gzip member of
// its own, and so a file of the layer unless the tar has ended before it.
func (t *toc) readGzip(ctx context.Context, b *blobEnd) error {
	p := &t.place
	if p.off < b.off {
		if err := b.extend(max(0, p.off-tocBefore)); err != nil {
			return err
		}
	}
	z, done := pooledReaders(bytes.NewReader(b.bytes(p.off, p.off+p.size)))
	defer done()
	if err := skipGzipHeader(z.br); err != nil {
		return fmt.Errorf("%w: TOC: %w", ErrCorrupt, err)
	}
	z.fr.Reset(z.br, 0, nil)
	c := &countReader{r: z.fr} // of this member alone
	tr := tar.NewReader(c)
	h, err := tr.Next()
	if err != nil {
		return fmt.Errorf("%w: TOC: %w", ErrCorrupt, err)
	}
	if h.Name != estargz.TOCTarName || h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%w: TOC in an entry %q", ErrCorrupt, shorten(h.Name))
	}
	t.own = &tocOwn{inner: c.n, chunk: sha256.New()}
	t.chunks.w.expect(h.Size / tocEntryBytes)
	if err := t.read(ctx, io.TeeReader(tr, t.own)); err != nil {
		return err
	}
	inTar, err := t.endsInTOC(b)
	if err != nil || !inTar {
		return err
	}
	ino, err := t.tree.add(h)
	if err != nil {
		return err
	}
	t.own.flush()
	return t.chunks.own(p, ino, t.own)
}

// read builds tree and chunks from the table's JSON and verifies it.
func (t *toc) read(ctx context.Context, r io.Reader) error {
	sum := sha256.New()
	in := &countReader{r: io.TeeReader(io.LimitReader(r, maxTOCJSON+1), sum)}
	n := 0
	if err := parseTOC(in, func(e *tocEntry) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return t.add(e)
	}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("%w: TOC: %w", ErrCorrupt, err)
	}
	if in.n > maxTOCJSON {
		return fmt.Errorf("%w: TOC expands to more than %d bytes", ErrCorrupt, maxTOCJSON)
	}
	if got := digest.NewDigest(digest.SHA256, sum); t.place.json != "" && got != t.place.json {
		return fmt.Errorf("%w: TOC is %s, the manifest says %s", ErrCorrupt, got, t.place.json)
	}
	return t.chunks.end()
}

// add takes one entry of the table.
func (t *toc) add(e *tocEntry) error {
	if e.Type == "chunk" {
		return t.chunks.add(e)
	}
	if strings.ContainsRune(e.Name, '\uFFFD') || strings.ContainsRune(e.LinkName, '\uFFFD') {
		return fmt.Errorf("%w: %q may stand for a name that JSON cannot hold", ErrNoTOC, shorten(e.Name))
	}
	h := &t.header
	if err := e.header(h); err != nil {
		return err
	}
	ino, err := t.tree.add(h)
	if err != nil {
		return err
	}
	if t.bytes += h.Size; t.bytes > t.tree.lim.Stream || t.bytes < 0 {
		return fmt.Errorf("more than %d bytes of content: %w", t.tree.lim.Stream, ErrInvalid)
	}
	if err := t.chunks.begin(ino, e); err != nil {
		return err
	}
	if e.Type == "reg" && e.Size > 0 && strings.Contains(e.Name, estargz.PrefetchLandmark) && path.Clean(e.Name) == estargz.PrefetchLandmark {
		t.prefetch = e.Offset
	}
	return nil
}

// endsInTOC reports whether unpacking the tar comes upon the table's own entry.
// It does not where a tar with its end marker was taken over byte by byte, as
// BuildKit does, and the entry follows the marker. What follows the last file
// with content tells.
func (t *toc) endsInTOC(b *blobEnd) (bool, error) {
	p := &t.place
	off, skip := t.chunks.tail()
	src, step := &sourceReader{}, 4<<10
	if off >= b.off {
		src.r = bytes.NewReader(b.bytes(off, p.off+p.size))
	} else { // in few reads
		src.r, step = io.NewSectionReader(b.r, off, p.off+p.size-off), 1<<20
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(src, step))
	if err == nil {
		if _, err = io.CopyN(io.Discard, z, skip); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	found := false
	for tr := tar.NewReader(io.LimitReader(z, maxInner)); err == nil && !found; {
		var h *tar.Header
		if h, err = tr.Next(); err != nil {
			break
		}
		found = h.Name == estargz.TOCTarName
		if !found && h.Typeflag == tar.TypeReg && h.Size > 0 {
			return false, fmt.Errorf("%w: file %q is not in the TOC", ErrCorrupt, shorten(h.Name))
		}
	}
	switch {
	case src.err != nil:
		return false, fmt.Errorf("read blob after %d: %w", off, src.err)
	case err != nil && !errors.Is(err, io.EOF):
		return false, fmt.Errorf("%w: tar after the last content, at %d: %w", ErrCorrupt, off, err)
	}
	return found, nil
}

// A sourceReader remembers the error with which a source failed: decoders
// return it mixed with their own.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// tocOwn collects the chunks of a table that is a file of the layer.
type tocOwn struct {
	inner, size int64 // where it begins in its member, and its length
	digests     [][32]byte
	chunk       hash.Hash // the last chunk so far
}

func (o *tocOwn) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(int64(len(rest)), tocOwnChunk-o.size%tocOwnChunk)
		o.chunk.Write(rest[:n])
		rest = rest[n:]
		if o.size += n; o.size%tocOwnChunk == 0 {
			o.flush()
		}
	}
	return len(p), nil
}

// flush ends a chunk.
func (o *tocOwn) flush() {
	if int64(len(o.digests))*tocOwnChunk < o.size {
		o.digests = append(o.digests, [32]byte(o.chunk.Sum(nil)))
		o.chunk.Reset()
	}
}

type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
