package fs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// implied is what a folder that its layer's tar only implies looks like in one
// chain: as the same folder of the layers below.
type implied struct {
	Ino       uint32            `json:"ino"`
	Mode      uint32            `json:"mode"`
	UID       uint32            `json:"uid"`
	GID       uint32            `json:"gid"`
	Mtime     int64             `json:"mtime"`
	MtimeNsec uint32            `json:"mtimeNsec"`
	Xattrs    map[string][]byte `json:"xattrs,omitempty"`
}

func byInode(list []implied) *map[uint32]implied {
	m := make(map[uint32]implied, len(list))
	for _, i := range list {
		m[i.Ino] = i
	}
	return &m
}

// implication returns what the chain makes of a folder that is only implied.
func (l *Layer) implication(in index.Inode) (implied, bool) {
	if !in.Implied {
		return implied{}, false
	}
	i, ok := (*l.placed.Load())[in.Ino]
	return i, ok
}

// Below is one layer of a chain, or a directory in place of one that was
// unpacked by somebody else. Exactly one field is set.
type Below struct {
	Layer *Layer
	Dir   string
}

// Place settles the folders that l only implies, by the layers below it (lowest
// first). containerd gives such a folder owner, mode, times and xattrs of the
// same folder below, so one layer serves two chains only where they agree;
// otherwise Place returns another layer of the same content.
func (f *FS) Place(_ context.Context, l *Layer, below []Below) (*Layer, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	f.touch()
	f.placing.Lock()
	defer f.placing.Unlock()
	if !l.hold() {
		return nil, errRemoved
	}
	defer l.release()
	want := l.implied(below)
	if l.placeAs(want) {
		return l, l.settle(want)
	}
	for _, o := range f.twins(l) {
		if o.usable() == nil && o.placeAs(want) {
			return o, o.settle(want)
		}
	}
	return f.clone(l, want)
}

// placeAs reports whether the layer is, or can still be made, what want says.
func (l *Layer) placeAs(want []implied) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.rec.Placed || len(want) == len(l.rec.Implied) && (len(want) == 0 || reflect.DeepEqual(want, l.rec.Implied))
}

// settle writes down what placeAs has allowed.
func (l *Layer) settle(want []implied) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rec.Placed {
		return nil
	}
	r := l.rec
	r.Implied, r.Placed = want, true
	if err := l.save(r); err != nil {
		return err
	}
	l.placed.Store(byInode(want))
	l.rec.Implied, l.rec.Placed = want, true
	l.fs.wake()
	return nil
}

// twins returns the other layers of l's blob, placed otherwise.
func (f *FS) twins(l *Layer) []*Layer {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var ls []*Layer
	for _, o := range f.layers {
		if o != l && o.rec.Blob == l.rec.Blob && o.rec.DiffID == l.rec.DiffID {
			ls = append(ls, o)
		}
	}
	return ls
}

// adopt copies chunk c from a twin, which is cheaper than to fetch it, and
// reports whether there is one that has it.
func (l *Layer) adopt(c int) bool {
	if !l.index.Info().Hashes() {
		return false // nobody could tell whether it is the same
	}
	for _, t := range l.fs.twins(l) {
		if data, ok := t.lend(l.index.Chunk(c)); ok {
			w := &chunkWriter{l: l}
			defer w.close()
			return w.fill(c, data) == nil // a full disk shows again when it is fetched
		}
	}
	return false
}

// lend returns the bytes of chunk ch of a twin, if they are here and right. It
// does not wait for a removal: the caller holds the twin.
func (l *Layer) lend(ch index.Chunk) ([]byte, bool) {
	if !l.use.TryRLock() {
		return nil, false
	}
	defer l.release()
	if l.removed || !l.ready(ch.Ino, ch.Off, ch.Len) {
		return nil, false
	}
	f, err := l.fs.files.get(l, ch.Ino, false)
	if err != nil {
		return nil, false
	}
	defer f.put()
	data := make([]byte, ch.Len)
	if _, err := f.ReadAt(data, ch.Off); err != nil {
		return nil, false
	}
	return data, sha256.Sum256(data) == ch.Digest
}

// clone makes another layer of l's blob, which fills itself, from l where that
// has the content.
func (f *FS) clone(l *Layer, want []implied) (*Layer, error) {
	id, err := f.slot()
	if err != nil {
		return nil, err
	}
	c := f.newLayer(id)
	c.untouched.Store(true)
	l.mu.Lock()
	c.rec = l.rec
	l.mu.Unlock()
	c.rec.Implied, c.rec.Placed = want, true
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	err = os.Link(filepath.Join(l.dir, "index"), filepath.Join(c.dir, "index"))
	if err == nil {
		err = c.open()
	}
	if err == nil {
		err = c.save(c.rec)
	}
	if err != nil {
		return nil, errors.Join(err, c.close(false), os.RemoveAll(c.dir))
	}
	f.add(c)
	return c, nil
}

// implied returns what each folder without an entry of its own is to look like.
func (l *Layer) implied(below []Below) []implied {
	var list []implied
	for ino, path := range l.index.Implied() {
		in, _ := l.index.Inode(ino)
		i := implied{Ino: ino, Mode: in.Mode, UID: in.UID, GID: in.GID, Mtime: in.Mtime, MtimeNsec: in.MtimeNsec}
		for _, b := range slices.Backward(below) {
			if found := b.fill(path, &i); found {
				break
			}
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b implied) int { return cmp.Compare(a.Ino, b.Ino) })
	return list
}

// fill gives i the attributes of the folder at path in this layer. It reports
// whether there is something at path; a file there hides the layers below it.
func (b Below) fill(path string, i *implied) bool {
	if b.Layer == nil {
		return fillFromDir(b.Dir, path, i)
	}
	l := b.Layer
	if !l.hold() {
		return false
	}
	defer l.release()
	in, ok := l.walk(path)
	if !ok {
		return false
	}
	if in.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return true
	}
	ino := i.Ino
	*i = implied{Ino: ino, Mode: in.Mode, UID: in.UID, GID: in.GID, Mtime: in.Mtime, MtimeNsec: in.MtimeNsec}
	if o, ok := l.implication(in); ok {
		*i = o
		i.Ino = ino
		i.Xattrs = maps.Clone(o.Xattrs)
	}
	for k, v := range l.index.Xattrs(in.Ino) {
		i.addXattr(k, v)
	}
	return true
}

// addXattr copies an xattr from a layer below, unless it speaks of that layer
// only.
func (i *implied) addXattr(name string, value []byte) {
	if strings.HasPrefix(name, "trusted.") {
		return
	}
	if i.Xattrs == nil {
		i.Xattrs = map[string][]byte{}
	}
	i.Xattrs[strings.Clone(name)] = bytes.Clone(value) // both are of a mapping that may go before i
}

const maxLinks = 40 // as the kernel's

// walk finds path in the layer alone, following symbolic links inside it.
func (l *Layer) walk(path string) (index.Inode, bool) {
	dir, links := uint32(rootIno), 0
	rest := strings.Split(path, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			in, _ := l.index.Inode(dir)
			dir = max(in.Parent, rootIno)
			continue
		}
		ino, ok := l.index.Lookup(dir, name)
		if !ok {
			return index.Inode{}, false
		}
		in, _ := l.index.Inode(ino)
		switch in.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			if links++; links > maxLinks {
				return index.Inode{}, false
			}
			to := l.index.Readlink(ino)
			if strings.HasPrefix(to, "/") {
				dir = rootIno
			}
			rest = append(strings.Split(to, "/"), rest...)
		case syscall.S_IFDIR:
			dir = ino
		default:
			return in, len(rest) == 0
		}
	}
	return l.index.Inode(dir)
}

// fillFromDir is fill for a layer that somebody else unpacked.
func fillFromDir(root, path string, i *implied) bool {
	d, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(d) }()
	fd, err := unix.Openat2(d, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return true
	}
	*i = implied{Ino: i.Ino, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec)}
	for name, value := range fdXattrs(fd) {
		i.addXattr(name, value)
	}
	return true
}

// fdXattrs yields the xattrs of an O_PATH descriptor.
func fdXattrs(fd int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		path := procPath(fd)
		names := make([]byte, 64<<10)
		n, err := unix.Listxattr(path, names)
		if err != nil {
			return
		}
		for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
			v := make([]byte, 64<<10)
			n, err := unix.Getxattr(path, name, v)
			if name == "" || err != nil {
				continue
			}
			if !yield(name, v[:n]) {
				return
			}
		}
	}
}

// xattrs yields all xattrs of a node, those of an implied folder included.
func (l *Layer) xattrs(in index.Inode) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for k, v := range l.index.Xattrs(in.Ino) {
			if !yield(k, v) {
				return
			}
		}
		i, _ := l.implication(in)
		for _, k := range slices.Sorted(maps.Keys(i.Xattrs)) {
			if !yield(k, i.Xattrs[k]) {
				return
			}
		}
	}
}

// hasXattrs reports whether the layer must be served from the session m.
func (l *Layer) hasXattrs() bool {
	if l.index.Info().Xattrs {
		return true
	}
	for _, o := range *l.placed.Load() {
		if len(o.Xattrs) > 0 {
			return true
		}
	}
	return false
}
