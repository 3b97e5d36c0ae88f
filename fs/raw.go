package fs

import (
	"context"
	"errors"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// forever is how long the kernel may keep what it was told of a layer, in
// seconds: layers never change, and a removed one is notified away.
const forever = 86400

const rootIno = 1 // of the session and, within its slot, of each layer

func nodeID(slot, ino uint32) uint64 { return uint64(slot)<<32 | uint64(ino) }

func splitNode(id uint64) (slot, ino uint32) { return uint32(id >> 32), uint32(id) }

// raw answers the kernel. It keeps no state: node IDs name slot and inode,
// offsets in directories are positions in the index.
type raw struct {
	fuse.RawFileSystem // ENOSYS for what is not defined here
	fs                 *FS
	xattrs             bool // false in the session n
}

func newRaw(f *FS, xattrs bool) *raw {
	return &raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: f, xattrs: xattrs}
}

// node finds and holds the layer of a node, of a merged folder the uppermost
// that has it; the caller releases it.
func (r *raw) node(id uint64) (*Layer, index.Inode, fuse.Status) {
	slot, ino := splitNode(id)
	l, ok := r.fs.Layer(slot)
	if !ok {
		l, ino, ok = r.fs.merged(slot).at(ino)
	}
	if !ok || !l.hold() {
		return nil, index.Inode{}, fuse.Status(syscall.ESTALE)
	}
	in, ok := l.index.Inode(ino)
	if !ok {
		l.release()
		return nil, index.Inode{}, fuse.Status(syscall.ESTALE)
	}
	return l, in, fuse.OK
}

// rootAttr is the session's own directory. The kernel is not to keep it.
func (r *raw) rootAttr(a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink = rootIno, syscall.S_IFDIR|0o755, 2
}

// nodeAttr is what the layer's chain makes of an inode's attributes.
type nodeAttr struct {
	mode, uid, gid uint32
	mtime          int64
	nsec           uint32
}

func (l *Layer) nodeAttr(in index.Inode) nodeAttr {
	if o, ok := l.implication(in); ok {
		return nodeAttr{o.Mode, o.UID, o.GID, o.Mtime, o.MtimeNsec}
	}
	return nodeAttr{in.Mode, in.UID, in.GID, in.Mtime, in.MtimeNsec}
}

func (l *Layer) attr(in index.Inode, a *fuse.Attr) {
	n := l.nodeAttr(in)
	a.Ino = nodeID(l.id, in.Ino)
	a.Mode, a.Nlink, a.Rdev = n.mode, in.Nlink, in.Rdev
	a.Size, a.Blocks, a.Blksize = uint64(in.Size), uint64(in.Size+511)/512, 4096
	a.Owner = fuse.Owner{Uid: n.uid, Gid: n.gid}
	a.Mtime, a.Atime, a.Ctime = uint64(n.mtime), uint64(n.mtime), uint64(n.mtime)
	a.Mtimensec, a.Atimensec, a.Ctimensec = n.nsec, n.nsec, n.nsec
}

func (l *Layer) entry(in index.Inode, o *fuse.EntryOut) {
	o.NodeId = nodeID(l.id, in.Ino)
	o.EntryValid, o.AttrValid = forever, forever
	l.attr(in, &o.Attr)
}

// Lookup finds a name in a directory, or a slot in the session's root.
func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, o *fuse.EntryOut) fuse.Status {
	if h.NodeId == rootIno {
		return r.lookupSlot(name, o)
	}
	if m, folder := r.folder(h.NodeId); m != nil {
		defer m.release()
		m.lookup(folder, name, o)
		return fuse.OK
	}
	l, in, st := r.node(h.NodeId)
	if !st.Ok() {
		return st
	}
	defer l.release()
	ino, ok := l.index.Lookup(in.Ino, name)
	if !ok {
		o.NodeId, o.EntryValid = 0, forever
		return fuse.OK
	}
	child, _ := l.index.Inode(ino)
	l.entry(child, o)
	return fuse.OK
}

func (r *raw) lookupSlot(name string, o *fuse.EntryOut) fuse.Status {
	slot, err := strconv.ParseUint(name, 10, 32)
	if err != nil || strconv.FormatUint(slot, 10) != name {
		return fuse.ENOENT
	}
	l, in, st := r.node(nodeID(uint32(slot), rootIno))
	if !st.Ok() {
		return fuse.ENOENT
	}
	defer l.release()
	l.entry(in, o)
	if m := r.fs.merged(uint32(slot)); m != nil {
		m.dirEntry(place{0, rootIno}, o)
	}
	o.EntryValid = 0
	return fuse.OK
}

// folder finds and holds the merged folder of a node; nil if it is none, or is
// gone. The caller releases it.
func (r *raw) folder(id uint64) (*merged, []place) {
	slot, number := splitNode(id)
	m := r.fs.merged(slot)
	if m == nil || !m.hold() {
		return nil, nil
	}
	stack, ok := m.stack(number)
	if !ok {
		m.release()
		return nil, nil
	}
	return m, stack
}

// Forget needs nothing: there is no state to drop.
func (r *raw) Forget(uint64, uint64) {}

// GetAttr answers stat.
func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, o *fuse.AttrOut) fuse.Status {
	if in.NodeId == rootIno {
		r.rootAttr(&o.Attr)
		return fuse.OK
	}
	l, node, st := r.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer l.release()
	l.attr(node, &o.Attr)
	if o.Ino != in.NodeId {
		mergedAttr(in.NodeId, &o.Attr)
	}
	o.AttrValid = forever
	return fuse.OK
}

// Readlink returns a symbolic link's target.
func (r *raw) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	l, in, st := r.node(h.NodeId)
	if !st.Ok() {
		return nil, st
	}
	defer l.release()
	return []byte(l.index.Readlink(in.Ino)), fuse.OK
}

// Open is answered ENOSYS, so that the kernel opens files by itself from then
// on; likewise OpenDir and Flush.
func (r *raw) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// OpenDir: see Open.
func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush: see Open.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Access never comes with default_permissions; only ENOSYS would say more than
// about this one call.
func (r *raw) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// StatFs describes the file system that holds the layers.
func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, o *fuse.StatfsOut) fuse.Status {
	var s syscall.Statfs_t
	if err := syscall.Statfs(r.fs.root, &s); err != nil {
		return fuse.ToStatus(err)
	}
	o.FromStatfsT(&s)
	return fuse.OK
}

// xattr returns the value of an extended attribute.
func (l *Layer) xattr(in index.Inode, name string) ([]byte, bool) {
	if v, ok := l.index.Xattr(in.Ino, name); ok {
		return v, true
	}
	if o, ok := l.implication(in); ok {
		v, ok := o.Xattrs[name]
		return v, ok
	}
	return nil, false
}

// GetXAttr answers with an attribute's value or, if dest is too small, its size.
func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !r.xattrs {
		return 0, fuse.ENOSYS
	}
	if h.NodeId == rootIno {
		return 0, fuse.ENOATTR
	}
	l, in, st := r.node(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	defer l.release()
	v, ok := l.xattr(in, name)
	if slot, _ := splitNode(h.NodeId); !ok || name == opaque && slot != l.id { // a merged folder hides nothing
		return 0, fuse.ENOATTR
	}
	return fit(dest, v)
}

// ListXAttr answers with the names of all attributes.
func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if !r.xattrs {
		return 0, fuse.ENOSYS
	}
	if h.NodeId == rootIno {
		return 0, fuse.OK
	}
	l, in, st := r.node(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	defer l.release()
	var names []byte
	slot, _ := splitNode(h.NodeId)
	for name := range l.xattrs(in) {
		if name == opaque && slot != l.id {
			continue
		}
		names = append(append(names, name...), 0)
	}
	return fit(dest, names)
}

func fit(dest, v []byte) (uint32, fuse.Status) {
	if len(dest) < len(v) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

// ReadDir lists a directory; offset 0 and 1 are "." and "..".
func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(in, func(e fuse.DirEntry, _ *fuse.EntryOut) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus lists a directory with its entries' attributes.
func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(in, func(e fuse.DirEntry, about *fuse.EntryOut) bool {
		o := out.AddDirLookupEntry(e)
		if o == nil {
			return false
		}
		if about != nil {
			*o = *about
		}
		return true
	})
}

// addEntry is given an entry of a directory, and what LOOKUP would answer: nil
// for "." and "..", whose node the kernel does not want. It reports false if it
// has no room.
type addEntry func(e fuse.DirEntry, about *fuse.EntryOut) bool

// list calls add for each entry from in.Offset on until it has no room.
func (r *raw) list(in *fuse.ReadIn, add addEntry) fuse.Status {
	if in.NodeId == rootIno {
		return fuse.OK // nobody needs the list of slots
	}
	if m, folder := r.folder(in.NodeId); m != nil {
		defer m.release()
		if in.Offset >= dots || addDots(in, m.nodeID(m.parent(folder[0])), add) {
			m.add(folder, max(in.Offset, dots)-dots, add)
		}
		return fuse.OK
	}
	l, dir, st := r.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer l.release()
	if !addDots(in, nodeID(l.id, dir.Parent), add) {
		return fuse.OK
	}
	var about fuse.EntryOut
	for i := int(max(in.Offset, dots) - dots); i < l.index.Entries(dir.Ino); i++ {
		name, ino := l.index.Entry(dir.Ino, i)
		node, _ := l.index.Inode(ino)
		l.entry(node, &about)
		if !add(fuse.DirEntry{Name: name, Mode: node.Mode, Ino: about.Ino, Off: uint64(i) + 1 + dots}, &about) {
			break
		}
	}
	return fuse.OK
}

const dots = 2 // entries before those of the index

// addDots lists "." and "..", as far as in.Offset wants them.
func addDots(in *fuse.ReadIn, parent uint64, add addEntry) bool {
	list := [dots]fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: in.NodeId, Off: 1},
		{Name: "..", Mode: syscall.S_IFDIR, Ino: parent, Off: 2},
	}
	for off := in.Offset; off < dots; off++ {
		if !add(list[off], nil) {
			return false
		}
	}
	return true
}

// Read answers with a file's bytes, from its backing file by splice.
func (r *raw) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	l, node, st := r.node(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	defer l.release()
	off := int64(in.Offset)
	n := min(int64(len(buf)), node.Size-off)
	if n <= 0 {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return r.fs.read(cancel, in.Pid, l, node, off, buf[:n])
}

func (f *FS) read(cancel <-chan struct{}, pid uint32, l *Layer, node index.Inode, off int64, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := int64(len(buf))
	l.readAhead(node, off, n)
	if off == 0 {
		l.walkOn(node.Ino)
	}
	var waited time.Duration
	if !l.ready(node.Ino, off, n) {
		ctx, stop := killable(l.ctx, cancel, pid)
		defer stop()
		start := time.Now()
		err := l.ensure(ctx, node.Ino, off, n, fetcher.OnDemand)
		if isFull(err) {
			clear(buf)
			if err = l.readDirect(ctx, node.Ino, off, buf); err == nil {
				return fuse.ReadResultData(buf), fuse.OK
			}
		}
		waited = time.Since(start)
		f.metrics.onDemand.Observe(waited.Seconds())
		if err != nil {
			return nil, l.readError(ctx, node, off, err)
		}
	}
	l.noteRead(node.Ino, off, n, waited)
	file, err := f.files.get(l, node.Ino, false)
	if errors.Is(err, unix.ENOENT) && l.hole(node.Ino, off, n) { // nothing of it was written yet, or ever is
		clear(buf)
		return fuse.ReadResultData(buf), fuse.OK
	}
	if err != nil {
		return nil, l.readError(f.ctx, node, off, err)
	}
	return &fileResult{file: file, off: off, n: int(n)}, fuse.OK
}

// hole reports whether a range of a file has no content but zeros.
func (l *Layer) hole(ino uint32, off, n int64) bool {
	_, _, ok := l.index.Find(ino, off, n)
	return !ok
}

// ready reports whether the bytes are on disk already.
func (l *Layer) ready(ino uint32, off, n int64) bool {
	if l.complete.Load() {
		return true
	}
	first, last, ok := l.index.Find(ino, off, n)
	return !ok || l.filled.hasAll(first, last)
}

func (l *Layer) readError(ctx context.Context, node index.Inode, off int64, err error) fuse.Status {
	if errors.Is(context.Cause(ctx), errKilled) {
		return fuse.EINTR // its caller is being killed
	}
	l.log().Error("read", "path", l.index.Path(node.Ino), "off", off, "err", err)
	return fuse.EIO
}

// fileResult is a reply that go-fuse splices from a backing file, which stays
// open until the reply has been sent.
type fileResult struct {
	file *file
	off  int64
	n    int
}

// Seekable lets go-fuse splice.
func (r *fileResult) Seekable() (fd uintptr, off int64, sz int) {
	return r.file.Fd(), r.off, r.n
}

// Bytes is for when it cannot.
func (r *fileResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, err := unix.Pread(int(r.file.Fd()), buf[:min(len(buf), r.n)], r.off)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return buf[:n], fuse.OK
}

// Size is the length of the reply.
func (r *fileResult) Size() int { return r.n }

// Done puts the file back.
func (r *fileResult) Done() { r.file.put() }
