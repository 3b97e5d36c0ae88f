package index

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/flate"
)

// An index of kind Soci has no digests of content, only of spans as they are in the
// blob. So a span is read as a whole, and more is compared before anything of it is
// given out, since neither where files lie nor what its window holds is in that
// digest:
//
//   - its window with what the span before it ends with, and
//   - the tar headers before the files that begin in it with the sizes of these.
//
// What was found right in this process is remembered, so that of a layer that is
// read in order every span is decoded once. A lie that agrees with itself over a
// whole span, or is about names and attributes, is left to who compares the layer
// with its diffID.
type proofs struct {
	windows []atomic.Bool // by span: its window is what comes before it
	headers []atomic.Bool // … and the headers in it are right
}

func newProofs(spans int) *proofs {
	return &proofs{make([]atomic.Bool, spans), make([]atomic.Bool, spans)}
}

// windowProven reports whether span i may be decoded without the one before it.
func (x *Index) windowProven(i int) bool {
	return i == 0 || x.span(i).window == 0 || x.proofs.windows[i].Load()
}

// lead returns the span that decoding has to begin with to decode span i.
func (x *Index) lead(i int) int {
	if x.windowProven(i) {
		return i
	}
	return i - 1
}

// begins returns the span that the file of chunk c begins in.
func (x *Index) begins(c int) int {
	r, _ := x.inode(x.chunk(c).ino)
	return int(x.chunk(int(r.a)).span)
}

// Steps returns what to decode, one after the other, to have the chunks of e: these
// are what the last step gives, and what others give is not to be used. There is one
// step, e itself, where chunks have digests of their own.
func (x *Index) Steps(e Extent) []Extent {
	if x.proofs == nil {
		return []Extent{e}
	}
	first := int(x.chunk(e.First).span)
	begin, from := x.begins(e.First), x.lead(first)
	if begin == first || x.proofs.headers[begin].Load() {
		return []Extent{x.widened(e, from)}
	}
	if begin >= from {
		return []Extent{x.widened(e, x.lead(begin))}
	}
	before := x.Extent(int(x.span(begin).first))
	return []Extent{x.widened(before, x.lead(begin)), x.widened(e, from)}
}

// widened returns e, to be decoded from the beginning of a span on.
func (x *Index) widened(e Extent, span int) Extent {
	off := x.span(span).off
	return Extent{e.First, e.Last, off, e.Off + e.Len - off}
}

// expanders bounds how many spans are in memory expanded at a time.
var expanders = make(chan struct{}, 2)

// spanBuffers hold spans, as they are in the blob and expanded.
var spanBuffers = sync.Pool{New: func() any { return new([]byte) }}

func spanBuffer(n int64) *[]byte {
	b := spanBuffers.Get().(*[]byte)
	*b = slices.Grow((*b)[:0], int(n))[:n]
	return b
}

// decodeSpans is Decode for an index of kind Soci.
func (x *Index) decodeSpans(r io.Reader, e Extent, fn func(chunk int, data []byte) error) error {
	first, last := int(x.chunk(e.First).span), int(x.chunk(e.Last).span)
	from := first
	for from > 0 && x.span(from).off > e.Off {
		from--
	}
	if x.span(from).off != e.Off || !x.windowProven(from) && from == first {
		return fmt.Errorf("no step of this index: %+v", e)
	}
	pos, before := e.Off, byte(0)
	for i := from; i <= last; i++ {
		s := x.span(i)
		raw := spanBuffer(s.size)
		data := *raw
		if s.off < pos { // the byte that two spans share
			data[0] = before
			data = data[1:]
		}
		_, err := io.ReadFull(r, data)
		if err == nil {
			pos, before = s.off+s.size, (*raw)[s.size-1]
			err = x.decodeSpan(i, *raw, e, fn)
		} else if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		spanBuffers.Put(raw)
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeSpan checks span i, whose bytes raw are, and calls fn with the chunks in it
// that are of e.
func (x *Index) decodeSpan(i int, raw []byte, e Extent, fn func(chunk int, data []byte) error) error {
	expanders <- struct{}{}
	defer func() { <-expanders }()
	s := x.span(i)
	room := spanBuffer(s.outSize)
	defer spanBuffers.Put(room)
	window, err := x.window(s.window)
	if err == nil {
		err = x.checkSpan(i, s, window, raw, *room)
	}
	if err != nil {
		return fmt.Errorf("span %d at %d: %w", i, s.off, err)
	}
	for c := max(int(s.first), e.First); c <= min(int(s.first+s.chunks)-1, e.Last); c++ {
		ch := x.chunk(c)
		if err := fn(c, (*room)[ch.inner:][:ch.size]); err != nil {
			return err
		}
	}
	return nil
}

// checkSpan expands span i into out and compares what can be.
func (x *Index) checkSpan(i int, s span, window, raw, out []byte) error {
	if s.chunks > 0 && sha256.Sum256(raw) != x.chunk(int(s.first)).digest {
		return fmt.Errorf("digest mismatch: %w", ErrCorrupt)
	}
	if s.codec == codecRaw {
		copy(out, raw)
	} else if err := inflateSpan(s, window, raw, out); err != nil {
		return err
	}
	// What follows is reached even if the window is not proven: a lie of one of two
	// windows is found by their span in between.
	proven := x.windowProven(i)
	if i+1 < x.info.Spans {
		if err := x.checkNext(i+1, window, out); err != nil {
			return err
		}
	}
	if !proven {
		return nil
	}
	if err := x.checkHeaders(s, window, out); err != nil {
		return err
	}
	x.proofs.headers[i].Store(true)
	return nil
}

func inflateSpan(s span, window, raw, out []byte) error {
	fr := flates.Get().(*flate.Reader)
	defer flates.Put(fr)
	br := readers.Get().(*bufio.Reader)
	br.Reset(bytes.NewReader(raw))
	defer func() {
		br.Reset(nil)
		readers.Put(br)
	}()
	in, err := newInflater(br, fr, s, window)
	if err == nil {
		_, err = io.ReadFull(in, out)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	return nil
}

// checkNext compares the window of span i with what comes before it: window and out.
func (x *Index) checkNext(i int, window, out []byte) error {
	next, err := x.window(x.span(i).window)
	if err != nil {
		return err
	}
	n := len(next)
	tail := out[max(0, len(out)-n):]
	rest := next[:n-len(tail)]
	if !bytes.Equal(tail, next[len(rest):]) || !bytes.HasSuffix(window, rest) {
		return fmt.Errorf("the next window is another: %w", ErrCorrupt)
	}
	x.proofs.windows[i].Store(true)
	return nil
}

// checkHeaders compares the headers of the files that begin in a span, as far as
// they are in it or in its window, with the sizes that the index has.
func (x *Index) checkHeaders(s span, window, out []byte) error {
	for c := int(s.first); c < int(s.first+s.chunks); c++ {
		ch := x.chunk(c)
		if ch.off > 0 {
			continue
		}
		var block []byte
		if ch.inner >= tarBlock {
			block = out[ch.inner-tarBlock : ch.inner]
		} else if miss := tarBlock - int(ch.inner); miss <= len(window) {
			block = slices.Concat(window[len(window)-miss:], out[:ch.inner])
		} else {
			continue // of an uncompressed blob, at the very end of the span before it
		}
		r, _ := x.inode(ch.ino)
		if err := checkHeader(block, r.size); err != nil {
			return fmt.Errorf("%q: %w: %w", x.Path(ch.ino), err, ErrCorrupt)
		}
	}
	return nil
}

// maxOctal is the size from which on a header may leave it to a PAX record.
const maxOctal = 1 << 33

// checkHeader checks that a block is the header of a file of size bytes.
func checkHeader(block []byte, size int64) error {
	h, err := tar.NewReader(bytes.NewReader(block)).Next()
	switch {
	case err != nil && !errors.Is(err, tar.ErrInsecurePath):
		return fmt.Errorf("no tar header before it: %w", err)
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("the header before it is of type %q", h.Typeflag)
	case h.Size != size && size < maxOctal:
		return fmt.Errorf("the header before it is of %d bytes, not %d", h.Size, size)
	}
	return nil
}
