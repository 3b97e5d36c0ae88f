package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A Load is what parallel readers do: each reads random ranges of random
// files of one tree in random ways (pread, a run of reads, mmap) and compares
// them with the other tree, and now and then looks at attributes and folders.
type Load struct {
	Readers int
	Seed    uint64 // the same seed gives each reader the same sequence
	Rounds  int    // operations of each reader; 0: until ctx ends
}

// maxRead is the longest range read at once.
const maxRead = 512 << 10

// errDiffers ends all readers at the first wrong byte.
var errDiffers = errors.New("trees differ")

// Readers runs the load on tree b, with a as what is right. It returns the
// number of operations, and what was wrong first.
func Readers(ctx context.Context, a, b string, l Load) (ops int64, diff *Difference, err error) {
	files, dirs, err := list(a)
	if err != nil {
		return 0, nil, err
	}
	if len(files) == 0 {
		return 0, nil, fmt.Errorf("no file with content below %s", a)
	}
	var total atomic.Int64
	var first atomic.Pointer[Difference]
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	for i := range max(1, l.Readers) {
		r := &reader{a: a, b: b, files: files, dirs: dirs, rnd: rand.New(rand.NewPCG(l.Seed, uint64(i)))}
		r.bufA, r.bufB = make([]byte, maxRead), make([]byte, maxRead)
		g.Go(func() error {
			for n := 0; stop.Err() == nil && (l.Rounds == 0 || n < l.Rounds); n++ {
				d, err := r.step()
				total.Add(1)
				if d != nil {
					d.What += fmt.Sprintf(" (reader %d, step %d, seed %d)", i, n, l.Seed)
					first.CompareAndSwap(nil, d)
					err = errDiffers
				}
				if err != nil {
					cancel()
					return err
				}
			}
			return nil
		})
	}
	if err = g.Wait(); errors.Is(err, errDiffers) {
		err = nil
	}
	return total.Load(), first.Load(), err
}

// list returns the files with content, and the folders, of a tree.
func list(root string) (files []file, dirs []string, err error) {
	err = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if e.IsDir() {
			dirs = append(dirs, rel)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		i, err := e.Info()
		if err == nil && i.Size() > 0 {
			files = append(files, file{rel, i.Size()})
		}
		return err
	})
	return files, dirs, err
}

type file struct {
	path string
	size int64
}

type reader struct {
	a, b       string
	files      []file
	dirs       []string
	rnd        *rand.Rand
	bufA, bufB []byte
}

// step does one random operation. An error means that it could not tell.
func (r *reader) step() (*Difference, error) {
	if r.rnd.IntN(16) == 0 {
		return r.look(r.dirs[r.rnd.IntN(len(r.dirs))])
	}
	f := r.files[r.rnd.IntN(len(r.files))]
	fa, err := os.Open(filepath.Join(r.a, f.path))
	if err != nil {
		return nil, err
	}
	defer fa.Close()
	fb, err := os.Open(filepath.Join(r.b, f.path))
	if d := failure(f.path, "open", err); d != nil {
		return d, nil
	}
	defer fb.Close()
	off := r.rnd.Int64N(f.size)
	n := min(1+r.rnd.Int64N(1<<r.rnd.IntN(20)), f.size-off, maxRead)
	switch r.rnd.IntN(8) {
	case 0:
		return r.mapped(f, fa, fb)
	case 1: // a sequential run: what read-ahead is for
		for end := min(f.size, off+8*n); off < end; off += n {
			if d, err := r.pread(f, fa, fb, off, min(n, end-off)); d != nil || err != nil {
				return d, err
			}
		}
		return nil, nil
	default:
		return r.pread(f, fa, fb, off, n)
	}
}

func (r *reader) pread(f file, fa, fb *os.File, off, n int64) (*Difference, error) {
	if _, err := fa.ReadAt(r.bufA[:n], off); err != nil {
		return nil, err
	}
	if m, err := fb.ReadAt(r.bufB[:n], off); err != nil {
		return &Difference{f.path, fmt.Sprintf("read of %d at %d", n, off), "ok", fmt.Sprintf("%d bytes, %s", m, message(err))}, nil
	}
	return parted(f, off, r.bufA[:n], r.bufB[:n]), nil
}

func parted(f file, off int64, a, b []byte) *Difference {
	if bytes.Equal(a, b) {
		return nil
	}
	i := firstDifference(a, b)
	return &Difference{f.path, fmt.Sprintf("content at %d", off+i), fmt.Sprintf("%#02x", a[i]), fmt.Sprintf("%#02x", b[i])}
}

// mapped compares some pages of a file through page faults.
func (r *reader) mapped(f file, fa, fb *os.File) (diff *Difference, err error) {
	m, err := unix.Mmap(int(fb.Fd()), 0, int(f.size), unix.PROT_READ, unix.MAP_PRIVATE)
	if d := failure(f.path, "mmap", err); d != nil {
		return d, nil
	}
	defer func() { err = errors.Join(err, unix.Munmap(m)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			diff = &Difference{f.path, "page fault", "ok", fmt.Sprint(p)}
		}
	}()
	for range 4 {
		off := r.rnd.Int64N(f.size) &^ 4095
		n := min(4096, f.size-off)
		if _, err := fa.ReadAt(r.bufA[:n], off); err != nil {
			return nil, err
		}
		copy(r.bufB, m[off:off+n])
		if d := parted(f, off, r.bufA[:n], r.bufB[:n]); d != nil {
			return d, nil
		}
	}
	return nil, nil
}

// look compares the names in a folder and the attributes of what they name.
func (r *reader) look(dir string) (*Difference, error) {
	names, err := os.ReadDir(filepath.Join(r.a, dir))
	if err != nil {
		return nil, err
	}
	other, err := os.ReadDir(filepath.Join(r.b, dir))
	if err != nil || len(other) != len(names) {
		return &Difference{dir, "readdir", fmt.Sprint(len(names), " names"), fmt.Sprint(len(other), " names, ", message(err))}, nil
	}
	w := &walk{a: r.a, b: r.b, links: [2]map[inode]string{{}, {}}}
	for i, e := range names {
		p := filepath.Join(dir, e.Name())
		if other[i].Name() != e.Name() {
			return &Difference{p, "entry", "there", other[i].Name()}, nil
		}
		var a, b unix.Stat_t
		if err := lstat(filepath.Join(r.a, p), &a); err != nil {
			return nil, err
		}
		if d := failure(p, "stat", lstat(filepath.Join(r.b, p), &b)); d != nil {
			return d, nil
		}
		if e.IsDir() {
			a.Nlink = b.Nlink // see Options.IgnoreDirNlink
		}
		w.links = [2]map[inode]string{{}, {}}
		w.stat(p, &[2]unix.Stat_t{a, b})
		w.xattrs(p)
		if len(w.diffs) > 0 {
			return &w.diffs[0], nil
		}
	}
	return nil, nil
}

// failure is what b alone cannot do.
func failure(path, what string, err error) *Difference {
	if err == nil {
		return nil
	}
	return &Difference{path, what, "ok", message(err)}
}
