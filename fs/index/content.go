package index

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/flate"
)

// Extent is a run of the blob, [Off,Off+Len), that decodes to the chunks
// First..Last, all of them whole.
type Extent struct {
	First, Last int
	Off, Len    int64
}

// Join returns the extent of two extents and all that is between them.
func (e Extent) Join(f Extent) Extent {
	end := max(e.Off+e.Len, f.Off+f.Len)
	off := min(e.Off, f.Off)
	return Extent{min(e.First, f.First), max(e.Last, f.Last), off, end - off}
}

// Extent returns the smallest extent that holds a chunk.
func (x *Index) Extent(chunk int) Extent {
	s := x.span(int(x.chunk(chunk).span))
	return Extent{First: int(s.first), Last: int(s.first+s.chunks) - 1, Off: s.off, Len: s.size}
}

// Decode reads the bytes of e from r and calls fn with each chunk, in order and
// verified; data is valid during the call. It may read less than all of r. An
// error of r or fn is returned as it is; ErrCorrupt names the chunk.
//
// e is what Extent or Join returned and, if chunks have no digests (Info.Hashes),
// what Steps then did.
func (x *Index) Decode(r io.Reader, e Extent, fn func(chunk int, data []byte) error) error {
	if e.First < 0 || e.Last >= x.info.Chunks || e.First > e.Last {
		return fmt.Errorf("no extent of this index: %+v", e)
	}
	if x.proofs != nil {
		return x.decodeSpans(r, e, fn)
	}
	if x.span(int(x.chunk(e.First).span)).off != e.Off {
		return fmt.Errorf("no extent of this index: %+v", e)
	}
	d := &decoder{x: x, src: &counted{r: r}, pos: e.Off, left: e.Len, fn: fn}
	d.br = readers.Get().(*bufio.Reader)
	d.br.Reset(d)
	defer func() {
		d.close()
		d.br.Reset(nil)
		readers.Put(d.br)
	}()
	for i := e.First; i <= e.Last; i++ {
		if err := d.chunk(i); err != nil {
			return err
		}
	}
	return nil
}

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 32<<10) }}
	buffers = sync.Pool{New: func() any { b := make([]byte, maxBuilt); return &b }}
	large   = sync.Pool{New: func() any { return new([]byte) }} // of maxKept at most
	flates  = sync.Pool{New: func() any { return new(flate.Reader) }}
	zstds   = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	}}
)

// counted remembers what its reader failed with.
type counted struct {
	r   io.Reader
	err error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// decoder decodes the chunks of an extent one after the other.
type decoder struct {
	x   *Index
	src *counted
	br  *bufio.Reader // of the decoder itself
	fn  func(int, []byte) error

	pos, left int64 // of the blob: what br reads next, and how much is left

	span  uint32 // +1; of content
	out   io.Reader
	at    int64 // in what the span decodes to
	zstd  *zstd.Decoder
	flate *flate.Reader

	buf   []byte
	last  int // chunk that is in buf; two may share content
	pool  *[]byte
	large *[]byte // from the pool of that name
}

// Read yields the extent.
func (d *decoder) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > d.left {
		p = p[:d.left]
	}
	n, err := d.src.Read(p)
	d.left -= int64(n)
	d.pos += int64(n)
	if errors.Is(err, io.EOF) && d.left > 0 {
		d.src.err = io.ErrUnexpectedEOF
		return n, io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (d *decoder) consumed() int64 { return d.pos - int64(d.br.Buffered()) }

func (d *decoder) close() {
	if d.zstd != nil {
		_ = d.zstd.Reset(nil)
		zstds.Put(d.zstd)
		d.zstd = nil
	}
	if d.flate != nil {
		flates.Put(d.flate)
	}
	if d.pool != nil {
		buffers.Put(d.pool)
	}
	if d.large != nil && cap(*d.large) <= maxKept {
		large.Put(d.large)
	}
}

func (d *decoder) chunk(i int) error {
	c := d.x.chunk(i)
	err := d.seek(c.span, c.inner, i)
	if err == nil && d.at <= c.inner { // else it is in buf
		d.buf = d.room(int(c.size))
		_, err = io.ReadFull(d.out, d.buf)
		d.at += int64(c.size)
		d.last = i
	}
	if d.src.err != nil {
		return d.src.err
	}
	if err == nil && sha256.Sum256(d.buf) != c.digest {
		err = errors.New("digest mismatch")
	}
	if err != nil {
		return fmt.Errorf("chunk %d, %q at %d: %w: %w", i, d.x.Path(c.ino), c.off, err, ErrCorrupt)
	}
	return d.fn(i, d.buf)
}

func (d *decoder) room(n int) []byte {
	if n > maxBuilt {
		return d.largeRoom(n)
	}
	if d.pool == nil {
		d.pool = buffers.Get().(*[]byte)
	}
	return (*d.pool)[:n]
}

// maxKept is the chunk size of eStargz, unless its maker says otherwise.
const maxKept = 4 << 20

// largeRoom returns a buffer that earlier chunks have been in, if it is large enough:
// a new one costs the page faults of touching it first.
func (d *decoder) largeRoom(n int) []byte {
	if d.large == nil {
		d.large = large.Get().(*[]byte)
	}
	if cap(*d.large) < n {
		*d.large = make([]byte, n)
	}
	return (*d.large)[:n]
}

// seek makes d.out yield what is at inner in a span, or leaves in d.buf what it
// yielded last, if that is the same.
func (d *decoder) seek(number uint32, inner int64, i int) error {
	s := d.x.span(int(number))
	if d.span != number+1 {
		if d.span != 0 && d.x.info.Kind == Gzip { // one stream: go on
			d.at -= s.out - d.x.span(int(d.span-1)).out
		} else if err := d.open(s); err != nil {
			return err
		}
		d.span = number + 1
	}
	if d.at > inner {
		prev := d.x.chunk(d.last)
		if i == d.last+1 && prev.span == number && prev.inner == inner {
			return nil
		}
		return errors.New("content lies behind")
	}
	n, err := io.CopyN(io.Discard, d.out, inner-d.at)
	d.at += n
	return err
}

// open begins a span.
func (d *decoder) open(s span) error {
	if skip := s.off - d.consumed(); skip > 0 {
		if _, err := io.CopyN(io.Discard, d.br, skip); err != nil {
			return err
		}
	} else if skip < 0 {
		return errors.New("spans overlap")
	}
	d.at = 0
	switch s.codec {
	case codecMember, codecBlock:
		window, err := d.x.window(s.window)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				d.src.err = err // not what the blob or the index holds is wrong
			}
			return err
		}
		if d.flate == nil {
			d.flate = flates.Get().(*flate.Reader)
		}
		if d.out, err = newInflater(d.br, d.flate, s, window); err != nil {
			return err
		}
	case codecZstd:
		if d.zstd == nil {
			d.zstd = zstds.Get().(*zstd.Decoder)
		}
		d.out = d.zstd
		return d.zstd.Reset(io.LimitReader(d.br, s.size))
	default:
		d.out = d.br
	}
	return nil
}

// window reads window number-1 and checks it; none if number is 0.
func (x *Index) window(number uint32) ([]byte, error) {
	if number == 0 {
		return nil, nil
	}
	i := int(number - 1)
	loc := getWindowLoc(x.locs[i*windowSize:])
	frame := make([]byte, loc.size)
	if _, err := x.file.ReadAt(frame, loc.off); err != nil {
		return nil, fmt.Errorf("window %d of the index: %w", i, err)
	}
	raw, err := x.expandWindow(i, loc, frame)
	if err != nil && x.lacking != nil {
		return x.fetchWindow(i, loc)
	}
	return raw, err
}

func (x *Index) expandWindow(i int, loc windowLoc, frame []byte) ([]byte, error) {
	d := zstds.Get().(*zstd.Decoder)
	defer zstds.Put(d)
	raw, err := d.DecodeAll(frame, make([]byte, 0, maxWindow))
	if err != nil || len(raw) != int(loc.raw) || sha256.Sum256(raw) != [32]byte(x.sums[i*sha256.Size:]) {
		return nil, fmt.Errorf("window %d of the index: %w", i, errors.Join(err, ErrCorrupt))
	}
	return raw, nil
}

// inflater inflates from a span's beginning on, through the members that
// follow.
type inflater struct {
	br *bufio.Reader
	fr *flate.Reader
}

// pooledReaders returns an inflater that reads r, to be begun, and what gives its
// parts back.
func pooledReaders(r io.Reader) (f *inflater, done func()) {
	f = &inflater{readers.Get().(*bufio.Reader), flates.Get().(*flate.Reader)}
	f.br.Reset(r)
	return f, func() {
		f.br.Reset(nil)
		readers.Put(f.br)
		flates.Put(f.fr)
	}
}

func newInflater(br *bufio.Reader, fr *flate.Reader, s span, window []byte) (*inflater, error) {
	if s.codec == codecMember {
		if err := skipGzipHeader(br); err != nil {
			return nil, err
		}
	}
	fr.Reset(br, s.bit, window)
	return &inflater{br, fr}, nil
}

func (f *inflater) Read(p []byte) (int, error) {
	for {
		n, err := f.fr.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		const trailer = 8
		if _, err := f.br.Discard(trailer); err != nil {
			return 0, noEOF(err)
		}
		if err := skipGzipHeader(f.br); err != nil {
			return 0, err
		}
		f.fr.Reset(f.br, 0, nil)
	}
}
