package index

import (
	"context"
	"errors"
	"io"
)

// The stages of a build run beside each other: one reads and hashes the blob,
// one decodes it, one hashes the stream, one parses the tar. Blocks pass from
// stage to stage and return to be used again, which bounds the memory.
const (
	inBlock   = 128 << 10
	outBlock  = 256 << 10
	inBlocks  = 8
	outBlocks = 8
)

// spanStart is a span of which the end is not known yet.
type spanStart struct {
	span
	window []byte
	number int // in writer.spans + 1; 0: no chunk needed it so far
}

// block is a run of the uncompressed stream, all of one span.
type block struct {
	data  []byte
	span  *spanStart // begins with this block, if not nil
	owner []byte     // to give back
}

// pool passes byte slices back to who fills them.
type pool struct {
	size int
	free chan []byte // nil: not made yet
}

func newPool(n, size int) pool {
	p := pool{size, make(chan []byte, n)}
	for range n {
		p.free <- nil
	}
	return p
}

func (p pool) get(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.free:
		if b == nil {
			b = make([]byte, p.size)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p pool) put(b []byte) { p.free <- b[:cap(b)] }

func send[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// source reads the blob's blocks as a stream and can go back a block.
type source struct {
	ctx       context.Context
	in        <-chan []byte
	pool      pool
	prev, cur []byte
	base      int64 // offset of cur
	pos       int64
}

func (s *source) Read(p []byte) (int, error) {
	for s.pos == s.base+int64(len(s.cur)) {
		if err := s.advance(); err != nil {
			return 0, err
		}
	}
	b := s.cur
	if s.pos < s.base {
		b = s.prev[int64(len(s.prev))-(s.base-s.pos):]
	} else {
		b = b[s.pos-s.base:]
	}
	n := copy(p, b)
	s.pos += int64(n)
	return n, nil
}

func (s *source) advance() error {
	select {
	case b, ok := <-s.in:
		if !ok {
			return io.EOF
		}
		if s.prev != nil {
			s.pool.put(s.prev)
		}
		s.base += int64(len(s.cur))
		s.prev, s.cur = s.cur, b
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// seek goes back to off, if that was kept.
func (s *source) seek(off int64) bool {
	if off < s.base-int64(len(s.prev)) || off > s.base+int64(len(s.cur)) {
		return false
	}
	s.pos = off
	return true
}

// outlet is where a decoder puts what it decodes. No block holds bytes of two
// spans.
type outlet struct {
	ctx   context.Context
	to    chan<- block
	pool  pool
	limit int64
	cur   block
	have  []byte // cur.owner, and how much of it is filled
	n     int
}

// room returns where the next bytes go; it is never empty.
func (o *outlet) room() []byte { return o.have[o.n:] }

// emit says that n bytes were put into room.
func (o *outlet) emit(n int) error {
	o.n += n
	if o.limit -= int64(n); o.limit < 0 {
		return errStream
	}
	if o.n < len(o.have) {
		return nil
	}
	return o.flush()
}

var errStream = errors.New("the stream is longer than allowed")

// begin makes what follows part of span s.
func (o *outlet) begin(s *spanStart) error {
	if err := o.flush(); err != nil {
		return err
	}
	o.cur.span = s
	return nil
}

// flush passes on what there is.
func (o *outlet) flush() error {
	if o.n > 0 || o.cur.span != nil {
		o.cur.data, o.cur.owner = o.have[:o.n], o.have
		if err := send(o.ctx, o.to, o.cur); err != nil {
			return err
		}
		o.cur, o.have, o.n = block{}, nil, 0
	}
	if o.have == nil {
		var err error
		o.have, err = o.pool.get(o.ctx)
		return err
	}
	return nil
}
