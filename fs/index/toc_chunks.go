package index

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// maxInner bounds what is decoded to reach a chunk.
const maxInner = 1 << 30

// tocChunks turns the data entries of a table of contents into the writer's
// spans and chunks, and refuses those that overlap, leave gaps, run backwards
// or lie outside the blob's payload. A span is what decodes by itself, a gzip
// member or some zstd frames, and ends where the next one begins.
type tocChunks struct {
	w       *writer
	codec   codec
	payload int64
	inner   int64 // where the last chunk ends in its span
	size    int64 // of the last file with content

	file  tocFile // being covered by chunks
	cover int64   // of it
}

// tocFile is what counts of a file's entry once others have come.
type tocFile struct {
	ino   uint32
	name  []byte
	size  int64
	until int64 // EndOffset
}

// begin starts the chunks of ino with the entry that names it. Content of what
// became no file (0), a whiteout say, is passed over.
func (c *tocChunks) begin(ino uint32, e *tocEntry) error {
	if err := c.end(); err != nil {
		return err
	}
	if e.Type != "reg" || e.Size == 0 {
		return nil
	}
	c.file = tocFile{ino: ino, name: append(c.file.name[:0], e.Name...), size: e.Size, until: e.EndOffset}
	c.cover, c.size = 0, e.Size
	return c.add(e)
}

// end reports a file that its chunks do not cover.
func (c *tocChunks) end() error {
	f := &c.file
	if c.cover != f.size {
		return c.lie(&tocEntry{}, "chunks cover %d of %d bytes", c.cover, f.size)
	}
	if f.until > 0 && f.size > 0 {
		if s := c.last(); f.until > s.off && f.until <= c.payload {
			s.size = f.until - s.off
		}
	}
	c.file, c.cover = tocFile{name: f.name[:0]}, 0
	return nil
}

// last returns the span being filled.
func (c *tocChunks) last() *span {
	if len(c.w.spans) == 0 {
		return nil
	}
	return &c.w.spans[len(c.w.spans)-1]
}

// add takes one more chunk of the file.
func (c *tocChunks) add(e *tocEntry) error {
	size := c.file.size
	n := e.ChunkSize
	if n == 0 {
		n = size - e.ChunkOffset
	}
	switch {
	case e.ChunkOffset != c.cover:
		return c.lie(e, "chunk at %d, want %d", e.ChunkOffset, c.cover)
	case n <= 0 || n > size-c.cover:
		return c.lie(e, "chunk of %d bytes at %d in a file of %d", n, c.cover, size)
	case e.InnerOffset < 0:
		return c.lie(e, "inner offset %d", e.InnerOffset)
	case e.InnerOffset > maxInner || n > maxChunk && e.ChunkType != tocZeros:
		return fmt.Errorf("%w: %q has a chunk of %d bytes, %d bytes into its member", ErrNoTOC, shorten(string(c.file.name)), n, e.InnerOffset)
	}
	if err := c.place(e, n); err != nil {
		return err
	}
	c.cover += n
	if c.file.ino == 0 || e.ChunkType == tocZeros { // zeros are a hole
		return nil
	}
	d := e.ChunkDigest
	if d == "" && n == size { // then e is the file's own entry
		d = e.Digest
	}
	t := chunk{ino: c.file.ino, span: uint32(len(c.w.spans) - 1), off: e.ChunkOffset, inner: e.InnerOffset, size: uint32(n)}
	if err := tocDigest(&t.digest, d); err != nil {
		return fmt.Errorf("TOC entry %q, chunk at %d: %w", shorten(string(c.file.name)), t.off, err)
	}
	return c.w.addChunk(t)
}

func tocDigest(sum *[32]byte, d string) error {
	if d == "" {
		return fmt.Errorf("%w: no digest", ErrNoTOC)
	}
	h, ok := strings.CutPrefix(d, "sha256:")
	if !ok || len(h) != hex.EncodedLen(len(sum)) {
		return fmt.Errorf("%w: digest %q", ErrCorrupt, shorten(d))
	}
	var text [2 * len(sum)]byte
	copy(text[:], h)
	if _, err := hex.Decode(sum[:], text[:]); err != nil {
		return fmt.Errorf("%w: digest %q", ErrCorrupt, d)
	}
	return nil
}

// place finds the span of a chunk of n bytes, or begins it.
func (c *tocChunks) place(e *tocEntry, n int64) error {
	last := c.last()
	switch {
	case e.Offset < 0 || e.Offset >= c.payload:
		return c.lie(e, "data at %d, the blob's ends at %d", e.Offset, c.payload)
	case last != nil && e.Offset < last.off:
		return c.lie(e, "data at %d after data at %d", e.Offset, last.off)
	case last != nil && e.Offset == last.off:
		if e.InnerOffset < c.inner {
			return c.lie(e, "data at %d+%d, but what comes before ends at %d", e.Offset, e.InnerOffset, c.inner)
		}
	default:
		if last != nil {
			last.size = min(last.size, e.Offset-last.off)
		}
		c.w.addSpan(span{off: e.Offset, size: c.payload - e.Offset, codec: c.codec})
	}
	c.inner = e.InnerOffset + n
	return nil
}

// tail returns where the last span begins and how much of it comes before the
// tar header that follows the last content.
func (c *tocChunks) tail() (off, skip int64) {
	if last := c.last(); last != nil {
		return last.off, c.inner + (512-c.size%512)%512
	}
	return 0, 0
}

// own adds the chunks of the table itself, file ino, in a span of its own.
func (c *tocChunks) own(p *tocPlace, ino uint32, o *tocOwn) error {
	s := c.w.addSpan(span{off: p.off, size: p.size, codec: c.codec})
	for i, d := range o.digests {
		off := int64(i) * tocOwnChunk
		n := min(tocOwnChunk, o.size-off)
		if err := c.w.addChunk(chunk{ino: ino, span: s, off: off, inner: o.inner + off, size: uint32(n), digest: d}); err != nil {
			return err
		}
	}
	return nil
}

func (c *tocChunks) lie(e *tocEntry, format string, args ...any) error {
	name := e.Name
	if name == "" {
		name = string(c.file.name)
	}
	return fmt.Errorf("%w: TOC entry %q: %s", ErrCorrupt, shorten(name), fmt.Sprintf(format, args...))
}
