package index

import (
	"bytes"
	"iter"
	"sort"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Root is the inode number of a layer's root folder.
const Root = rootIno

// Inode is what stat says of an inode, and little more.
type Inode struct {
	Ino, Mode, UID, GID, Nlink, Rdev uint32 // Mode as in stat(2), type included; Rdev in the kernel's form
	Parent                           uint32 // a folder that names it
	Mtime                            int64
	MtimeNsec                        uint32
	Size                             int64
	Implied                          bool // a folder that the tar only implies: attributes come from layers below
	Dead                             bool // replaced by a later entry of the tar: no name, no content
}

// Inode returns the inode numbered ino.
func (x *Index) Inode(ino uint32) (Inode, bool) {
	r, ok := x.inode(ino)
	if !ok {
		return Inode{}, false
	}
	return Inode{
		Ino: ino, Mode: r.mode, UID: r.uid, GID: r.gid, Nlink: r.nlink, Rdev: r.rdev, Parent: r.parent,
		Mtime: r.mtime, MtimeNsec: r.nsec, Size: r.size,
		Implied: r.flags&flagImplied != 0, Dead: r.flags&flagDead != 0,
	}, true
}

func (x *Index) inode(ino uint32) (inodeRec, bool) {
	i := int(ino) - 1
	if i < 0 || i >= len(x.inodes)/inodeSize {
		return inodeRec{}, false
	}
	return getInode(x.inodes[i*inodeSize:]), true
}

func (x *Index) isType(ino, typ uint32) (inodeRec, bool) {
	r, ok := x.inode(ino)
	return r, ok && r.mode&unix.S_IFMT == typ
}

// Lookup returns the inode that name names in the folder dir.
func (x *Index) Lookup(dir uint32, name string) (ino uint32, ok bool) {
	r, ok := x.isType(dir, unix.S_IFDIR)
	if !ok {
		return 0, false
	}
	lo, hi := int(r.a), int(r.a+r.b)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		e := x.entry(mid)
		switch c := strings.Compare(x.string(e.name, e.nameLen), name); {
		case c == 0:
			return e.ino, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// After returns the number of the first entry of the folder dir whose name is
// greater than name.
func (x *Index) After(dir uint32, name string) int {
	r, ok := x.isType(dir, unix.S_IFDIR)
	if !ok {
		return 0
	}
	return sort.Search(int(r.b), func(i int) bool {
		e := x.entry(int(r.a) + i)
		return x.string(e.name, e.nameLen) > name
	})
}

// Entries returns how many entries the folder dir has.
func (x *Index) Entries(dir uint32) int {
	r, ok := x.isType(dir, unix.S_IFDIR)
	if !ok {
		return 0
	}
	return int(r.b)
}

// Entry returns entry i of the folder dir, in the order of names; 0 if there is
// none.
func (x *Index) Entry(dir uint32, i int) (name string, ino uint32) {
	r, ok := x.isType(dir, unix.S_IFDIR)
	if !ok || i < 0 || i >= int(r.b) {
		return "", 0
	}
	e := x.entry(int(r.a) + i)
	return x.string(e.name, e.nameLen), e.ino
}

func (x *Index) entry(i int) entryRec { return getEntry(x.entries[i*entrySize:]) }

func (x *Index) bytes(off, n uint32) []byte {
	end := uint64(off) + uint64(n)
	return x.strings[uint64(off):end:end]
}

// string returns a string in the map: no copy is made, which is safe because
// the map is never written to.
func (x *Index) string(off, n uint32) string {
	b := x.bytes(off, n)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Readlink returns the target of a symbolic link.
func (x *Index) Readlink(ino uint32) string {
	r, ok := x.isType(ino, unix.S_IFLNK)
	if !ok {
		return ""
	}
	return x.string(r.a, r.b)
}

// Xattr returns an extended attribute; a folder that is opaque has
// trusted.overlay.opaque.
func (x *Index) Xattr(ino uint32, name string) ([]byte, bool) {
	r, ok := x.inode(ino)
	if !ok || r.xattrs == 0 {
		return nil, false
	}
	for i := range uint32(r.xattrs) {
		a := getXattr(x.xattrs[int(r.xattr+i)*xattrSize:])
		if x.string(a.off, a.nameLen) == name {
			return x.bytes(a.off+a.nameLen, a.valueLen), true
		}
	}
	return nil, false
}

// Xattrs yields the extended attributes of ino in the order of their names.
func (x *Index) Xattrs(ino uint32) iter.Seq2[string, []byte] {
	r, _ := x.inode(ino)
	return func(yield func(string, []byte) bool) {
		for i := range uint32(r.xattrs) {
			a := getXattr(x.xattrs[int(r.xattr+i)*xattrSize:])
			if !yield(x.string(a.off, a.nameLen), x.bytes(a.off+a.nameLen, a.valueLen)) {
				return
			}
		}
	}
}

// Path returns a path of ino, without a leading slash; "" for the root and for
// what is dead.
func (x *Index) Path(ino uint32) string {
	var names [][]byte
	for ino != rootIno {
		r, ok := x.inode(ino)
		if !ok || r.flags&flagDead != 0 {
			return ""
		}
		e := x.entry(int(r.entry))
		names = append(names, x.bytes(e.name, e.nameLen))
		ino = r.parent
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return string(bytes.Join(names, []byte("/")))
}

// Implied yields number and path of the folders that the tar only implies. A
// folder comes before those in it. The root is not among them.
func (x *Index) Implied() iter.Seq2[uint32, string] {
	return func(yield func(uint32, string) bool) {
		for ino := uint32(rootIno + 1); int(ino) <= x.info.Inodes; ino++ {
			r, _ := x.inode(ino)
			if r.flags&flagImplied != 0 && r.flags&flagDead == 0 && !yield(ino, x.Path(ino)) {
				return
			}
		}
	}
}

// Hides reports whether the tar has whiteouts or opaque folders.
func (x *Index) Hides() bool {
	for ino := uint32(rootIno); int(ino) <= x.info.Inodes; ino++ {
		r, _ := x.inode(ino)
		whiteout := r.mode&unix.S_IFMT == unix.S_IFCHR && r.rdev == 0
		if _, opaque := x.Xattr(ino, opaqueXattr); (whiteout || opaque) && r.flags&flagDead == 0 {
			return true
		}
	}
	return false
}

// Find returns the chunks [first,last] that intersect bytes [off,off+n) of a
// file. Where there is none, ok is false: that range is a hole, or empty.
func (x *Index) Find(ino uint32, off, n int64) (first, last int, ok bool) {
	r, ok := x.isType(ino, unix.S_IFREG)
	if !ok || n <= 0 || r.b == 0 {
		return 0, 0, false
	}
	base, count := int(r.a), int(r.b)
	first = base + sort.Search(count, func(i int) bool {
		c := getChunk(x.chunks[(base+i)*chunkSize:])
		return c.off+int64(c.size) > off
	})
	end := base + sort.Search(count, func(i int) bool {
		return getChunk(x.chunks[(base+i)*chunkSize:]).off-off >= n
	})
	return first, end - 1, first < end
}

// Chunk is a verified run of a file.
type Chunk struct {
	Ino      uint32
	Off, Len int64
	Digest   [32]byte // SHA-256, of the content if Info.Hashes
}

// Chunk returns chunk i of the table, which is in blob order. The chunks of one
// file follow each other.
func (x *Index) Chunk(i int) Chunk {
	c := x.chunk(i)
	return Chunk{Ino: c.ino, Off: c.off, Len: int64(c.size), Digest: c.digest}
}

func (x *Index) chunk(i int) chunk { return getChunk(x.chunks[i*chunkSize:]) }
func (x *Index) span(i int) span   { return getSpan(x.spans[i*spanSize:]) }
