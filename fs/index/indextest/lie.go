package indextest

import (
	"crypto/sha256"
	"encoding/binary"
)

// Where things lie in an index file: package index documents the format.
const (
	headerSize = 4096
	tableInfos = 8 + 8 + 2*144 + 5*8 // size and digest of each table
	tableInfo  = 8 + sha256.Size
	sections   = 7
	partOne    = tableInfos + sections*tableInfo // its digest, the index ID, follows
	tableOffs  = partOne + sha256.Size           // where each table begins
	windowInfo = tableOffs + sections*8          // offset, size and digest
	partTwo    = windowInfo + 8 + tableInfo      // its digest follows
)

// The tables that tests tell lies in.
const (
	Inodes  = 0
	Chunks  = 4
	Spans   = 5
	Windows = 6 // the digests of them
)

// Reseal gives an index file that was changed the digests of what it now holds,
// so that nothing in the file tells. It returns nil where the header has no sense.
func Reseal(file []byte) []byte {
	if len(file) < headerSize {
		return nil
	}
	for s := range sections {
		reseal(Table(file, s), file[tableInfos+s*tableInfo+8:])
	}
	w := file[windowInfo:]
	reseal(bounded(file, u64(w), u64(w[8:])), w[16:])
	seal(file, partOne)
	seal(file, partTwo)
	return file
}

// Table returns a table of an index file; nil if it lies outside.
func Table(file []byte, section int) []byte {
	return bounded(file, u64(file[tableOffs+8*section:]), u64(file[tableInfos+section*tableInfo:]))
}

// Tables returns where in an index file the tables begin.
func Tables(file []byte) int { return int(u64(file[tableOffs:])) }

func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

func bounded(file []byte, off, size uint64) []byte {
	if off > uint64(len(file)) || size > uint64(len(file))-off {
		return nil
	}
	return file[off : off+size : off+size]
}

// reseal puts the digest of a table where it belongs.
func reseal(table, to []byte) {
	if table != nil {
		sum := sha256.Sum256(table)
		copy(to[:sha256.Size], sum[:])
	}
}

func seal(file []byte, n int) {
	sum := sha256.Sum256(file[:n])
	copy(file[n:], sum[:])
}
