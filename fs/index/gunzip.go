package index

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/flate"
)

const maxWindow = flate.MaxWindow

// gunzip inflates a blob of one or more gzip members and finds the spans.
//
// Where a span begins, the decoder is made to forget all it knows, and resumes from
// the very checkpoint that goes into the index. So the stream, whose checksums are
// verified, was itself made by resuming from every checkpoint: what the index
// says of them is proven by having been used.
type gunzip struct {
	src     *source
	br      *bufio.Reader
	out     *outlet
	fr      flate.Reader
	spacing int64

	full *spanStart // the present span, as long as its window is as it was

	next  int64 // the first block end at or after this begins a span
	begun int64 // where the present span begins in the output
	total int64 // output so far
	crc   uint32
}

func (g *gunzip) consumed() int64 { return g.src.pos - int64(g.br.Buffered()) }

// run decodes to the end of the blob.
func (g *gunzip) run() error {
	for first := true; ; first = false {
		start := g.consumed()
		if !first {
			if end, err := g.atEnd(); end || err != nil {
				return err
			}
		}
		if err := skipGzipHeader(g.br); err != nil {
			return fmt.Errorf("gzip header at %d: %w", start, err)
		}
		if first || g.total >= g.next || g.total-g.begun >= g.step()/8 {
			if err := g.begin(&spanStart{span: span{codec: codecMember, off: start, out: g.total}}); err != nil {
				return err
			}
		}
		if err := g.member(); err != nil {
			return fmt.Errorf("gzip member at %d: %w", start, err)
		}
	}
}

// atEnd reports whether the blob ends here. Zeros behind the last member are
// padding, as for gunzip.
func (g *gunzip) atEnd() (bool, error) {
	b, err := g.br.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if err != nil || b[0] != 0 {
		return false, err
	}
	for {
		c, err := g.br.ReadByte()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if c != 0 {
			return false, fmt.Errorf("garbage at %d, behind the last gzip member", g.consumed()-1)
		}
	}
}

// step is how far checkpoints are from each other: twice as far behind the first GiB,
// and four times behind the second, so that the index of a large layer stays small,
// and the memory of who makes it.
func (g *gunzip) step() int64 { return g.spacing << min(g.total>>30, 2) }

// begin starts a span at the present end of the output.
func (g *gunzip) begin(s *spanStart) error {
	g.thin()
	g.begun = g.total
	g.next = (g.total/g.step() + 1) * g.step()
	return g.out.begin(s)
}

// member inflates one member, header done, and checks its trailer.
func (g *gunzip) member() error {
	g.crc = 0
	start := g.total
	g.fr.Reset(g.br, 0, nil)
	for {
		buf := g.out.room()
		n, err := g.fr.Read(buf)
		if e := g.emit(buf[:n]); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			g.thin()
			break
		}
		if err != nil {
			return err
		}
		if bit, ok := g.fr.Between(); ok && g.total >= g.next {
			if err := g.resume(bit); err != nil {
				return err
			}
		}
	}
	var trailer [8]byte
	if _, err := io.ReadFull(g.br, trailer[:]); err != nil {
		return fmt.Errorf("trailer: %w", noEOF(err))
	}
	if le.Uint32(trailer[:]) != g.crc || le.Uint32(trailer[4:]) != uint32(g.total-start) {
		return errors.New("checksum mismatch")
	}
	return nil
}

// resume begins a span here, between two blocks, and goes on from it.
func (g *gunzip) resume(bit uint8) error {
	s := &spanStart{
		span:   span{codec: codecBlock, off: g.consumed(), bit: bit, out: g.total},
		window: bytes.Clone(g.fr.Window()),
	}
	if bit > 0 {
		s.off--
	}
	if !g.src.seek(s.off) {
		return fmt.Errorf("byte %d was not kept", s.off)
	}
	g.br.Reset(g.src)
	if err := g.begin(s); err != nil {
		return err
	}
	g.fr.Reset(g.br, bit, s.window)
	g.full = s
	return nil
}

// thin leaves of the present span's window what is needed to decode the span, and
// zeros. That must be known before the span is passed on.
func (g *gunzip) thin() {
	if g.full != nil {
		g.fr.Thin(g.full.window)
		g.full = nil
	}
}

func (g *gunzip) emit(b []byte) error {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, b)
	if g.total += int64(len(b)); g.total-g.begun >= maxWindow {
		g.thin()
	}
	return g.out.emit(len(b))
}

// skipGzipHeader reads a member's header (RFC 1952).
func skipGzipHeader(r *bufio.Reader) error {
	const headerCRC, extra, name, comment = 1 << 1, 1 << 2, 1 << 3, 1 << 4
	crc := uint32(0)
	read := func(n int) ([]byte, error) {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		crc = crc32.Update(crc, crc32.IEEETable, b)
		return b, noEOF(err)
	}
	b, err := read(10)
	if err != nil {
		return err
	}
	if b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 {
		return errors.New("not gzip")
	}
	flags := b[3]
	if flags&extra != 0 {
		if b, err = read(2); err == nil {
			_, err = read(int(le.Uint16(b)))
		}
		if err != nil {
			return err
		}
	}
	for _, f := range []byte{name, comment} {
		for n := 0; flags&f != 0; n++ {
			if b, err = read(1); err != nil {
				return err
			}
			if n >= 512 {
				return errors.New("name or comment too long")
			}
			if b[0] == 0 {
				break
			}
		}
	}
	if flags&headerCRC != 0 {
		want := uint16(crc)
		if b, err = read(2); err != nil {
			return err
		}
		if le.Uint16(b) != want {
			return errors.New("header checksum mismatch")
		}
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
