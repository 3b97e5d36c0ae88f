package index

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// writeTables writes all sections behind what is in the file.
func (w *writer) writeTables(h *header) error {
	l := layout{tree: w.tree, info: &h.info, ranges: make([]span32, len(w.tree.nodes))}
	if err := l.chunks(w.chunks); err != nil {
		return err
	}
	l.entries()
	l.sum()
	for _, s := range []struct {
		section int
		write   func(*tableWriter)
	}{
		{secInodes, l.writeInodes},
		{secEntries, l.writeEntries},
		{secStrings, l.writeStrings},
		{secXattrs, l.writeXattrs},
		{secChunks, func(t *tableWriter) { writeRecords(t, w.chunks, chunkSize, (*chunk).put) }},
		{secSpans, func(t *tableWriter) { writeRecords(t, w.spans, spanSize, (*span).put) }},
		{secWindows, func(t *tableWriter) { t.write(w.digests) }},
	} {
		var err error
		if h.tables[s.section], err = w.table(s.write); err != nil {
			return err
		}
	}
	var err error
	h.windows, err = w.table(func(t *tableWriter) { writeRecords(t, w.windows, windowSize, (*windowLoc).put) })
	return err
}

// table writes one section, at a multiple of 8.
func (w *writer) table(fill func(*tableWriter)) (table, error) {
	t := tableWriter{file: w.file, off: (w.end + 7) &^ 7, hash: sha256.New(), buf: w.buf}
	start := t.off
	fill(&t)
	t.flush()
	w.buf = t.buf
	if t.err != nil {
		return table{}, fmt.Errorf("write index: %w", t.err)
	}
	w.end = t.off
	return table{size: t.off - start, off: start, digest: [sha256.Size]byte(t.hash.Sum(nil))}, nil
}

// tableWriter writes records through a buffer; its first error stays.
type tableWriter struct {
	file *os.File
	off  int64
	hash hash.Hash
	buf  []byte
	err  error
}

// record returns n bytes to fill in before the next call.
func (t *tableWriter) record(n int) []byte {
	if len(t.buf)+n > cap(t.buf) {
		t.flush()
		t.buf = slices.Grow(t.buf, max(n, 1<<16))
	}
	t.buf = t.buf[:len(t.buf)+n]
	r := t.buf[len(t.buf)-n:]
	clear(r)
	return r
}

func (t *tableWriter) write(b []byte) {
	for len(b) > 0 {
		n := min(len(b), 1<<16)
		copy(t.record(n), b)
		b = b[n:]
	}
}

func (t *tableWriter) flush() {
	if t.err == nil {
		_, t.err = t.file.WriteAt(t.buf, t.off)
	}
	t.hash.Write(t.buf)
	t.off += int64(len(t.buf))
	t.buf = t.buf[:0]
}

func writeRecords[T any](t *tableWriter, records []T, size int, put func(*T, []byte)) {
	for i := range records {
		put(&records[i], t.record(size))
	}
}

// span32 is a range of a table.
type span32 struct{ first, count uint32 }

// layout arranges a finished tree.
type layout struct {
	tree     *tree
	info     *Info
	ranges   []span32 // by inode: chunks of a file, entries of a folder
	order    []uint32 // entries of the tree in the order of the table
	position []uint32 // the reverse
	links    []uint32 // by inode, of folders
}

// chunks gives each file its range of the chunk table.
func (l *layout) chunks(chunks []chunk) error {
	for i, c := range chunks {
		r := &l.ranges[c.ino]
		n := &l.tree.nodes[c.ino]
		end := int64(0)
		if r.count > 0 {
			prev := chunks[i-1]
			if prev.ino != c.ino {
				return fmt.Errorf("content of inode %d does not lie together: %w", c.ino, ErrInvalid)
			}
			end = prev.off + int64(prev.size)
		} else {
			r.first = uint32(i)
		}
		if c.off < end || n.mode&unix.S_IFMT != unix.S_IFREG || c.off > n.size-int64(c.size) {
			return fmt.Errorf("content of inode %d at %d is out of place: %w", c.ino, c.off, ErrInvalid)
		}
		r.count++
	}
	return nil
}

// entries sorts each folder.
func (l *layout) entries() {
	t := l.tree
	l.order = make([]uint32, 0, len(t.ents))
	l.position = make([]uint32, len(t.ents))
	l.links = make([]uint32, len(t.nodes))
	for ino := rootIno; ino < len(t.nodes); ino++ {
		n := &t.nodes[ino]
		if n.mode&unix.S_IFMT != unix.S_IFDIR || n.flags&flagDead != 0 {
			continue
		}
		first := len(l.order)
		l.links[ino] = 2
		for c := n.child; c != 0; c = t.ents[c-1].next {
			if child := t.ents[c-1].ino; child != 0 {
				l.order = append(l.order, c-1)
				if t.isDir(child) {
					l.links[ino]++
				}
			}
		}
		dir := l.order[first:]
		slices.SortFunc(dir, func(a, b uint32) int { return bytes.Compare(t.name(int(a)), t.name(int(b))) })
		l.ranges[ino] = span32{uint32(first), uint32(len(dir))}
	}
	for i, e := range l.order {
		l.position[e] = uint32(i)
	}
}

// sum counts the tree into info.
func (l *layout) sum() {
	for ino := rootIno; ino < len(l.tree.nodes); ino++ {
		n := &l.tree.nodes[ino]
		if n.flags&flagDead != 0 {
			continue
		}
		switch n.mode & unix.S_IFMT {
		case unix.S_IFREG:
			l.info.Bytes += n.size
			l.info.Usage += (n.size + 4095) &^ 4095
		case unix.S_IFDIR:
			l.info.Usage += 4096
		}
		l.info.Xattrs = l.info.Xattrs || len(l.tree.xattrs[uint32(ino)]) > 0
	}
}

func (l *layout) writeInodes(t *tableWriter) {
	xattrs := uint32(0)
	for ino := rootIno; ino < len(l.tree.nodes); ino++ {
		n := &l.tree.nodes[ino]
		r := inodeRec{
			mode: n.mode, uid: n.uid, gid: n.gid, nlink: n.nlink, rdev: n.rdev,
			parent: n.parent, mtime: n.mtime, nsec: n.nsec, flags: n.flags, size: n.size,
			xattrs: uint16(len(l.tree.xattrs[uint32(ino)])), xattr: xattrs,
			a: l.ranges[ino].first, b: l.ranges[ino].count,
		}
		xattrs += uint32(r.xattrs)
		if n.flags&flagDead != 0 { // nothing is kept but its number
			r = inodeRec{mode: n.mode, flags: flagDead}
			r.put(t.record(inodeSize))
			continue
		}
		if ino == rootIno {
			r.parent = rootIno
		} else {
			r.entry = l.position[n.entry]
		}
		switch n.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			r.nlink = l.links[ino]
		case unix.S_IFLNK:
			r.a, r.b = n.target, n.targetLen
		}
		r.put(t.record(inodeSize))
	}
}

func (l *layout) writeEntries(t *tableWriter) {
	for _, e := range l.order {
		d := &l.tree.ents[e]
		r := entryRec{name: d.name, ino: d.ino, nameLen: uint32(d.nameLen)}
		r.put(t.record(entrySize))
	}
}

// writeStrings writes the arena and behind it each extended attribute once.
func (l *layout) writeStrings(t *tableWriter) {
	t.write(l.tree.names)
	l.eachXattr(func(x xattr, _ uint32, fresh bool) {
		if fresh {
			t.write([]byte(x.name))
			t.write([]byte(x.value))
		}
	})
}

func (l *layout) writeXattrs(t *tableWriter) {
	l.eachXattr(func(x xattr, off uint32, _ bool) {
		r := xattrRec{off: off, nameLen: uint32(len(x.name)), valueLen: uint32(len(x.value))}
		r.put(t.record(xattrSize))
	})
}

// eachXattr yields the extended attributes in the table's order, with their
// offset in strings; fresh where no equal one came before.
func (l *layout) eachXattr(yield func(x xattr, off uint32, fresh bool)) {
	seen := map[xattr]uint32{}
	end := uint32(len(l.tree.names))
	for ino := rootIno; ino < len(l.tree.nodes) && len(l.tree.xattrs) > 0; ino++ {
		for _, x := range l.tree.xattrs[uint32(ino)] {
			off, ok := seen[x]
			if !ok {
				off = end
				seen[x] = off
				end += uint32(len(x.name) + len(x.value))
			}
			yield(x, off, !ok)
		}
	}
}
