package index

import (
	"archive/tar"
	"fmt"
	"hash/maphash"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
	rootIno        = 1
)

// tree is a layer's file system while the headers of its tar come in. It does
// what containerd's overlayfs snapshotter would do on disk, entry by entry and
// in the same order, because later entries act on what earlier ones made.
//
// Names live in one arena, entries in one slice with a hash table over it, so
// that a tree of some hundred thousand files is a few allocations.
type tree struct {
	lim    Limits
	nodes  []node // by inode number; nodes[0] is unused
	ents   []dirent
	slots  []uint32 // hash table over ents: position+1, 0 is free
	seed   maphash.Seed
	names  []byte
	xattrs map[uint32][]xattr
	intern map[string]string
	extra  int64 // bytes of xattrs, counted for the limit
	dirs   []dirTime
	parent struct { // the folder of the entry before: mostly the same
		path string
		ino  uint32
	}
}

// node is an inode. A folder's children are a list through its entries.
type node struct {
	mode, uid, gid, rdev uint32
	nlink                uint32 // of what is no folder: entries that name it
	child                uint32 // of a folder: its newest entry+1
	parent, entry        uint32 // set by finish
	nsec                 uint32
	target, targetLen    uint32 // of a symbolic link, in names
	mtime                int64
	size                 int64
	flags                uint16
}

// dirent names an inode in a folder. ino is 0 after removal; the entry is used
// again when the name comes again.
type dirent struct {
	dir, ino, next uint32 // next: older sibling+1
	name           uint32
	nameLen        uint8
}

type xattr struct{ name, value string }

// dirTime is a folder's header: containerd sets the times of folders at the
// end, by name.
type dirTime struct {
	name  string
	mtime int64
	nsec  uint32
}

func newTree(lim Limits) *tree {
	t := &tree{
		lim:    lim.withDefaults(),
		nodes:  make([]node, 2, 1024),
		slots:  make([]uint32, 1024),
		seed:   maphash.MakeSeed(),
		xattrs: map[uint32][]xattr{},
		intern: map[string]string{},
	}
	t.nodes[rootIno] = node{mode: unix.S_IFDIR | 0o755}
	t.parent.ino = rootIno
	return t
}

// expect makes room for n files.
func (t *tree) expect(n int) {
	const nameBytes = 24
	t.nodes, t.ents, t.names = slices.Grow(t.nodes, n), slices.Grow(t.ents, n), slices.Grow(t.names, n*nameBytes)
	for 2*len(t.slots) < 3*n {
		t.grow()
	}
}

// add does what unpacking the entry of header h does. It returns the inode
// whose content follows in the tar: 0 unless the entry is a regular file.
func (t *tree) add(h *tar.Header) (uint32, error) {
	ino, err := t.apply(h)
	if err != nil {
		return 0, fmt.Errorf("entry %q: %w", shorten(h.Name), err)
	}
	return ino, nil
}

func (t *tree) apply(h *tar.Header) (uint32, error) {
	name := h.Name
	if !clean(name) {
		name = path.Clean(name)
	}
	dirPath, base := path.Split(name)
	if base == ".." || base == "." || base == "" {
		return 0, nil // the root: its attributes come from the snapshotter
	}
	if len(base) > maxName {
		return 0, fmt.Errorf("name of %d bytes: %w", len(base), ErrInvalid)
	}
	dir, err := t.makeParent(dirPath)
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return 0, t.whiteout(dir, base, h)
	}
	e, ok := t.find(dir, base)
	merge := ok && h.Typeflag == tar.TypeDir && t.isDir(t.ents[e].ino)
	if ok && !merge {
		t.remove(e)
	}
	var ino uint32
	switch {
	case h.Typeflag == tar.TypeXGlobalHeader:
		return 0, nil // it names nothing, yet takes away what has its name
	case merge:
		ino = t.ents[e].ino
		t.nodes[ino].flags &^= flagImplied
	case h.Typeflag == tar.TypeLink:
		if ino, err = t.link(dir, base, h.Linkname); err != nil {
			return 0, err
		}
	default:
		if ino, err = t.create(dir, base, h); err != nil {
			return 0, err
		}
	}
	if err := t.setAttr(ino, h); err != nil {
		return 0, err
	}
	if h.Typeflag == tar.TypeDir {
		n := &t.nodes[ino]
		t.dirs = append(t.dirs, dirTime{strings.Clone(name), n.mtime, n.nsec})
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse {
		return ino, nil
	}
	return 0, nil
}

// create makes the inode of a header that is no hard link.
func (t *tree) create(dir uint32, name string, h *tar.Header) (uint32, error) {
	n := node{}
	switch h.Typeflag {
	case tar.TypeDir:
		n.mode = unix.S_IFDIR
	case tar.TypeReg, tar.TypeGNUSparse:
		n.mode, n.size = unix.S_IFREG, h.Size
	case tar.TypeSymlink:
		if l := len(h.Linkname); l == 0 || l > maxTarget {
			return 0, fmt.Errorf("link target of %d bytes: %w", l, ErrInvalid)
		}
		off, err := t.string(h.Linkname)
		if err != nil {
			return 0, err
		}
		n.mode, n.size = unix.S_IFLNK|0o777, int64(len(h.Linkname))
		n.target, n.targetLen = off, uint32(len(h.Linkname))
	case tar.TypeChar, tar.TypeBlock:
		n.mode = unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			n.mode = unix.S_IFBLK
		}
		n.rdev = uint32(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	case tar.TypeFifo:
		n.mode = unix.S_IFIFO
	default:
		return 0, fmt.Errorf("type %q cannot be unpacked: %w", h.Typeflag, ErrInvalid)
	}
	if n.size < 0 {
		return 0, fmt.Errorf("size %d: %w", n.size, ErrInvalid)
	}
	return t.newNode(dir, name, n)
}

// link makes dir/name another name of what target names.
func (t *tree) link(dir uint32, name, target string) (uint32, error) {
	e, ok, err := t.linkTarget(target)
	if err != nil {
		return 0, fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	if !ok {
		return 0, fmt.Errorf("hard link to %q, which is not in the layer before it: %w", shorten(target), ErrInvalid)
	}
	ino := uint32(rootIno)
	if e >= 0 {
		ino = t.ents[e].ino
	}
	if t.isDir(ino) {
		return 0, fmt.Errorf("hard link to the folder %q: %w", shorten(target), ErrInvalid)
	}
	t.nodes[ino].nlink++
	return ino, t.insert(dir, name, ino)
}

// whiteout handles the names that say what is hidden of the layers below.
func (t *tree) whiteout(dir uint32, base string, h *tar.Header) error {
	if base == whiteoutOpaque {
		return t.setXattr(dir, opaqueXattr, "y")
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of nothing: %w", ErrInvalid)
	}
	if _, ok := t.find(dir, name); ok {
		return fmt.Errorf("whiteout of what the same layer holds: %w", ErrInvalid)
	}
	n := node{mode: unix.S_IFCHR}
	setOwner(&n, h)
	_, err := t.newNode(dir, name, n)
	return err
}

// newNode numbers n and names it.
func (t *tree) newNode(dir uint32, name string, n node) (uint32, error) {
	if len(t.nodes) > t.lim.Inodes {
		return 0, fmt.Errorf("more than %d inodes: %w", t.lim.Inodes, ErrInvalid)
	}
	ino := uint32(len(t.nodes))
	n.nlink = 1
	t.nodes = append(t.nodes, n)
	return ino, t.insert(dir, name, ino)
}

// makeParent returns the folder that p leads to, symbolic links of this layer
// followed, and makes the folders that are missing.
func (t *tree) makeParent(p string) (uint32, error) {
	if p == t.parent.path {
		return t.parent.ino, nil
	}
	dir, ok, err := t.walk(p)
	if err != nil {
		return 0, err
	}
	if !ok { // a symbolic link on the way
		resolved, err := t.rootPath(p)
		if err != nil {
			return 0, err
		}
		if dir, _, err = t.walk(resolved); err != nil {
			return 0, err
		}
	}
	t.parent.path, t.parent.ino = strings.Clone(p), dir
	return dir, nil
}

// walk makes p folder by folder, without following symbolic links; ok is false
// where it meets one, and nothing was made then.
func (t *tree) walk(p string) (dir uint32, ok bool, err error) {
	if len(p) > maxPath {
		return 0, false, fmt.Errorf("path of %d bytes: %w", len(p), ErrInvalid)
	}
	dir = rootIno
	for name := range components(p) {
		e, found := t.find(dir, name)
		if found {
			dir = t.ents[e].ino
			if m := t.nodes[dir].mode & unix.S_IFMT; m == unix.S_IFLNK {
				return 0, false, nil
			} else if m != unix.S_IFDIR {
				return 0, false, fmt.Errorf("%q is no folder: %w", shorten(name), ErrInvalid)
			}
			continue
		}
		if len(name) > maxName {
			return 0, false, fmt.Errorf("name of %d bytes: %w", len(name), ErrInvalid)
		}
		n := node{mode: unix.S_IFDIR | 0o755, flags: flagImplied}
		if p := t.nodes[dir]; p.mode&unix.S_ISGID != 0 {
			n.gid = p.gid // what mkdir does
		}
		if dir, err = t.newNode(dir, name, n); err != nil {
			return 0, false, err
		}
	}
	return dir, true, nil
}

// clean reports whether path.Clean would leave p as it is. Where a name in p begins
// with a dot it may not say so.
func clean(p string) bool {
	before := byte('/')
	for i := range len(p) {
		c := p[i]
		if before == '/' && (c == '/' || c == '.') {
			return false
		}
		before = c
	}
	return before != '/'
}

// components yields the names in p; ".." is only ever at the front of a cleaned
// path, where it stays in the root.
func components(p string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(p, "/") {
			if name == "" || name == "." || name == ".." {
				continue
			}
			if !yield(name) {
				return
			}
		}
	}
}

func (t *tree) isDir(ino uint32) bool {
	return t.nodes[ino].mode&unix.S_IFMT == unix.S_IFDIR
}

// remove takes away an entry and, below a folder, everything.
func (t *tree) remove(e int) {
	t.parent.path, t.parent.ino = "", rootIno
	ino := t.ents[e].ino
	t.ents[e].ino = 0
	if !t.isDir(ino) {
		if t.nodes[ino].nlink--; t.nodes[ino].nlink == 0 {
			t.nodes[ino].flags |= flagDead
			delete(t.xattrs, ino)
		}
		return
	}
	t.nodes[ino].flags |= flagDead
	t.nodes[ino].nlink = 0
	delete(t.xattrs, ino)
	for c := t.nodes[ino].child; c != 0; c = t.ents[c-1].next {
		if t.ents[c-1].ino != 0 {
			t.remove(int(c - 1))
		}
	}
}

// shorten keeps names from outside readable in errors.
func shorten(s string) string {
	if len(s) > 300 {
		return s[:200] + "…" + s[len(s)-80:]
	}
	return s
}
