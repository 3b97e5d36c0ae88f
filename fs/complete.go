package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// finalize turns a filled layer into an ordinary directory. Each step can be
// repeated: a tree that is not yet at l/N is begun anew, one that is there is
// whole, because everything in it was synced before the rename.
func (l *Layer) finalize(ctx context.Context) error {
	if !l.hold() {
		return errRemoved
	}
	defer l.release()
	l.finalizing.Lock()
	defer l.finalizing.Unlock()
	if l.complete.Load() {
		return nil
	}
	if _, err := os.Lstat(l.tree); err == nil {
		return l.finish() // it was cut off last time
	}
	if err := l.prove(ctx); err != nil {
		return err
	}
	staging := filepath.Join(l.dir, "tree")
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	if err := l.stage(staging); err != nil {
		return fmt.Errorf("complete layer %d: %w", l.id, err)
	}
	if err := syncFS(staging); err != nil {
		return fmt.Errorf("complete layer %d: sync: %w", l.id, err)
	}
	if err := os.Rename(staging, l.tree); err != nil {
		return fmt.Errorf("complete layer %d: %w", l.id, err)
	}
	return l.finish()
}

// finish switches the layer over to its tree. The other names of its files go
// first, so that new containers see the link counts of the tree; meanwhile
// openBacking finds the files there. Readers that hold one open go on with it:
// it is the same inode.
func (l *Layer) finish() error {
	if err := os.RemoveAll(filepath.Join(l.dir, "data")); err != nil {
		return err
	}
	l.complete.Store(true)
	l.fs.files.forget(l.id) // those open for writing: a program that is written to cannot be executed
	return l.letGo()
}

// letGo gives the blob back, all of which is in the layer's files.
func (l *Layer) letGo() error {
	l.mu.Lock()
	blob := l.blob
	l.blob = nil
	if blob != nil {
		l.stats = blob.Stats()
	}
	l.mu.Unlock()
	if blob == nil {
		return nil
	}
	return blob.Close()
}

// stage builds the tree at dir from the backing files.
func (l *Layer) stage(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	s := &stager{l: l, times: l.index, linked: map[uint32]string{}, top: fd}
	if x, err := index.Open(l.proof()); err == nil { // else the whole seconds of the TOC
		defer func() { _ = x.Close() }()
		s.times = x
	}
	return s.dir(fd, rootIno, "")
}

// stager makes a tree, each inode through its parent's descriptor.
type stager struct {
	l      *Layer
	times  *index.Index // of the same inodes
	top    int
	linked map[uint32]string // where an inode with several names has its first
}

// dir fills the directory open at fd and gives it its own attributes last.
func (s *stager) dir(fd int, ino uint32, path string) error {
	x := s.l.index
	for i := range x.Entries(ino) {
		if err := s.l.ctx.Err(); err != nil {
			return context.Cause(s.l.ctx)
		}
		name, child := x.Entry(ino, i)
		in, _ := x.Inode(child)
		at := path + name
		var err error
		if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			err = s.subdir(fd, name, child, at+"/")
		} else {
			err = s.leaf(fd, name, in, at)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", at, err)
		}
	}
	in, _ := x.Inode(ino)
	return s.attrs(fd, "", in)
}

func (s *stager) subdir(parent int, name string, ino uint32, path string) error {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return s.dir(fd, ino, path)
}

func (s *stager) leaf(parent int, name string, in index.Inode, path string) error {
	if first, ok := s.linked[in.Ino]; ok {
		return unix.Linkat(s.top, first, parent, name, 0)
	}
	if in.Nlink > 1 {
		s.linked[in.Ino] = path
	}
	var err error
	switch in.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		err = s.regular(parent, name, in)
	case syscall.S_IFLNK:
		err = unix.Symlinkat(s.l.index.Readlink(in.Ino), parent, name)
	default:
		err = unix.Mknodat(parent, name, in.Mode&^0o7777, int(in.Rdev))
	}
	if err != nil {
		return err
	}
	return s.attrs(parent, name, in)
}

// regular links a file's backing file into the tree, or makes an empty one.
func (s *stager) regular(parent int, name string, in index.Inode) error {
	err := unix.Linkat(s.l.data, strconv.FormatUint(uint64(in.Ino), 16), parent, name, 0)
	if !errors.Is(err, unix.ENOENT) || !s.l.hole(in.Ino, 0, in.Size) {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Ftruncate(fd, in.Size) // nothing of it is on disk: it is empty or a hole
}

// attrs gives name in the directory at fd, or that directory itself if name is
// empty, its owner, xattrs, mode and times, in this order as containerd does:
// chown clears suid, chmod changes an ACL, and everything sets times.
func (s *stager) attrs(fd int, name string, in index.Inode) error {
	a := s.l.nodeAttr(in)
	link := in.Mode&syscall.S_IFMT == syscall.S_IFLNK
	if err := unix.Fchownat(fd, name, int(a.uid), int(a.gid), unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	path := procPath(fd)
	if name != "" {
		path += "/" + name
	}
	for k, v := range s.l.xattrs(in) {
		set := unix.Lsetxattr
		if name == "" { // the path is itself a link of /proc
			set = unix.Setxattr
		}
		if err := set(path, k, v, 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", k, err)
		}
	}
	if !link {
		if err := unix.Chmod(path, a.mode&0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if t, ok := s.times.Inode(in.Ino); ok && !in.Implied {
		a.mtime, a.nsec = t.Mtime, t.MtimeNsec
	}
	ts := unix.Timespec{Sec: a.mtime, Nsec: int64(a.nsec)}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = 0
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, flags); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func isRegular(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFREG }

// prove makes sure that the layer is the diffID its image says. An index made
// here from the whole blob was seen to be; a tree from a TOC is compared, with
// its content, to what the blob unpacks to. One found wrong is refused.
func (l *Layer) prove(ctx context.Context) error {
	l.mu.Lock()
	proven := l.rec.Proven
	l.mu.Unlock()
	if proven {
		return nil
	}
	if !l.shareProof() {
		err := l.compare(ctx)
		if isLie(err) { // the image's, or a source's
			if err := l.verify(ctx); err != nil {
				return err
			}
			err = l.compare(ctx)
		}
		if isLie(err) {
			l.tell(err)
			return errors.Join(err, l.refuse(err))
		}
		if err != nil {
			return err
		}
	}
	return l.noteProven()
}

// noteProven writes down that the layer is the diffID its image says.
func (l *Layer) noteProven() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rec
	r.Proven = true
	if err := l.save(r); err != nil {
		return err
	}
	l.rec.Proven = true
	return nil
}

// tell lets the cluster know that an index it gave is false, and what runs on
// it here.
func (l *Layer) tell(reason error) {
	if l.rec.Pack != (indexes.Pack{}) {
		l.fs.indexes.False(l.rec.Blob, l.index.Info().ID, reason.Error(), l.fs.containersOf(l.id))
	}
}

var errDiffers = errors.New("the tar is not what the index says")

func isLie(err error) bool {
	return errors.Is(err, errDiffers) || errors.Is(err, index.ErrDigest) || errors.Is(err, index.ErrCorrupt) || errors.Is(err, index.ErrInvalid)
}

// verify makes sure that the blob is the right one; if not, it is forgotten.
func (l *Layer) verify(ctx context.Context) error {
	blob, err := l.source()
	if err != nil {
		return err
	}
	if err := blob.Verify(ctx, fetcher.Background); !errors.Is(err, fetcher.ErrFull) {
		return err
	}
	return nil
}

// proof is the index of the tar of a layer whose own index is of a TOC.
func (l *Layer) proof() string { return filepath.Join(l.dir, "proof") }

// shareProof takes over what was proven of a twin with the same index.
func (l *Layer) shareProof() bool {
	_ = os.Remove(l.proof()) // of a comparison that was cut off
	for _, t := range l.fs.twins(l) {
		if t.provenAs(l.index.Info().ID) && os.Link(t.proof(), l.proof()) == nil {
			return true
		}
	}
	return false
}

func (l *Layer) provenAs(id digest.Digest) bool {
	if !l.use.TryRLock() { // it is being removed; the caller holds a twin
		return false
	}
	defer l.release()
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.removed && l.rec.Proven && l.index.Info().ID == id
}

// noSpans as index.Options.Spacing: nothing will be read by this index.
const noSpans = 1 << 40

// compare unpacks the blob once more, against the backing files.
func (l *Layer) compare(ctx context.Context) (err error) {
	blob, err := l.source()
	if err != nil {
		return err
	}
	r, err := blob.Range(ctx, 0, l.rec.Size, fetcher.Background)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	c := &comparer{l: l}
	defer c.close()
	o := index.Options{Blob: l.rec.Blob, Size: l.rec.Size, DiffID: l.rec.DiffID, Sink: c, Spacing: l.proofSpacing()}
	if _, err = index.Build(ctx, l.proof(), r, o); err != nil {
		return err
	}
	x, err := index.Open(l.proof())
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	if err := index.Same(l.index, x); err != nil {
		return fmt.Errorf("%w: %w", errDiffers, err)
	}
	l.keepProof(l.proof())
	return nil
}
