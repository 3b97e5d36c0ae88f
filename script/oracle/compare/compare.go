// Package compare tells whether two directory trees are the same to a program:
// the differential oracle between overlayfs and a lazy mount.
package compare

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options say what to compare. The zero value compares everything.
type Options struct {
	// IgnoreDirNlink leaves out link counts of folders. Overlayfs reports 1
	// for merged folders and the lower file system's count for others, so
	// the count says how a folder came about, not what is in it.
	IgnoreDirNlink bool
	Workers        int // that read files; 0: 2
}

// A Difference is one thing that two trees do not agree on.
type Difference struct {
	Path string // slash separated, "." for the root
	What string // what differs: "mode", "xattr user.x", "content", …
	A, B string
}

func (d Difference) String() string { return fmt.Sprintf("%s: %s: %s, %s", d.Path, d.What, d.A, d.B) }

// Stats count what was compared.
type Stats struct {
	Entries, Files int
	Bytes          int64 // of file content, in one tree
}

// Trees walks the trees a and b and returns what differs, in path order. An
// error means that a tree could not be read where the other one could not
// either; what only one tree fails to give is a difference.
func Trees(ctx context.Context, a, b string, o Options) ([]Difference, Stats, error) {
	w := &walk{a: a, b: b, o: o, links: [2]map[inode]string{{}, {}}}
	g, ctx := errgroup.WithContext(ctx)
	files := make(chan string, 1024)
	for range cmp.Or(o.Workers, 2) {
		g.Go(func() error {
			buf := newBuffers()
			for p := range files {
				w.content(p, buf)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(files)
		return w.entry(ctx, ".", files)
	})
	err := g.Wait()
	slices.SortStableFunc(w.diffs, func(x, y Difference) int {
		return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.What, y.What))
	})
	return w.diffs, w.stats, err
}

type inode struct{ dev, ino uint64 }

type walk struct {
	a, b  string
	o     Options
	links [2]map[inode]string // first path of each file with several links

	mu    sync.Mutex // guards the rest
	diffs []Difference
	stats Stats
}

func (w *walk) differ(path, what string, a, b any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.diffs = append(w.diffs, Difference{path, what, fmt.Sprint(a), fmt.Sprint(b)})
}

// entry compares what p names in both trees, and all below it.
func (w *walk) entry(ctx context.Context, p string, files chan<- string) error {
	var s [2]unix.Stat_t
	errA, errB := lstat(filepath.Join(w.a, p), &s[0]), lstat(filepath.Join(w.b, p), &s[1])
	if errA != nil || errB != nil {
		if message(errA) == message(errB) {
			return fmt.Errorf("compare %s: %w", p, errA)
		}
		w.differ(p, "stat", message(errA), message(errB))
		return nil
	}
	w.mu.Lock()
	w.stats.Entries++
	w.mu.Unlock()
	if typ := s[0].Mode & unix.S_IFMT; typ != s[1].Mode&unix.S_IFMT {
		w.differ(p, "type", typeName(s[0].Mode), typeName(s[1].Mode))
		return nil
	}
	w.stat(p, &s)
	w.xattrs(p)
	switch s[0].Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		w.target(p)
	case unix.S_IFDIR:
		return w.dir(ctx, p, files)
	case unix.S_IFREG:
		select {
		case files <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// dir compares the names in folder p and then what they name.
func (w *walk) dir(ctx context.Context, p string, files chan<- string) error {
	a, errA := os.ReadDir(filepath.Join(w.a, p))
	b, errB := os.ReadDir(filepath.Join(w.b, p))
	if errA != nil || errB != nil {
		if message(errA) == message(errB) {
			return fmt.Errorf("compare %s: %w", p, errA)
		}
		w.differ(p, "readdir", message(errA), message(errB))
		return nil
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Name() < b[0].Name():
			w.differ(filepath.Join(p, a[0].Name()), "entry", typeName(mode(a[0])), "missing")
			a = a[1:]
		case len(a) == 0 || b[0].Name() < a[0].Name():
			w.differ(filepath.Join(p, b[0].Name()), "entry", "missing", typeName(mode(b[0])))
			b = b[1:]
		default:
			child := filepath.Join(p, a[0].Name())
			if a[0].Type() != b[0].Type() {
				w.differ(child, "type in readdir", a[0].Type(), b[0].Type())
			}
			if err := w.entry(ctx, child, files); err != nil {
				return err
			}
			a, b = a[1:], b[1:]
		}
	}
	return nil
}

func lstat(p string, s *unix.Stat_t) error {
	for {
		if err := unix.Lstat(p, s); err != unix.EINTR {
			return err
		}
	}
}

// message is an error without the path, which is another one in each tree.
func message(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := err.(*os.PathError); ok { //nolint:errorlint // only the outermost error has the path
		return e.Err.Error()
	}
	return err.Error()
}
