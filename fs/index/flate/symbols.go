package flate

import "encoding/binary"

// symbols decodes a block with codes to its end, or until there is no room.
func (r *Reader) symbols() (ended bool, err error) {
	for r.end < MaxWindow+outSize {
		if len(r.in.buf)-r.in.at < least {
			r.in.keep()
		}
		if len(r.in.buf)-r.in.at >= least {
			ended, err = r.fast()
		} else {
			ended, err = r.slow()
		}
		if ended || err != nil {
			return ended, err
		}
	}
	return false, nil
}

// fast decodes while there is enough of the input that none of it must be
// counted, and room for a match. Its state is in variables that stay in
// registers.
func (r *Reader) fast() (ended bool, err error) {
	buf, at, bb, n := r.in.buf, r.in.at, r.in.bb, r.in.n
	out, end := r.out, r.end
	literals, distances := r.literals, r.distances
	more, first := len(buf)-least, r.first
loop:
	for at <= more && end < MaxWindow+outSize {
		bb |= binary.LittleEndian.Uint64(buf[at:]) << (n & 63)
		at += int((63 - n) >> 3)
		n |= 56

		// Of the 56 bits three literals of the first lookup take 33 at most.
		e := literals[bb&(1<<literalBits-1)]
		if e&flagLiteral != 0 {
			bb >>= e & 15
			n -= e.code()
			out[end] = byte(e >> 16)
			end++
			e = literals[bb&(1<<literalBits-1)]
			if e&flagLiteral != 0 {
				bb >>= e & 15
				n -= e.code()
				out[end] = byte(e >> 16)
				end++
				e = literals[bb&(1<<literalBits-1)]
				if e&flagLiteral != 0 {
					bb >>= e & 15
					n -= e.code()
					out[end] = byte(e >> 16)
					end++
					continue
				}
			}
		}
		if e&flagSpecial != 0 {
			if e&flagSub != 0 {
				e = literals[e.value()+int(bb>>literalBits)&(1<<(r.subs[0]&15)-1)]
			}
			switch {
			case e&flagLiteral != 0:
				bb >>= e & 15
				n -= e.code()
				out[end] = byte(e >> 16)
				end++
				continue
			case e&flagEnd != 0:
				bb >>= e & 15
				n -= e.code()
				ended = true
				break loop
			case e&flagSpecial != 0:
				err = ErrCorrupt
				break loop
			}
		}
		bb >>= e & 15
		length := e.value() + int(bb&(1<<(e.extra()&63)-1))
		bb >>= e.extra() & 63
		n -= e.code() + e.extra()

		bb |= binary.LittleEndian.Uint64(buf[at:]) << (n & 63)
		at += int((63 - n) >> 3)
		n |= 56
		e = distances[bb&(1<<distanceBits-1)]
		if e&flagSpecial != 0 {
			if e&flagSub != 0 {
				e = distances[e.value()+int(bb>>distanceBits)&(1<<(r.subs[1]&15)-1)]
			}
			if e&flagSpecial != 0 {
				err = ErrCorrupt
				break loop
			}
		}
		bb >>= e & 15
		distance := e.value() + int(bb&(1<<(e.extra()&63)-1))
		bb >>= e.extra() & 63
		n -= e.code() + e.extra()
		if distance > end-r.start {
			err = ErrCorrupt
			break loop
		}
		if end-distance < first {
			r.use(end-distance, length)
		}
		match(out, end, distance, length)
		end += length
	}
	r.in.at, r.in.bb, r.in.n, r.end = at, bb, n, end
	return ended, err
}

// slow decodes one symbol, as fast does, where the input may end.
func (r *Reader) slow() (ended bool, err error) {
	in := &r.in
	in.refill()
	e := r.literals[in.bb&(1<<literalBits-1)]
	if e&flagSub != 0 {
		e = r.literals[e.value()+int(in.bb>>literalBits)&(1<<r.subs[0]-1)]
	}
	if err := in.has(e); err != nil {
		return false, err
	}
	in.take(e.code())
	switch {
	case e&flagLiteral != 0:
		r.out[r.end] = byte(e.value())
		r.end++
		return false, nil
	case e&flagEnd != 0:
		return true, nil
	}
	length := e.value() + in.take(e.extra())
	in.refill()
	e = r.distances[in.bb&(1<<distanceBits-1)]
	if e&flagSub != 0 {
		e = r.distances[e.value()+int(in.bb>>distanceBits)&(1<<r.subs[1]-1)]
	}
	if err := in.has(e); err != nil {
		return false, err
	}
	in.take(e.code())
	distance := e.value() + in.take(e.extra())
	if distance > r.end-r.start {
		return false, ErrCorrupt
	}
	if r.end-distance < r.first {
		r.use(r.end-distance, length)
	}
	match(r.out, r.end, distance, length)
	r.end += length
	return false, nil
}

// has says whether all bits of a symbol are there.
func (in *input) has(e entry) error {
	switch {
	case e.code()+e.extra() > in.n:
		return in.short()
	case e&flagSpecial != 0 && e&flagEnd == 0:
		return ErrCorrupt
	}
	return nil
}

// match copies length bytes from distance before at to there, as if one by one.
// What lies up to 8 bytes behind may be overwritten.
func match(out []byte, at, distance, length int) {
	from := at - distance
	switch {
	case distance >= 8 && length <= 32:
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(out[at+i:], binary.LittleEndian.Uint64(out[from+i:]))
		}
	case distance == 1:
		b, to := out[from], out[at:at+length]
		for i := range to {
			to[i] = b
		}
	default:
		for end := at + length; at < end; {
			at += copy(out[at:end], out[from:at])
		}
	}
}
