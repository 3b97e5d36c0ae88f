package index

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Chunks that Build makes end where their span does, and at multiples, in the file,
// of what a chunk has at most. That is what a page that is read brings with it,
// against 64 bytes of index and of memory while it is built (docs/design/profiles.md
// has figures): little where a layer begins, and twice as much behind every manySmall
// chunks.
const (
	minBuilt  = 16 << 10
	maxBuilt  = 256 << 10
	manySmall = 1 << 15
)

// most is how many bytes the next chunk has at most.
func (w *writer) most() int64 {
	return min(int64(minBuilt)<<min(len(w.chunks)/manySmall, 8), maxBuilt)
}

// scan parses the tar: its headers make the tree, its content chunks.
func (b *build) scan(ctx context.Context, free pool) error {
	st := &stream{ctx: ctx, in: b.hashed, free: free}
	c := &chunker{w: b.w, sink: b.o.Sink, buf: make([]byte, 0, maxBuilt)}
	err := scanTar(ctx, st, c)
	if err == nil {
		_, err = io.Copy(io.Discard, onlyReader{st}) // what follows the tar counts for the diffID
	}
	if err == nil {
		err = c.flush()
	}
	if err == nil {
		b.closeSpan(st)
	}
	return err
}

// closeSpan ends the last span with what can be decoded.
func (b *build) closeSpan(st *stream) {
	if st.span != nil {
		st.span.close(b.w, b.end, st.pos)
	}
}

type onlyReader struct{ io.Reader }

func scanTar(ctx context.Context, st *stream, c *chunker) error {
	tr := tar.NewReader(onlyReader{st})
	st.w = c.w
	buf := make([]byte, maxBuilt)
	holes := c.w.tree.lim.Sparse
	last := "the start"
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return st.invalid(fmt.Errorf("tar after %s: %w", last, noEOF(err)))
		}
		ino, err := c.w.tree.add(h)
		if err != nil {
			return err
		}
		last = fmt.Sprintf("entry %q", shorten(h.Name))
		for off := int64(0); ino != 0; {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			n, err := st.record(tr, buf)
			for _, s := range st.runs {
				if err := c.put(ino, off+int64(s.at), s, buf[s.at:s.at+s.n]); err != nil {
					return err
				}
				holes += int64(s.n)
			}
			off += int64(n)
			if holes -= int64(n); holes < 0 {
				return fmt.Errorf("%s has more holes than allowed: %w", last, ErrInvalid)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return st.invalid(fmt.Errorf("content of %s: %w", last, err))
			}
		}
	}
}

// stream is the uncompressed tar, read from blocks.
type stream struct {
	ctx  context.Context
	in   <-chan block
	free pool
	w    *writer

	cur  block
	rest []byte // of cur
	pos  int64  // in the stream
	span *spanStart
	err  error // of the blocks' source, not of the tar

	buf  []byte // while recording: where the reader of the tar reads to
	runs []run
}

// run is a part of a recorded read that came out of the stream; what lies
// between runs are zeros of a hole.
type run struct {
	at, n int // in the buffer
	out   int64
	span  *spanStart // nil: the stream is the blob
}

// record reads from tr into buf and leaves in s.runs which bytes came from
// where in the stream. The tar reader hides where a sparse file has holes; but
// it asks the stream for the data directly into its caller's buffer, so what
// it does not ask for is a hole.
func (s *stream) record(tr *tar.Reader, buf []byte) (int, error) {
	s.buf, s.runs = buf, s.runs[:0]
	n, err := tr.Read(buf)
	s.buf = nil
	return n, err
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	if s.buf != nil && n > 0 {
		at := cap(s.buf) - cap(p)
		if at < 0 || at+n > len(s.buf) || &s.buf[at] != &p[0] {
			return 0, errors.New("the tar reader does not read in place")
		}
		s.runs = append(s.runs, run{at, n, s.pos, s.span})
	}
	s.rest = s.rest[n:]
	s.pos += int64(n)
	return n, nil
}

// next takes the next block.
func (s *stream) next() error {
	if s.cur.owner != nil {
		s.free.put(s.cur.owner)
		s.cur.owner = nil
	}
	select {
	case b, ok := <-s.in:
		if !ok {
			return io.EOF
		}
		if b.span != nil {
			if s.span != nil {
				end := b.span.off
				if b.span.bit > 0 {
					end++
				}
				s.span.close(s.w, end, b.span.out)
			}
			s.span = b.span
		}
		s.cur, s.rest = b, b.data
		return nil
	case <-s.ctx.Done():
		s.err = context.Cause(s.ctx)
		return s.err
	}
}

// invalid says that the tar is bad, unless the stream is what failed.
func (s *stream) invalid(err error) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%w: %w", err, ErrInvalid)
}

// close says where the span ends: in the blob, and in the stream.
func (s *spanStart) close(w *writer, end, out int64) {
	s.size, s.outSize = end-s.off, out-s.out
	if s.number > 0 {
		w.spans[s.number-1].size, w.spans[s.number-1].outSize = s.size, s.outSize
	}
}

// chunker cuts content into chunks.
type chunker struct {
	w    *writer
	sink Sink
	buf  []byte // content of cur
	cur  chunk
	span *spanStart
	most int64  // bytes that cur can have, and what it ends at a multiple of
	raw  uint32 // the present span of an uncompressed blob + 1
}

// put takes a run of a file.
func (c *chunker) put(ino uint32, off int64, r run, data []byte) error {
	inner := r.out
	if r.span != nil {
		inner -= r.span.out
	}
	for len(data) > 0 {
		n := int64(len(c.buf))
		if n > 0 && (c.cur.ino != ino || c.cur.off+n != off || c.span != r.span || c.cur.inner+n != inner) {
			if err := c.flush(); err != nil {
				return err
			}
			n = 0
		}
		if n == 0 {
			c.cur, c.span, c.most = chunk{ino: ino, off: off, inner: inner}, r.span, c.w.most()
		}
		take := min(int64(len(data)), c.most-off%c.most)
		c.buf = append(c.buf, data[:take]...)
		data, off, inner = data[take:], off+take, inner+take
		if off%c.most == 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush ends the chunk that is begun.
func (c *chunker) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	c.cur.size, c.cur.digest = uint32(len(c.buf)), sha256.Sum256(c.buf)
	var err error
	if c.span == nil {
		c.rawSpan()
	} else if c.cur.span, err = c.span.add(c.w); err != nil {
		return err
	}
	if err := c.w.addChunk(c.cur); err != nil {
		return err
	}
	if c.sink != nil {
		if err := c.sink.WriteChunk(c.cur.ino, c.cur.off, c.buf); err != nil {
			return fmt.Errorf("write content of inode %d: %w", c.cur.ino, err)
		}
	}
	c.buf = c.buf[:0]
	return nil
}

// maxRaw is how many bytes of neighbours share a span of an uncompressed blob.
const maxRaw = 64 << 10

// rawSpan puts the chunk into a span of an uncompressed blob: its neighbour's, or its
// own.
func (c *chunker) rawSpan() {
	at, end := c.cur.inner, c.cur.inner+int64(c.cur.size)
	if c.raw == 0 || end-c.w.spans[c.raw-1].off > maxRaw {
		c.raw = c.w.addSpan(span{codec: codecRaw, off: at, out: at}) + 1
	}
	s := &c.w.spans[c.raw-1]
	s.size, s.outSize = end-s.off, end-s.off
	c.cur.span, c.cur.inner = c.raw-1, at-s.off
}

// add returns the span's number. It and its window become part of the index
// when the first chunk needs it.
func (s *spanStart) add(w *writer) (uint32, error) {
	if s.number == 0 {
		if len(s.window) > 0 {
			var err error
			if s.span.window, err = w.addWindow(s.window); err != nil {
				return 0, err
			}
			s.window = nil
		}
		s.number = int(w.addSpan(s.span)) + 1
	}
	return uint32(s.number - 1), nil
}
