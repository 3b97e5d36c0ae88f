package fs

import (
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// merged shows all layers of a chain as the one tree that overlayfs would make
// of them. Overlayfs asks every layer that has a folder for every name in it,
// mostly in vain, and each question to a FUSE mount costs what a hundred to a
// directory on disk do; here it asks once.
//
// Only folders are nodes of their own. A file's node is its layer's, so that
// images which share a layer share the page cache.
type merged struct {
	id     uint32
	layers []*Layer // uppermost first; the lowest is the chain's lowest

	mu     sync.Mutex
	stacks map[uint32][]place // of folders seen, as a memory: they follow from the layers
}

// place is a folder in one layer. A stack of places, uppermost first, is what a
// folder of the merged tree consists of.
type place struct {
	layer int // among merged.layers
	ino   uint32
}

// A folder is numbered by its uppermost place, which any process finds again.
const (
	placeBits = 25
	maxMerged = 1 << (32 - placeBits) // layers
	maxStacks = 8192
)

func (p place) number() uint32 { return uint32(p.layer)<<placeBits | p.ino }

func placeOf(number uint32) place {
	return place{int(number >> placeBits), number & (1<<placeBits - 1)}
}

// at returns the uppermost layer of the folder of that number, and the folder's
// inode there. It may be called on nil, and may find an inode that is no folder.
func (m *merged) at(number uint32) (l *Layer, ino uint32, ok bool) {
	p := placeOf(number)
	if m == nil || p.layer >= len(m.layers) {
		return nil, 0, false
	}
	return m.layers[p.layer], p.ino, true
}

func (m *merged) nodeID(p place) uint64 { return nodeID(m.id, p.number()) }

func (m *merged) index(p place) *index.Index { return m.layers[p.layer].index }

// mergeable reports whether the layers' folders can be numbered.
func mergeable(layers []*Layer) bool {
	return len(layers) > 1 && len(layers) <= maxMerged && !slices.ContainsFunc(layers, func(l *Layer) bool {
		return l.index.Info().Inodes >= 1<<placeBits
	})
}

// hold keeps the indexes of all layers mapped until release; it reports false
// if one has been removed.
func (m *merged) hold() bool {
	for i, l := range m.layers {
		if !l.hold() {
			releaseAll(m.layers[:i])
			return false
		}
	}
	return true
}

func (m *merged) release() { releaseAll(m.layers) }

func releaseAll(layers []*Layer) {
	for _, l := range layers {
		l.release()
	}
}

func (m *merged) hasXattrs() bool {
	return slices.ContainsFunc(m.layers, (*Layer).hasXattrs)
}

const opaque = "trusted.overlay.opaque"

func (m *merged) isOpaque(p place) bool {
	v, ok := m.index(p).Xattr(p.ino, opaque)
	return ok && string(v) == "y"
}

func isWhiteout(in index.Inode) bool {
	return in.Mode&syscall.S_IFMT == syscall.S_IFCHR && in.Rdev == 0
}

func isDir(in index.Inode) bool { return in.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// root is the stack of the tree's root.
func (m *merged) root() []place {
	var stack []place
	for i := range m.layers {
		p := place{i, rootIno}
		stack = append(stack, p)
		if m.isOpaque(p) {
			break
		}
	}
	return stack
}

// find returns what name is in a folder: nothing, one place that is no folder,
// or the stack of a folder.
func (m *merged) find(folder []place, name string) (stack []place, dir bool) {
	for _, p := range folder {
		ino, ok := m.index(p).Lookup(p.ino, name)
		if !ok {
			continue
		}
		here := place{p.layer, ino}
		in, _ := m.index(p).Inode(ino)
		switch {
		case isDir(in):
			stack = append(stack, here)
			if m.isOpaque(here) {
				return stack, true
			}
		case stack != nil: // hidden by a folder, and hides what is below
			return stack, true
		case isWhiteout(in):
			return nil, false
		default:
			return []place{here}, false
		}
	}
	return stack, stack != nil
}

// walk returns the stack of the folder at path.
func (m *merged) walk(path string) ([]place, bool) {
	stack := m.root()
	for name := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' }) {
		next, dir := m.find(stack, name)
		if !dir {
			return nil, false
		}
		stack = next
	}
	return stack, true
}

// stack returns what the folder of that number consists of; false if there is none.
func (m *merged) stack(number uint32) ([]place, bool) {
	m.mu.Lock()
	stack, ok := m.stacks[number]
	m.mu.Unlock()
	if ok {
		return stack, true
	}
	p := placeOf(number)
	if p.layer >= len(m.layers) {
		return nil, false
	}
	if stack, ok = m.walk(m.index(p).Path(p.ino)); !ok || stack[0] != p {
		return nil, false
	}
	m.keep(stack)
	return stack, true
}

func (m *merged) keep(stack []place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.stacks) >= maxStacks {
		clear(m.stacks)
	}
	m.stacks[stack[0].number()] = stack
}

// entry describes what find has found.
func (m *merged) entry(p place, dir bool, o *fuse.EntryOut) {
	in, _ := m.index(p).Inode(p.ino)
	m.layers[p.layer].entry(in, o)
	if dir {
		m.dirEntry(p, o)
	}
}

// dirEntry makes of a layer's folder one of the tree.
func (m *merged) dirEntry(p place, o *fuse.EntryOut) {
	o.NodeId = m.nodeID(p)
	mergedAttr(o.NodeId, &o.Attr)
}

// mergedAttr is what tells a merged folder's attributes from those of its
// uppermost place. The number of links is overlayfs's, which does not count.
func mergedAttr(id uint64, a *fuse.Attr) { a.Ino, a.Nlink = id, 1 }

func (m *merged) lookup(folder []place, name string, o *fuse.EntryOut) {
	found, dir := m.find(folder, name)
	if len(found) == 0 {
		o.NodeId, o.EntryValid = 0, forever
		return
	}
	if dir {
		m.keep(found)
	}
	m.entry(found[0], dir, o)
}

// parent returns the folder that a folder is in; the root's is itself.
func (m *merged) parent(p place) place {
	path := m.index(p).Path(p.ino)
	if stack, ok := m.walk(path[:max(strings.LastIndexByte(path, '/'), 0)]); ok {
		return stack[0]
	}
	return place{0, rootIno}
}

// cursor is how far a folder's listing has come in one of its places.
type cursor struct {
	place
	next int
	name string // of entry next
	ino  uint32 // of entry next; 0 at the end
}

func (m *merged) cursor(p place, next int) cursor {
	c := cursor{place: p, next: next}
	c.name, c.ino = m.index(p).Entry(p.ino, next)
	return c
}

// list yields the folder's entries in the order of names, from behind offset
// on, which is one that was yielded before or 0.
func (m *merged) list(folder []place, offset uint64, yield func(name string, p place, dir bool, offset uint64) bool) {
	cursors := m.seek(folder, offset)
	for {
		first := -1
		for i, c := range cursors {
			if c.ino != 0 && (first < 0 || c.name < cursors[first].name) {
				first = i
			}
		}
		if first < 0 {
			return
		}
		c := cursors[first]
		for i := range cursors {
			if cursors[i].ino != 0 && cursors[i].name == c.name {
				cursors[i] = m.cursor(cursors[i].place, cursors[i].next+1)
			}
		}
		in, _ := m.index(c.place).Inode(c.ino)
		if isWhiteout(in) {
			continue
		}
		if !yield(c.name, place{c.layer, c.ino}, isDir(in), uint64(first)<<32|uint64(c.next)+1) {
			return
		}
	}
}

// add is list for the kernel.
func (m *merged) add(folder []place, offset uint64, add addEntry) {
	var about fuse.EntryOut
	m.list(folder, offset, func(name string, p place, dir bool, offset uint64) bool {
		m.entry(p, dir, &about)
		return add(fuse.DirEntry{Name: name, Mode: about.Mode, Ino: about.Ino, Off: offset + dots}, &about)
	})
}

// seek returns cursors behind the entry that offset stands for: which of the
// folder's places has it, and its number there plus 1.
func (m *merged) seek(folder []place, offset uint64) []cursor {
	cursors := make([]cursor, len(folder))
	last := ""
	if i := int(offset >> 32); offset > 0 && i < len(folder) {
		last, _ = m.index(folder[i]).Entry(folder[i].ino, int(offset&(1<<32-1))-1)
	}
	for i, p := range folder {
		next := 0
		if last != "" {
			next = m.index(p).After(p.ino, last)
		}
		cursors[i] = m.cursor(p, next)
	}
	return cursors
}
