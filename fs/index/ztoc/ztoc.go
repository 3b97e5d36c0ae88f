package ztoc

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// What a ztoc may have at most.
const (
	MaxSize  = 64 << 20 // bytes
	maxSpans = 1 << 20
	maxTar   = 1 << 40 // bytes of the tar, and of the blob
	window   = 32 << 10
)

// Ztoc describes a layer's blob.
type Ztoc struct {
	BlobSize int64
	TarSize  int64 // as far as its end marker; what may follow is not counted
	Gzip     bool  // else the blob is the tar
	Spans    []Span

	entries vector
}

// Span is a run of the blob that can be decoded alone. Spans follow each other in
// blob and tar: each ends where the next one begins.
type Span struct {
	In     int64 // offset in the blob of its first whole byte
	Out    int64 // offset in the tar
	Bits   uint8 // 0 to 7 bits of the byte before In belong to the span: the upper ones
	Window []byte
	Digest [32]byte // SHA-256 of the span's bytes, with the one before In if there are Bits
}

// Off is where the span's bytes begin in the blob.
func (s Span) Off() int64 {
	if s.Bits > 0 {
		return s.In - 1
	}
	return s.In
}

// Entry is an entry of the tar.
type Entry struct {
	Name, Type, Linkname string
	Offset, Size         int64 // of the content, in the tar; the size is as the header says it, if the entry has no content as well
	Mode                 int64
	UID, GID             uint32
	ModTime              time.Time
	Devmajor, Devminor   int64
	PAX                  map[string]string // records, all; nil if there are none
}

// The fields of a ztoc's tables.
const (
	ztocBlobSize = 2 + iota
	ztocTarSize
	ztocTOC
	ztocCompression
)

const (
	compressionAlgorithm = iota
	compressionMaxSpan
	compressionDigests
	compressionCheckpoints
)

const (
	algorithmGzip = 1 + iota
	algorithmTar
)

// Parse reads a ztoc. Offsets of the spans are in order, and lie in blob and tar;
// the entries are not read yet. The result refers to data.
func Parse(data []byte) (*Ztoc, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrInvalid, len(data))
	}
	root, err := newBuffer(data).root()
	if err != nil {
		return nil, err
	}
	z := &Ztoc{}
	if z.BlobSize, err = root.int64(ztocBlobSize); err != nil {
		return nil, err
	}
	if z.TarSize, err = root.int64(ztocTarSize); err != nil {
		return nil, err
	}
	if z.BlobSize <= 0 || z.BlobSize > maxTar || z.TarSize <= 0 || z.TarSize > maxTar {
		return nil, fmt.Errorf("%w: a blob of %d bytes with a tar of %d", ErrInvalid, z.BlobSize, z.TarSize)
	}
	toc, err := root.table(ztocTOC)
	if err != nil {
		return nil, err
	}
	if z.entries, err = toc.vector(0, 4); err != nil {
		return nil, err
	}
	c, err := root.table(ztocCompression)
	if err != nil {
		return nil, err
	}
	return z, z.readSpans(c)
}

// readSpans reads the spans and checks that they are the blob's.
func (z *Ztoc) readSpans(c table) error {
	algorithm, err := c.uint8(compressionAlgorithm, algorithmGzip)
	if err != nil {
		return err
	}
	points, err := c.bytes(compressionCheckpoints)
	if err != nil {
		return err
	}
	switch algorithm {
	case algorithmGzip:
		z.Gzip = true
		err = z.readCheckpoints(points)
	case algorithmTar:
		err = z.readTar(points)
	default:
		err = fmt.Errorf("%w: compressed in way %d", ErrInvalid, algorithm)
	}
	if err != nil {
		return err
	}
	last, err := c.uint32(compressionMaxSpan)
	if err != nil {
		return err
	}
	if int64(last) != int64(len(z.Spans))-1 {
		return fmt.Errorf("%w: %d spans, and the last is number %d", ErrInvalid, len(z.Spans), last)
	}
	if err := z.readDigests(c); err != nil {
		return err
	}
	return z.checkSpans()
}

// Lengths in the checkpoints of a gzip blob.
const (
	pointsHead = 4 + 8 // how many there are, and the size of a span
	pointSize  = 8 + 8 + 1 + window
	gzipHeader = 10 // of a gzip member, where the first checkpoint is left out
)

// readCheckpoints reads those of a gzip blob. In the older of two forms, told by
// its length, the first is left out.
func (z *Ztoc) readCheckpoints(b []byte) error {
	if len(b) < pointsHead || (len(b)-pointsHead)%pointSize != 0 {
		return fmt.Errorf("%w: checkpoints of %d bytes", ErrInvalid, len(b))
	}
	n, there := int64(le.Uint32(b)), int64(len(b)-pointsHead)/pointSize
	if n < 1 || n != there && n != there+1 {
		return fmt.Errorf("%w: %d checkpoints, said to be %d", ErrInvalid, there, n)
	}
	b = b[pointsHead:]
	if n > there {
		z.Spans = append(z.Spans, Span{In: gzipHeader})
	}
	for ; len(b) > 0; b = b[pointSize:] {
		s := Span{In: int64(le.Uint64(b)), Out: int64(le.Uint64(b[8:])), Bits: b[16]}
		if s.Out > 0 { // what it reaches back to
			s.Window = b[17:pointSize:pointSize]
			s.Window = s.Window[max(0, window-s.Out):]
		}
		z.Spans = append(z.Spans, s)
	}
	return nil
}

// The fields of what stands for the checkpoints of a blob that is a tar.
const (
	tarSpanSize = 1 + iota
	tarSize
)

// readTar makes the spans of a blob that is the tar.
func (z *Ztoc) readTar(b []byte) error {
	t, err := newBuffer(b).root()
	if err != nil {
		return err
	}
	span, err := t.int64(tarSpanSize)
	if err != nil {
		return err
	}
	size, err := t.int64(tarSize)
	if err != nil {
		return err
	}
	if span <= 0 || size != z.BlobSize || (size-1)/span >= maxSpans {
		return fmt.Errorf("%w: a tar of %d bytes in spans of %d", ErrInvalid, size, span)
	}
	for off := int64(0); off < size; off += span {
		z.Spans = append(z.Spans, Span{In: off, Out: off})
	}
	return nil
}

func (z *Ztoc) readDigests(c table) error {
	list, err := c.vector(compressionDigests, 4)
	if err != nil {
		return err
	}
	if list.n != len(z.Spans) {
		return fmt.Errorf("%w: %d spans and %d digests", ErrInvalid, len(z.Spans), list.n)
	}
	for i := range z.Spans {
		s, err := list.string(i)
		if err != nil {
			return err
		}
		h, ok := strings.CutPrefix(s, "sha256:")
		if !ok || len(h) != hex.EncodedLen(32) {
			return fmt.Errorf("%w: digest %.100q of span %d", ErrInvalid, s, i)
		}
		if _, err := hex.Decode(z.Spans[i].Digest[:], []byte(h)); err != nil {
			return fmt.Errorf("%w: digest %.100q of span %d", ErrInvalid, s, i)
		}
	}
	return nil
}

func (z *Ztoc) checkSpans() error {
	if len(z.Spans) > maxSpans {
		return fmt.Errorf("%w: %d spans", ErrInvalid, len(z.Spans))
	}
	for i, s := range z.Spans {
		bad := s.In < 0 || s.In >= z.BlobSize || s.Out < 0 || s.Bits > 7 || s.Off() < 0
		if i == 0 {
			bad = bad || s.Out != 0 || s.Bits != 0
		} else {
			prev := z.Spans[i-1]
			bad = bad || s.In <= prev.In || s.Out <= prev.Out
		}
		if bad {
			return fmt.Errorf("%w: span %d at %d, %d bits before it, for %d of the tar", ErrInvalid, i, s.In, s.Bits, s.Out)
		}
	}
	return nil
}

// Len is how many entries there are.
func (z *Ztoc) Len() int { return z.entries.n }

// The fields of an entry.
const (
	entryName = iota
	entryType
	entryOffset
	entrySize
	entryLinkname
	entryMode
	entryUID
	entryGID
	entryUname
	entryGname
	entryModTime
	entryDevmajor
	entryDevminor
	entryPAX
)

// Entry reads entry i, in the order of the tar. All may be read once: what is taken
// out of a ztoc is bounded.
func (z *Ztoc) Entry(i int) (e Entry, err error) {
	t, err := z.entries.table(i)
	if err != nil {
		return e, err
	}
	var modTime string
	for _, f := range []struct {
		field int
		to    *string
	}{{entryName, &e.Name}, {entryType, &e.Type}, {entryLinkname, &e.Linkname}, {entryModTime, &modTime}} {
		if *f.to, err = t.string(f.field); err != nil {
			return e, err
		}
	}
	for _, f := range []struct {
		field int
		to    *int64
	}{{entryOffset, &e.Offset}, {entrySize, &e.Size}, {entryMode, &e.Mode}, {entryDevmajor, &e.Devmajor}, {entryDevminor, &e.Devminor}} {
		if *f.to, err = t.int64(f.field); err != nil {
			return e, err
		}
	}
	if e.UID, err = t.uint32(entryUID); err != nil {
		return e, err
	}
	if e.GID, err = t.uint32(entryGID); err != nil {
		return e, err
	}
	if err := e.ModTime.UnmarshalText([]byte(modTime)); err != nil {
		return e, fmt.Errorf("%w: entry %d: time %.100q", ErrInvalid, i, modTime)
	}
	e.PAX, err = pax(t)
	return e, err
}

// pax reads the PAX records of an entry.
func pax(t table) (map[string]string, error) {
	list, err := t.vector(entryPAX, 4)
	if list.n == 0 || err != nil {
		return nil, err
	}
	records := make(map[string]string, min(list.n, 16))
	for i := range list.n {
		r, err := list.table(i)
		if err != nil {
			return nil, err
		}
		key, err := r.string(0)
		if err != nil {
			return nil, err
		}
		if records[key], err = r.string(1); err != nil {
			return nil, err
		}
	}
	return records, nil
}
