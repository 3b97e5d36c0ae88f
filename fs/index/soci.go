package index

import (
	"archive/tar"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/ztoc"
)

// Limits of a span that is checked as a whole, which has to be in memory for it.
const (
	maxSpanSize = 32 << 20 // bytes of the blob
	maxSpanOut  = 64 << 20 // what they decode to
)

// maxHeaders bounds what headers an entry of a tar may have, in bytes.
const maxHeaders = 4 << 20

const tarBlock = 512

// MaxZtoc is how many bytes a ztoc may have.
const MaxZtoc = ztoc.MaxSize

// ZtocOptions describe a layer as its manifest does.
type ZtocOptions struct {
	Blob   digest.Digest
	Size   int64
	Limits Limits
}

// FromZtoc writes the index of a layer from a SOCI ztoc, whose bytes the caller has
// verified. Kind is Soci, and the diffID stays unproven.
//
// Errors: ErrNoTOC (it does not describe all that is needed), ErrCorrupt (it is
// not one of this blob, or it lies), and ErrInvalid.
func FromZtoc(path string, data []byte, o ZtocOptions) (Info, error) {
	z, err := ztoc.Parse(data)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if z.BlobSize != o.Size {
		return Info{}, fmt.Errorf("%w: ztoc of a blob of %d bytes, not %d", ErrCorrupt, z.BlobSize, o.Size)
	}
	o.Limits = o.Limits.withDefaults()
	w, err := newWriter(path, o.Limits)
	if err != nil {
		return Info{}, err
	}
	defer w.abort()
	w.whole = true
	s := &soci{ztoc: z, w: w}
	if err := s.spans(); err != nil {
		return Info{}, err
	}
	if err := s.entries(); err != nil {
		return Info{}, err
	}
	return w.commit(Info{Blob: o.Blob, BlobSize: o.Size, Kind: Soci, Seekable: true}, 0)
}

// soci is a ztoc that is being read into an index.
type soci struct {
	ztoc *ztoc.Ztoc
	w    *writer
	end  int64 // in the tar, of the last entry's content, padding included
	span int   // that the last content was in
}

// spans adds those that have something of the tar.
func (s *soci) spans() error {
	z := s.ztoc
	for i, from := range z.Spans {
		if from.Out >= z.TarSize && i > 0 {
			break // zeros after the tar
		}
		to, out := z.BlobSize, z.TarSize
		if i+1 < len(z.Spans) {
			to, out = z.Spans[i+1].In, min(out, z.Spans[i+1].Out)
		}
		n := span{off: from.Off(), size: to - from.Off(), out: from.Out, outSize: out - from.Out, codec: codecRaw}
		if z.Gzip {
			n.codec = codecBlock
			n.bit = -from.Bits & 7
		} else {
			n.outSize = n.size
		}
		if n.size > maxSpanSize || n.outSize > maxSpanOut {
			return fmt.Errorf("%w: span %d has %d bytes, and %d of the tar", ErrNoTOC, i, n.size, n.outSize)
		}
		if len(from.Window) > 0 {
			var err error
			if n.window, err = s.w.addWindow(from.Window); err != nil {
				return err
			}
		}
		s.w.addSpan(n)
	}
	return nil
}

// entries adds those of the tar.
func (s *soci) entries() error {
	for i := range s.ztoc.Len() {
		e, err := s.ztoc.Entry(i)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		h, err := sociHeader(&e)
		if err != nil {
			return err
		}
		if err := s.follows(&e, h); err != nil {
			return err
		}
		ino, err := s.w.tree.add(h)
		if err != nil {
			return err
		}
		if ino == 0 || h.Typeflag != tar.TypeReg {
			continue
		}
		if err := s.content(ino, e.Offset, h.Size); err != nil {
			return err
		}
	}
	return nil
}

// sociHeader returns the tar header that e was made from.
func sociHeader(e *ztoc.Entry) (*tar.Header, error) {
	t, ok := tocTypes[e.Type]
	if !ok {
		return nil, fmt.Errorf("%w: entry %q of the ztoc is a %q", ErrCorrupt, shorten(e.Name), shorten(e.Type))
	}
	for key := range e.PAX {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return nil, fmt.Errorf("%w: %q is sparse, and a ztoc does not say where", ErrNoTOC, shorten(e.Name))
		}
	}
	h := &tar.Header{
		Typeflag: t, Name: e.Name, Linkname: e.Linkname, Mode: e.Mode, Uid: int(e.UID), Gid: int(e.GID),
		ModTime: e.ModTime, Devmajor: e.Devmajor, Devminor: e.Devminor, PAXRecords: e.PAX,
	}
	if t == tar.TypeReg {
		h.Size = e.Size
	}
	if e.Size < 0 || e.Mode < 0 {
		return nil, fmt.Errorf("%w: entry %q of the ztoc: size %d, mode %#o", ErrCorrupt, shorten(e.Name), e.Size, e.Mode)
	}
	return h, nil
}

// follows checks that an entry comes after the one before it, with room for its
// headers and no more, and ends in the tar.
func (s *soci) follows(e *ztoc.Entry, h *tar.Header) error {
	headers := e.Offset - s.end
	if headers < tarBlock || headers > maxHeaders || headers%tarBlock != 0 || e.Offset > s.ztoc.TarSize || h.Size > s.ztoc.TarSize-e.Offset {
		return fmt.Errorf("%w: entry %q of the ztoc has %d bytes at %d, and what comes before it ends at %d", ErrCorrupt, shorten(e.Name), h.Size, e.Offset, s.end)
	}
	s.end = (e.Offset + h.Size + tarBlock - 1) &^ (tarBlock - 1)
	return nil
}

// content adds the chunks of a file of which size bytes are at off in the tar. They
// end where those that Build makes do, and where a span ends; the digest is that of
// the span.
func (s *soci) content(ino uint32, off, size int64) error {
	for pos := int64(0); pos < size; {
		at := off + pos
		for s.span < len(s.w.spans) && at >= s.w.spans[s.span].out+s.w.spans[s.span].outSize {
			s.span++
		}
		if s.span == len(s.w.spans) {
			return fmt.Errorf("%w: content at %d of the tar is in no span", ErrCorrupt, at)
		}
		in, most := s.w.spans[s.span], s.w.most()
		n := min(size-pos, most-pos%most, in.out+in.outSize-at)
		err := s.w.addChunk(chunk{
			ino: ino, span: uint32(s.span), off: pos, inner: at - in.out, size: uint32(n), digest: s.ztoc.Spans[s.span].Digest,
		})
		if err != nil {
			return err
		}
		pos += n
	}
	return nil
}
