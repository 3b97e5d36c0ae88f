package flate

import (
	"bufio"
	"errors"
	"io"
)

// ErrCorrupt says that the input is no DEFLATE stream.
var ErrCorrupt = errors.New("flate: corrupt input")

const (
	// MaxWindow is how far back a match can reach.
	MaxWindow = 32 << 10

	outSize = 64 << 10 // bytes that are decoded before they are read
	outRoom = 258 + 16 // behind these, so that what one round of the inner loop decodes always fits
)

// Reader inflates a stream.
type Reader struct {
	in   input
	last bool // the block is the last of the stream
	kind kind
	left int // bytes of a stored block

	literals  *literalTable
	distances *distanceTable
	subs      [2]uint // bits of lookups in subtables
	own       *struct {
		literals  literalTable
		distances distanceTable
	}

	out   []byte // window, decoded bytes, and room
	used  []bool // of the window that r was reset to: which bytes matches have read
	first int    // where that window ends in out; 0 once matches cannot reach it
	start int    // where the window begins
	read  int    // from here on nobody has read
	end   int    // of what is decoded
	err   error  // after what is decoded
}

// kind is what comes next.
type kind uint8

const (
	between kind = iota // the header of a block
	stored
	coded
)

// Reset makes r inflate from the bit-th bit of br's next byte on. There a block
// begins, for which window was decoded before. br's buffer must hold 16 bytes.
func (r *Reader) Reset(br *bufio.Reader, bit uint8, window []byte) {
	if r.out == nil {
		r.out = make([]byte, MaxWindow+outSize+outRoom)
		r.used = make([]bool, MaxWindow)
	}
	window = window[max(0, len(window)-MaxWindow):]
	r.last, r.kind = false, between
	r.start = MaxWindow - copy(r.out[MaxWindow-len(window):], window)
	r.read, r.end, r.first = MaxWindow, MaxWindow, MaxWindow
	clear(r.used)
	r.err = r.in.reset(br, bit)
}

// Between reports whether what was read ends where a block does and another
// follows; then bit is the number of bits of the input's last byte that are
// of the block before, or 0 if it is all of it.
func (r *Reader) Between() (bit uint8, ok bool) {
	if r.read < r.end || r.kind != between || r.err != nil {
		return 0, false
	}
	return uint8(8-r.in.n) & 7, true
}

// Window returns what matches can reach that follow what was read. It is valid
// until the next Read, and at a block's end only.
func (r *Reader) Window() []byte { return r.out[max(r.start, r.end-MaxWindow):r.end] }

// Thin makes zeros of what nobody needs of window, the one that r was reset to: the
// bytes that no match in what is decoded has read. Who has read 32 KiB since, or to
// the end, decodes the same from what is left of it.
func (r *Reader) Thin(window []byte) {
	used := r.used[MaxWindow-len(window):]
	for i := range window {
		if !used[i] {
			window[i] = 0
		}
	}
}

// use notes that a match reads n bytes from out[from], which is in the window that r
// was reset to.
func (r *Reader) use(from, n int) {
	for i := from; i < min(from+n, MaxWindow); i++ {
		r.used[i] = true
	}
}

// Read reads what is decoded, of one block at most. It returns io.EOF at the
// stream's end, and io.ErrUnexpectedEOF if the input ends before. The input is
// then where the stream ends.
func (r *Reader) Read(p []byte) (int, error) {
	for r.read == r.end {
		if r.err != nil {
			return 0, r.err
		}
		r.slide()
		r.in.more()
		r.err = r.decode()
		r.in.shut()
	}
	n := copy(p, r.out[r.read:r.end])
	r.read += n
	return n, nil
}

// slide makes room for what is decoded next, when there is little.
func (r *Reader) slide() {
	if r.end < MaxWindow+outSize {
		return
	}
	r.end = copy(r.out, r.out[r.end-MaxWindow:r.end])
	r.start, r.read, r.first = 0, r.end, 0
}

// decode decodes to the end of a block, or until there is no room.
func (r *Reader) decode() error {
	if r.kind == between {
		if r.last {
			return io.EOF
		}
		if err := r.header(); err != nil {
			return err
		}
	}
	rest := r.symbols
	if r.kind == stored {
		rest = r.copy
	}
	ended, err := rest()
	if !ended || err != nil {
		return err
	}
	if r.kind = between; r.last {
		return io.EOF
	}
	return nil
}

// header reads that of a block.
func (r *Reader) header() error {
	if err := r.in.need(3); err != nil {
		return err
	}
	r.last = r.in.take(1) == 1
	switch r.in.take(2) {
	case 0:
		r.in.take(r.in.n % 8)
		if err := r.in.need(32); err != nil {
			return err
		}
		r.left = r.in.take(16)
		if r.in.take(16) != r.left^0xffff {
			return ErrCorrupt
		}
		r.kind = stored
		return nil
	case 1:
		r.literals, r.distances, r.subs = &fixedLiterals, &fixedDistances, [2]uint{}
	case 2:
		if err := r.tables(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	r.kind = coded
	return nil
}

// order is that in which the lengths of the codes for lengths come.
var order = [lengthCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// tables reads the codes of a block.
func (r *Reader) tables() error {
	in := &r.in
	if err := in.need(14); err != nil {
		return err
	}
	nl, nd, nc := in.take(5)+257, in.take(5)+1, in.take(4)+4
	if nl > maxLiterals || nd > maxDistances {
		return ErrCorrupt
	}
	var of [lengthCodes]uint8
	for _, i := range order[:nc] {
		if err := in.need(3); err != nil {
			return err
		}
		of[i] = uint8(in.take(3))
	}
	const width = 7
	var codes [1 << width]entry
	if _, ok := build(codes[:], width, of[:], numbers[:]); !ok {
		return ErrCorrupt
	}
	var lengths [maxLiterals + maxDistances]uint8
	if err := in.lengths(lengths[:nl+nd], &codes); err != nil {
		return err
	}
	if r.own == nil {
		r.own = new(struct {
			literals  literalTable
			distances distanceTable
		})
	}
	r.literals, r.distances = &r.own.literals, &r.own.distances
	var ok [2]bool
	r.subs[0], ok[0] = build(r.literals[:], literalBits, lengths[:nl], literals[:])
	r.subs[1], ok[1] = build(r.distances[:], distanceBits, lengths[nl:nl+nd], distances[:])
	if !ok[0] || !ok[1] {
		return ErrCorrupt
	}
	return nil
}

// lengths reads the lengths of codes, which are coded themselves.
func (in *input) lengths(to []uint8, codes *[1 << 7]entry) error {
	for i := 0; i < len(to); {
		if in.n < 7+7 {
			in.refill()
		}
		e := codes[in.bb&(1<<7-1)]
		if e&flagSpecial != 0 {
			return ErrCorrupt
		}
		if e.code() > in.n {
			return in.short()
		}
		in.take(e.code())
		if e.value() < 16 {
			to[i] = uint8(e.value())
			i++
			continue
		}
		extra, times, value := uint(7), 11, uint8(0)
		switch e.value() {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			extra, times, value = 2, 3, to[i-1]
		case 17:
			extra, times = 3, 3
		}
		if err := in.need(extra); err != nil {
			return err
		}
		if times += in.take(extra); times > len(to)-i {
			return ErrCorrupt
		}
		for range times {
			to[i] = value
			i++
		}
	}
	return nil
}

// copy decodes a stored block.
func (r *Reader) copy() (ended bool, err error) {
	r.in.shut() // whole bytes follow
	n := min(r.left, MaxWindow+outSize-r.end)
	got, err := io.ReadFull(r.in.br, r.out[r.end:r.end+n])
	r.end += got
	r.left -= got
	r.in.more()
	return r.left == 0, noEOF(err)
}
