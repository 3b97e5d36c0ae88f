package index

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// check proves everything the reader relies on: every offset it will follow
// lies in its section, names are sorted, the folders are a tree, chunks and
// spans lie in blob order inside their files, each other and the blob.
func (x *Index) check() error {
	for _, part := range []struct {
		name string
		f    func() error
	}{
		{"inode", x.checkInodes},
		{"entry", x.checkEntries},
		{"chunk", x.checkChunks},
		{"span", x.checkSpans},
	} {
		if err := part.f(); err != nil {
			return fmt.Errorf("%s %w: %w", part.name, err, ErrCorrupt)
		}
	}
	return nil
}

type at struct {
	i    int
	what string
}

func (e at) Error() string { return fmt.Sprintf("%d: %s", e.i, e.what) }

// checkInodes walks the inodes in order; the ranges of entries, chunks and
// extended attributes must follow each other without gap.
func (x *Index) checkInodes() error {
	i := &x.info
	if i.Inodes < 1 || i.BlobSize < 0 || i.Bytes < 0 || i.Usage < 0 || i.Prefetch < 0 || i.Prefetch > i.BlobSize {
		return at{0, "bad header"}
	}
	entries, xattrs, chunks := uint64(0), uint64(0), uint64(0)
	for n := range i.Inodes {
		r, ino := getInode(x.inodes[n*inodeSize:]), n+1
		if r.flags&flagDead != 0 {
			if ino == rootIno || r.b != 0 || r.xattrs != 0 {
				return at{ino, "dead, yet not empty"}
			}
			continue
		}
		if r.size < 0 || r.nsec > 999_999_999 || r.parent < 1 || int(r.parent) > i.Inodes {
			return at{ino, "bad size, time or parent"}
		}
		switch r.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if int(r.parent) >= ino && ino != rootIno {
				return at{ino, "folder before its parent"}
			}
			if uint64(r.a) != entries {
				return at{ino, "entries out of order"}
			}
			entries += uint64(r.b)
		case unix.S_IFREG:
			if r.b > 0 {
				if uint64(r.a)+uint64(r.b) > uint64(i.Chunks) {
					return at{ino, "chunks out of bounds"}
				}
				chunks += uint64(r.b)
			}
		case unix.S_IFLNK:
			if uint64(r.a)+uint64(r.b) > uint64(len(x.strings)) || r.b == 0 || r.b > maxTarget {
				return at{ino, "target out of bounds"}
			}
		case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
		default:
			return at{ino, "unknown type"}
		}
		if r.mode&^(unix.S_IFMT|0o7777) != 0 || ino == rootIno && r.mode&unix.S_IFMT != unix.S_IFDIR {
			return at{ino, "bad mode"}
		}
		if r.xattrs > 0 {
			if err := x.checkXattrs(r, xattrs); err != "" {
				return at{ino, err}
			}
			xattrs += uint64(r.xattrs)
		}
	}
	if entries != uint64(x.count(secEntries)) || xattrs != uint64(x.count(secXattrs)) || chunks != uint64(i.Chunks) {
		return at{i.Inodes, "tables are longer than what uses them"}
	}
	return nil
}

func (x *Index) checkXattrs(r inodeRec, first uint64) string {
	if uint64(r.xattr) != first || first+uint64(r.xattrs) > uint64(x.count(secXattrs)) || !x.info.Xattrs {
		return "extended attributes out of order"
	}
	prev := ""
	for i := range uint64(r.xattrs) {
		a := getXattr(x.xattrs[(first+i)*xattrSize:])
		end := uint64(a.off) + uint64(a.nameLen) + uint64(a.valueLen)
		if end > uint64(len(x.strings)) || a.nameLen == 0 || a.nameLen > maxXattrKey || a.valueLen > maxXattr {
			return "extended attribute out of bounds"
		}
		name := x.string(a.off, a.nameLen)
		if name <= prev || strings.IndexByte(name, 0) >= 0 {
			return "extended attributes not sorted"
		}
		prev = name
	}
	return ""
}

// checkEntries: names are sorted and good, and every inode that is not dead is
// named as often as it says.
func (x *Index) checkEntries() error {
	links := make([]uint32, x.info.Inodes)
	for n := range x.info.Inodes {
		dir := getInode(x.inodes[n*inodeSize:])
		if dir.mode&unix.S_IFMT != unix.S_IFDIR || dir.flags&flagDead != 0 {
			continue
		}
		prev := ""
		for i := int(dir.a); i < int(dir.a+dir.b); i++ {
			e := x.entry(i)
			if uint64(e.name)+uint64(e.nameLen) > uint64(len(x.strings)) || e.nameLen == 0 || e.nameLen > maxName {
				return at{i, "name out of bounds"}
			}
			name := x.string(e.name, e.nameLen)
			if name <= prev || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return at{i, "names not sorted, or bad"}
			}
			prev = name
			r, ok := x.inode(e.ino)
			if !ok || e.ino == rootIno || r.flags&flagDead != 0 {
				return at{i, "names no inode"}
			}
			if r.mode&unix.S_IFMT == unix.S_IFDIR && int(r.parent) != n+1 {
				return at{i, "folder names another parent"}
			}
			if int(r.entry) == i && int(r.parent) != n+1 {
				return at{i, "inode names another folder"}
			}
			links[e.ino-1]++
		}
	}
	return x.checkLinks(links)
}

func (x *Index) checkLinks(links []uint32) error {
	for n, have := range links {
		r, ino := getInode(x.inodes[n*inodeSize:]), n+1
		if ino == rootIno || r.flags&flagDead != 0 {
			continue
		}
		want := r.nlink
		if r.mode&unix.S_IFMT == unix.S_IFDIR {
			want = 1
		}
		if have != want || have == 0 {
			return at{ino, "has not as many names as it says"}
		}
		if int(r.entry) >= x.count(secEntries) || x.entry(int(r.entry)).ino != uint32(ino) {
			return at{ino, "its name is another's"}
		}
		if _, ok := x.isType(r.parent, unix.S_IFDIR); !ok {
			return at{ino, "its parent is no folder"}
		}
	}
	return nil
}

// checkChunks: each lies in its file, behind the one before it, and in a span.
func (x *Index) checkChunks() error {
	prev := chunk{}
	for i := range x.info.Chunks {
		c := x.chunk(i)
		r, ok := x.isType(c.ino, unix.S_IFREG)
		if !ok || uint64(i) < uint64(r.a) || uint64(i) >= uint64(r.a)+uint64(r.b) {
			return at{i, "not in the range of its file"}
		}
		if c.size == 0 || c.size > maxChunk || c.off < 0 || c.off > r.size-int64(c.size) {
			return at{i, "out of its file"}
		}
		if c.ino == prev.ino && c.off < prev.off+int64(prev.size) {
			return at{i, "overlaps in its file"}
		}
		if int(c.span) >= x.info.Spans || i > 0 && c.span < prev.span {
			return at{i, "not in the order of spans"}
		}
		s := x.span(int(c.span))
		if uint64(i) < uint64(s.first) || uint64(i) >= uint64(s.first)+uint64(s.chunks) {
			return at{i, "not in the range of its span"}
		}
		if c.inner < 0 || c.inner > s.outSize-int64(c.size) {
			return at{i, "out of its span"}
		}
		same := c.inner == prev.inner && c.size == prev.size // two files may share content
		if i > 0 && c.span == prev.span && c.inner < prev.inner+int64(prev.size) && !same {
			return at{i, "not in blob order"}
		}
		prev = c
	}
	return nil
}

// checkSpans: they lie in the blob, in its order, and hold all chunks.
func (x *Index) checkSpans() error {
	if len(x.locs)/windowSize != x.count(secWindows) {
		return at{0, "windows without digest"}
	}
	next, prev := uint64(0), span{}
	for i := range x.info.Spans {
		s := x.span(i)
		if s.off < prev.off || s.size <= 0 || s.off > x.info.BlobSize-s.size {
			return at{i, "out of the blob"}
		}
		if s.out < 0 || s.outSize < 0 || s.outSize > 1<<50 || s.bit > 7 || s.codec < codecRaw || s.codec > codecZstd {
			return at{i, "bad codec or size"}
		}
		if s.codec == codecRaw && s.outSize != s.size {
			return at{i, "raw, yet of another size"}
		}
		if s.window > uint32(x.count(secWindows)) || (s.window != 0 || s.bit != 0) && s.codec != codecBlock {
			return at{i, "bad window"}
		}
		if uint64(s.first) != next || s.chunks == 0 && x.info.Hashes() {
			return at{i, "chunks out of order"}
		}
		if !x.info.Hashes() {
			if err := x.checkWhole(s, prev, i); err != "" {
				return at{i, err}
			}
		}
		next += uint64(s.chunks)
		prev = s
	}
	if next != uint64(x.info.Chunks) {
		return at{x.info.Spans, "chunks without span"}
	}
	return x.checkWindows()
}

// checkWhole: a span that is checked as a whole follows the one before it, in blob
// and tar, is of a size to be held in memory, and its chunks have its digest.
func (x *Index) checkWhole(s, prev span, i int) string {
	begin := s.off
	if s.bit > 0 {
		begin++
	}
	if i > 0 && (begin != prev.off+prev.size || s.out != prev.out+prev.outSize) || i == 0 && (s.out != 0 || s.window != 0) {
		return "does not follow the one before it"
	}
	if s.size > maxSpanSize || s.outSize > maxSpanOut || s.codec != codecRaw && s.codec != codecBlock {
		return "cannot be checked as a whole"
	}
	for c := uint64(s.first); c < uint64(s.first)+uint64(s.chunks); c++ {
		if c >= uint64(x.info.Chunks) || x.chunk(int(c)).digest != x.chunk(int(s.first)).digest {
			return "has several digests"
		}
	}
	return ""
}

func (x *Index) checkWindows() error {
	end := x.tablesAt()
	for i := range len(x.locs) / windowSize {
		w := getWindowLoc(x.locs[i*windowSize:])
		if w.off < headerSize || w.off > end-int64(w.size) || w.raw > maxWindow || w.size > 2*maxWindow {
			return at{i, "window out of bounds"}
		}
	}
	return nil
}
