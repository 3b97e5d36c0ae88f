package fs

import (
	"container/list"
	"errors"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFiles bounds the backing files that are kept open between requests.
const maxFiles = 1024

type fileKey struct {
	layer, ino uint32
}

// file is an open backing file. It is closed when it has left the cache and
// its last user has put it back.
type file struct {
	*os.File
	cache *files
	key   fileKey
	refs  int // guarded by cache.mu; the cache itself holds one
	elem  *list.Element
	rw    bool
}

func (f *file) put() {
	f.cache.mu.Lock()
	f.refs--
	last := f.refs == 0
	f.cache.mu.Unlock()
	if last {
		_ = f.Close()
	}
}

// files caches open backing files, since OPEN and RELEASE never reach us.
type files struct {
	mu  sync.Mutex // guards everything below and refs of each file
	m   map[fileKey]*file
	lru list.List // front: used last
}

func newFiles() *files { return &files{m: map[fileKey]*file{}} }

// get returns the backing file of ino; the caller puts it back. For writing it
// is made if missing, at its full size so that holes read as zeros.
func (c *files) get(l *Layer, ino uint32, write bool) (*file, error) {
	key := fileKey{l.id, ino}
	c.mu.Lock()
	if f := c.m[key]; f != nil && (f.rw || !write) {
		f.refs++
		c.lru.MoveToFront(f.elem)
		c.mu.Unlock()
		return f, nil
	}
	c.mu.Unlock()
	opened, err := l.openBacking(ino, write)
	if err != nil {
		return nil, err
	}
	return c.add(&file{File: opened, cache: c, key: key, refs: 2, rw: write}), nil
}

// add puts f into the cache, in place of one opened meanwhile.
func (c *files) add(f *file) *file {
	c.mu.Lock()
	var old []*file
	if o := c.m[f.key]; o != nil {
		old = append(old, c.drop(o)...)
	}
	c.m[f.key] = f
	f.elem = c.lru.PushFront(f)
	for c.lru.Len() > maxFiles {
		old = append(old, c.drop(c.lru.Back().Value.(*file))...)
	}
	c.mu.Unlock()
	for _, o := range old {
		_ = o.Close()
	}
	return f
}

// drop takes f out of the cache and returns it if nobody uses it.
func (c *files) drop(f *file) []*file {
	delete(c.m, f.key)
	c.lru.Remove(f.elem)
	if f.refs--; f.refs == 0 {
		return []*file{f}
	}
	return nil
}

// forget drops the files of a layer, or of all layers if layer is 0.
func (c *files) forget(layer uint32) {
	c.mu.Lock()
	var old []*file
	for k, f := range c.m {
		if k.layer == layer || layer == 0 {
			old = append(old, c.drop(f)...)
		}
	}
	c.mu.Unlock()
	for _, f := range old {
		_ = f.Close()
	}
}

// openBacking opens the file that holds the content of ino: below data while
// the layer fills, in the tree once it is complete.
func (l *Layer) openBacking(ino uint32, write bool) (*os.File, error) {
	if l.complete.Load() {
		return openBeneath(l.tree, l.index.Path(ino))
	}
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if write {
		flags = unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
	}
	name := strconv.FormatUint(uint64(ino), 16)
	fd, err := unix.Openat(l.data, name, flags, 0o600)
	if err != nil {
		if errors.Is(err, unix.ENOENT) && l.index != nil { // perhaps completed between the two looks
			if f, err := openBeneath(l.tree, l.index.Path(ino)); err == nil {
				return f, nil
			}
		}
		return nil, &os.PathError{Op: "open", Path: l.dir + "/data/" + name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if write {
		if l.index != nil { // nil while it is being built; extendHoles follows
			in, _ := l.index.Inode(ino)
			err = extend(f, in.Size)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func extend(f *os.File, size int64) error {
	fi, err := f.Stat()
	if err != nil || fi.Size() == size {
		return err
	}
	return f.Truncate(size)
}

// openBeneath opens path in the tree at root and nowhere else.
func openBeneath(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root + "/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
