package flate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// input takes bits from a bufio.Reader. Between open and shut it looks at the
// reader's own buffer.
type input struct {
	br  *bufio.Reader
	buf []byte // of br, what is buffered
	at  int    // in buf
	bb  uint64 // the next bits, the lowest first
	n   uint   // how many of them count; those above are the ones of buf[at:], or 0
	err error  // of br, once it has given all it had
}

// least is what the input has before its last bytes: so much can be taken without
// asking.
const least = 16

// reset begins at the bit-th bit of the next byte.
func (in *input) reset(br *bufio.Reader, bit uint8) error {
	*in = input{br: br}
	if bit == 0 {
		return nil
	}
	b, err := br.ReadByte()
	if err != nil {
		return noEOF(err)
	}
	in.bb, in.n = uint64(b)>>bit, 8-uint(bit)
	return nil
}

// more looks at what br has, which is at least 16 bytes, or all it will ever have.
func (in *input) more() {
	_, _ = in.br.Discard(in.at) // they are in its buffer
	in.at = 0
	if in.err == nil && in.br.Buffered() < least {
		_, in.err = in.br.Peek(least)
	}
	in.buf, _ = in.br.Peek(in.br.Buffered())
}

// shut gives back what was not used.
func (in *input) shut() {
	whole := in.n / 8
	in.n -= whole * 8
	in.bb &= 1<<in.n - 1
	_, _ = in.br.Discard(in.at - int(whole)) // what is in in.bb came from buf, but for less than a byte
	in.buf, in.at = nil, 0
}

// refill makes at least 56 bits ready, or all there are.
func (in *input) refill() {
	if len(in.buf)-in.at < 8 {
		in.keep()
		if len(in.buf)-in.at < 8 {
			for in.n <= 56 && in.at < len(in.buf) {
				in.bb |= uint64(in.buf[in.at]) << in.n
				in.at++
				in.n += 8
			}
			return
		}
	}
	in.bb |= binary.LittleEndian.Uint64(in.buf[in.at:]) << (in.n & 63)
	in.at += int((63 - in.n) >> 3)
	in.n |= 56
}

// keep is more, while whole bytes are in bb: they stay in the reader's buffer, so
// that shut can give them back.
func (in *input) keep() {
	if in.err != nil || len(in.buf)-in.at >= least {
		return
	}
	whole := int(in.n / 8)
	in.at -= whole
	if in.at < 0 {
		panic("flate: more bits than were taken")
	}
	in.more()
	in.at = whole
}

// need is refill where n bits must be there.
func (in *input) need(n uint) error {
	if in.n >= n {
		return nil
	}
	if in.refill(); in.n < n {
		return in.short()
	}
	return nil
}

// short says why there are no more bits.
func (in *input) short() error {
	if in.err == nil || errors.Is(in.err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return in.err
}

// take returns the next n bits, which are there.
func (in *input) take(n uint) int {
	v := int(in.bb & (1<<(n&63) - 1))
	in.bb >>= n & 63
	in.n -= n
	return v
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
