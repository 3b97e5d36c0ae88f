package compare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stat compares what stat(2) says, apart from what tells file systems, not
// files, apart: device and inode numbers, blocks, and a folder's size.
func (w *walk) stat(p string, s *[2]unix.Stat_t) {
	a, b := &s[0], &s[1]
	same := func(what string, x, y any) {
		if x != y {
			w.differ(p, what, x, y)
		}
	}
	same("mode", octal(a.Mode), octal(b.Mode))
	same("uid", a.Uid, b.Uid)
	same("gid", a.Gid, b.Gid)
	same("mtime", mtime(a), mtime(b))
	same("rdev", device(a.Rdev), device(b.Rdev))
	if a.Mode&unix.S_IFMT != unix.S_IFDIR {
		same("size", a.Size, b.Size)
		same("links", a.Nlink, b.Nlink)
		same("hard link to", w.first(0, p, a), w.first(1, p, b))
	} else if !w.o.IgnoreDirNlink {
		same("links", a.Nlink, b.Nlink)
	}
}

// first returns the first path at which the file of s was met in tree t.
func (w *walk) first(t int, p string, s *unix.Stat_t) string {
	if s.Nlink < 2 {
		return p
	}
	key := inode{s.Dev, s.Ino}
	if w.links[t][key] == "" {
		w.links[t][key] = p
	}
	return w.links[t][key]
}

func (w *walk) target(p string) {
	a, errA := os.Readlink(filepath.Join(w.a, p))
	b, errB := os.Readlink(filepath.Join(w.b, p))
	if a != b || message(errA) != message(errB) {
		w.differ(p, "target", fmt.Sprintf("%q %s", a, message(errA)), fmt.Sprintf("%q %s", b, message(errB)))
	}
}

func (w *walk) xattrs(p string) {
	pa, pb := filepath.Join(w.a, p), filepath.Join(w.b, p)
	a, errA := listXattrs(pa)
	b, errB := listXattrs(pb)
	if message(errA) != message(errB) {
		w.differ(p, "xattr list", message(errA), message(errB))
		return
	}
	for _, name := range union(a, b) {
		x, y := getXattr(pa, name), getXattr(pb, name)
		if !slices.Contains(a, name) {
			x = "not listed"
		}
		if !slices.Contains(b, name) {
			y = "not listed"
		}
		if x != y {
			w.differ(p, "xattr "+name, x, y)
		}
	}
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func listXattrs(p string) ([]string, error) {
	buf, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(p, b) })
	if errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	if err != nil || len(buf) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf), "\x00"), "\x00"), nil
}

func getXattr(p, name string) string {
	buf, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(p, name, b) })
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%q", buf)
}

// grow calls read with a buffer that is large enough.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		switch {
		case errors.Is(err, unix.EINTR):
			size /= 4
		case errors.Is(err, unix.ERANGE) && size < 1<<20:
		case err != nil:
			return nil, err
		default:
			return buf[:n], nil
		}
	}
}

type octal uint32

func (o octal) String() string { return fmt.Sprintf("%#o", uint32(o)) }

type device uint64

func (d device) String() string {
	return fmt.Sprintf("%d:%d", unix.Major(uint64(d)), unix.Minor(uint64(d)))
}

type moment unix.Timespec

func (m moment) String() string {
	return time.Unix(m.Sec, m.Nsec).UTC().Format(time.RFC3339Nano)
}

func mtime(s *unix.Stat_t) moment { return moment(s.Mtim) }

func typeName(mode uint32) string {
	names := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "folder", unix.S_IFLNK: "symbolic link", unix.S_IFCHR: "character device",
		unix.S_IFBLK: "block device", unix.S_IFIFO: "FIFO", unix.S_IFSOCK: "socket",
	}
	return names[mode&unix.S_IFMT]
}

// mode returns the type bits of a folder's entry.
func mode(e fs.DirEntry) uint32 {
	switch e.Type() {
	case 0:
		return unix.S_IFREG
	case fs.ModeDir:
		return unix.S_IFDIR
	case fs.ModeSymlink:
		return unix.S_IFLNK
	case fs.ModeNamedPipe:
		return unix.S_IFIFO
	case fs.ModeSocket:
		return unix.S_IFSOCK
	case fs.ModeDevice:
		return unix.S_IFBLK
	default:
		return unix.S_IFCHR
	}
}
