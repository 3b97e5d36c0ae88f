package ztoc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrInvalid is returned for bytes that are no ztoc, or none that can be used.
var ErrInvalid = errors.New("invalid ztoc")

var le = binary.LittleEndian

// buffer is a flatbuffer. Parts of it may be pointed at more than once, so what is
// taken out of it is counted: it is never more than its bytes could hold if no two
// shared any.
type buffer struct {
	data   []byte
	budget int
}

func newBuffer(data []byte) *buffer { return &buffer{data, len(data)} }

// spend counts n bytes that are about to be taken.
func (b *buffer) spend(n int) error {
	if n > b.budget {
		return fmt.Errorf("%w: more than its %d bytes can hold", ErrInvalid, len(b.data))
	}
	b.budget -= n
	return nil
}

// at returns n bytes at off.
func (b *buffer) at(off, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > len(b.data) || n > len(b.data)-off {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", ErrInvalid, n, off, len(b.data))
	}
	return b.data[off : off+n : off+n], nil
}

// follow returns where the offset at off points.
func (b *buffer) follow(off int) (int, error) {
	p, err := b.at(off, 4)
	if err != nil {
		return 0, err
	}
	return off + int(le.Uint32(p)), nil
}

// root returns the buffer's table.
func (b *buffer) root() (table, error) {
	pos, err := b.follow(0)
	if err != nil {
		return table{}, err
	}
	return b.table(pos)
}

// table is a table of a buffer; the zero table has no fields.
type table struct {
	b      *buffer
	pos    int
	fields []byte // of the table of offsets: two bytes for each field
}

func (b *buffer) table(pos int) (table, error) {
	p, err := b.at(pos, 4)
	if err != nil {
		return table{}, err
	}
	v := pos - int(int32(le.Uint32(p)))
	head, err := b.at(v, 4)
	if err != nil {
		return table{}, err
	}
	fields, err := b.at(v+4, int(le.Uint16(head))-4)
	if err != nil {
		return table{}, err
	}
	return table{b, pos, fields}, b.spend(4)
}

// field returns where field i is; 0 if it is not there.
func (t table) field(i int) int {
	if 2*i+2 > len(t.fields) {
		return 0
	}
	off := int(le.Uint16(t.fields[2*i:]))
	if off == 0 {
		return 0
	}
	return t.pos + off
}

// scalar returns the n bytes of field i; nil if it is not there.
func (t table) scalar(i, n int) ([]byte, error) {
	at := t.field(i)
	if at == 0 {
		return nil, nil
	}
	return t.b.at(at, n)
}

func (t table) uint8(i int, absent uint8) (uint8, error) {
	p, err := t.scalar(i, 1)
	if p == nil {
		return absent, err
	}
	return p[0], nil
}

func (t table) uint32(i int) (uint32, error) {
	p, err := t.scalar(i, 4)
	if p == nil {
		return 0, err
	}
	return le.Uint32(p), nil
}

func (t table) int64(i int) (int64, error) {
	p, err := t.scalar(i, 8)
	if p == nil {
		return 0, err
	}
	return int64(le.Uint64(p)), nil
}

// table returns the table that field i is; the zero table if it is not there.
func (t table) table(i int) (table, error) {
	at := t.field(i)
	if at == 0 {
		return table{}, nil
	}
	pos, err := t.b.follow(at)
	if err != nil {
		return table{}, err
	}
	return t.b.table(pos)
}

// bytes returns the vector of bytes, or string, that field i is.
func (t table) bytes(i int) ([]byte, error) {
	v, err := t.vector(i, 1)
	if v.n == 0 || err != nil {
		return nil, err
	}
	return v.b.at(v.pos, v.n)
}

func (t table) string(i int) (string, error) {
	p, err := t.bytes(i)
	return string(p), err
}

// vector is n records that follow each other from pos on.
type vector struct {
	b      *buffer
	pos, n int
}

// vector returns field i, whose records have size bytes; an empty one if it is not
// there.
func (t table) vector(i, size int) (vector, error) {
	at := t.field(i)
	if at == 0 {
		return vector{}, nil
	}
	pos, err := t.b.follow(at)
	if err != nil {
		return vector{}, err
	}
	return t.b.vector(pos, size)
}

func (b *buffer) vector(pos, size int) (vector, error) {
	p, err := b.at(pos, 4)
	if err != nil {
		return vector{}, err
	}
	n := int(le.Uint32(p))
	if n > len(b.data)/size {
		return vector{}, fmt.Errorf("%w: %d records of %d bytes", ErrInvalid, n, size)
	}
	if _, err := b.at(pos+4, n*size); err != nil {
		return vector{}, err
	}
	return vector{b, pos + 4, n}, b.spend(n * size)
}

// table returns record i of a vector of tables.
func (v vector) table(i int) (table, error) {
	pos, err := v.b.follow(v.pos + 4*i)
	if err != nil {
		return table{}, err
	}
	return v.b.table(pos)
}

// string returns record i of a vector of strings.
func (v vector) string(i int) (string, error) {
	pos, err := v.b.follow(v.pos + 4*i)
	if err != nil {
		return "", err
	}
	s, err := v.b.vector(pos, 1)
	if err != nil {
		return "", err
	}
	p, err := v.b.at(s.pos, s.n)
	return string(p), err
}
