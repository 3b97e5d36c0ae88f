package indextest

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// fbTable is a table of a flatbuffer: its fields, in order. They are byte, uint32,
// int64, string, []byte, []string, fbTable or []fbTable.
type fbTable []any

// encodeTable returns the flatbuffer of a table.
func encodeTable(t fbTable) []byte {
	var f fbWriter
	f.room(4)
	f.point(0, f.table(t))
	return f
}

type fbWriter []byte

// room appends n bytes and returns where they are.
func (f *fbWriter) room(n int) int {
	at := len(*f)
	*f = append(*f, make([]byte, n)...)
	return at
}

// point makes the four bytes at off the offset of to.
func (f *fbWriter) point(off, to int) { le.PutUint32((*f)[off:], uint32(to-off)) }

func fbSize(field any) int {
	switch field.(type) {
	case byte:
		return 1
	case int64:
		return 8
	}
	return 4
}

func (f *fbWriter) table(t fbTable) int {
	offsets := f.room(4 + 2*len(t))
	size := 4
	for i, field := range t {
		le.PutUint16((*f)[offsets+4+2*i:], uint16(size))
		size += fbSize(field)
	}
	le.PutUint16((*f)[offsets:], uint16(4+2*len(t)))
	le.PutUint16((*f)[offsets+2:], uint16(size))
	at := f.room(size)
	le.PutUint32((*f)[at:], uint32(at-offsets))
	off := at + 4
	for _, field := range t {
		f.field(off, field)
		off += fbSize(field)
	}
	return at
}

// field writes a field at off, and what it points to at the end.
func (f *fbWriter) field(off int, field any) {
	switch v := field.(type) {
	case byte:
		(*f)[off] = v
	case uint32:
		le.PutUint32((*f)[off:], v)
	case int64:
		le.PutUint64((*f)[off:], uint64(v))
	case string:
		f.point(off, f.bytes([]byte(v+"\x00"), len(v)))
	case []byte:
		f.point(off, f.bytes(v, len(v)))
	case fbTable:
		f.point(off, f.table(v))
	case []fbTable:
		vectorOf(f, off, v)
	case []string:
		vectorOf(f, off, v)
	default:
		panic(fmt.Sprintf("a field of type %T", field))
	}
}

// bytes appends a vector of n bytes.
func (f *fbWriter) bytes(b []byte, n int) int {
	at := f.room(4)
	le.PutUint32((*f)[at:], uint32(n))
	*f = append(*f, b...)
	return at
}

func vectorOf[T any](f *fbWriter, off int, list []T) {
	at := f.room(4 + 4*len(list))
	le.PutUint32((*f)[at:], uint32(len(list)))
	f.point(off, at)
	for i, v := range list {
		f.field(at+4+4*i, v)
	}
}
