package fs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// multiarch is the folder in which Debian keeps this architecture's libraries.
var multiarch = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]

// linked is what an ELF file wants loaded beside it.
type linked struct {
	loader string
	needed []string
}

func (l linked) names() []string {
	if l.loader == "" {
		return l.needed
	}
	return append([]string{l.loader}, l.needed...)
}

const (
	maxHeaders = 64       // program headers
	maxDynamic = 64 << 10 // bytes
	maxStrings = 1 << 20  // bytes of the table that library names are in
	maxNeeded  = 64
)

var errNotELF = errors.New("not an ELF file of 64 bits")

// linkedTo reads an ELF file's loader and libraries, by the program headers as
// the kernel and the loader do. Package debug/elf reads sections, which a file
// need not have, and is not made for files that are hostile.
func linkedTo(r io.ReaderAt) (l linked, err error) {
	var h elf.Header64
	if err := readStruct(r, 0, &h); err != nil {
		return l, err
	}
	if string(h.Ident[:4]) != elf.ELFMAG || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB || int(h.Phentsize) != binary.Size(elf.Prog64{}) {
		return l, errNotELF
	}
	progs := make([]elf.Prog64, min(h.Phnum, maxHeaders))
	if err := readStruct(r, h.Phoff, progs); err != nil {
		return l, err
	}
	for _, p := range progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_INTERP:
			if l.loader, err = cString(r, p.Off, p.Filesz); err != nil {
				return l, err
			}
		case elf.PT_DYNAMIC:
			if l.needed, err = needed(r, progs, p); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

// needed reads the names of DT_NEEDED from the dynamic segment.
func needed(r io.ReaderAt, progs []elf.Prog64, dynamic elf.Prog64) ([]string, error) {
	dyns := make([]elf.Dyn64, min(dynamic.Filesz, maxDynamic)/uint64(binary.Size(elf.Dyn64{})))
	if err := readStruct(r, dynamic.Off, dyns); err != nil {
		return nil, err
	}
	var names []uint64
	var table, size uint64
	for _, d := range dyns {
		switch elf.DynTag(d.Tag) {
		case elf.DT_NEEDED:
			names = append(names, d.Val)
		case elf.DT_STRTAB:
			table = d.Val
		case elf.DT_STRSZ:
			size = d.Val
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	text := make([]byte, min(size, maxStrings))
	off, ok := fileOffset(progs, table)
	if !ok {
		return nil, fmt.Errorf("string table at %#x: %w", table, errNotELF)
	}
	if err := readStruct(r, off, text); err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names[:min(len(names), maxNeeded)] {
		if n < uint64(len(text)) {
			name, _, _ := bytes.Cut(text[n:], []byte{0})
			out = append(out, string(name))
		}
	}
	return out, nil
}

// fileOffset returns where in the file the byte of an address is.
func fileOffset(progs []elf.Prog64, addr uint64) (uint64, bool) {
	for _, p := range progs {
		if elf.ProgType(p.Type) == elf.PT_LOAD && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz {
			return p.Off + addr - p.Vaddr, true
		}
	}
	return 0, false
}

// cString reads a name that ends with a zero.
func cString(r io.ReaderAt, off, n uint64) (string, error) {
	b := make([]byte, min(n, 4096))
	if err := readStruct(r, off, b); err != nil {
		return "", err
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b), nil
}

// readStruct reads v, of fixed size, at off.
func readStruct(r io.ReaderAt, off uint64, v any) error {
	return binary.Read(io.NewSectionReader(r, int64(off&^(1<<63)), int64(binary.Size(v))), binary.LittleEndian, v)
}
