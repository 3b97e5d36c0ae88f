package index

import (
	"bytes"
	"fmt"
)

// Same reports, as an error that names the first difference, whether two
// indexes hold the same tree: inodes with the same numbers and attributes,
// names, link targets and extended attributes. One of them may come from a
// table of contents, in which times have whole seconds: a second's difference
// is none if that one's time has no fraction. Where content lies is not compared.
func Same(toc, tar *Index) error {
	if a, b := toc.info.Inodes, tar.info.Inodes; a != b {
		return fmt.Errorf("%d inodes, and %d", a, b)
	}
	for ino := uint32(rootIno); int(ino) <= toc.info.Inodes; ino++ {
		if err := sameInode(toc, tar, ino); err != nil {
			return fmt.Errorf("inode %d, %q: %w", ino, tar.Path(ino), err)
		}
	}
	return nil
}

func sameInode(x, y *Index, ino uint32) error {
	a, _ := x.Inode(ino)
	b, _ := y.Inode(ino)
	if a.Dead && b.Dead {
		return nil
	}
	if a.MtimeNsec == 0 && (a.Mtime == b.Mtime || a.Mtime == b.Mtime+1 && b.MtimeNsec > 0) {
		a.Mtime, a.MtimeNsec = b.Mtime, b.MtimeNsec
	}
	if a != b {
		return fmt.Errorf("%+v, and %+v", a, b)
	}
	if s, t := x.Readlink(ino), y.Readlink(ino); s != t {
		return fmt.Errorf("link to %q, and %q", s, t)
	}
	if m, n := x.Entries(ino), y.Entries(ino); m != n {
		return fmt.Errorf("%d entries, and %d", m, n)
	}
	for i := range x.Entries(ino) {
		s, c := x.Entry(ino, i)
		t, d := y.Entry(ino, i)
		if s != t || c != d {
			return fmt.Errorf("entry %d is %q with inode %d, and %q with %d", i, s, c, t, d)
		}
	}
	ra, _ := x.inode(ino)
	rb, _ := y.inode(ino)
	if ra.xattrs != rb.xattrs {
		return fmt.Errorf("%d extended attributes, and %d", ra.xattrs, rb.xattrs)
	}
	for name, value := range x.Xattrs(ino) {
		if other, ok := y.Xattr(ino, name); !ok || !bytes.Equal(value, other) {
			return fmt.Errorf("extended attribute %q is %q, and %q", name, shorten(string(value)), shorten(string(other)))
		}
	}
	return nil
}
