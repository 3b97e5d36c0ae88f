package fs

import (
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// Program is what an image's config runs.
type Program struct {
	Name  string        // the first argument of its command; "" if it has none
	Path  string        // where a Name without a slash is looked for, as in $PATH
	Dir   string        // what any other relative Name is below
	Image digest.Digest // chain ID of the image's uppermost layer
}

const (
	maxStart    = 32 << 20 // bytes of files fetched for a start
	maxStartOne = 16 << 20 // … of one file
	maxScripts  = 4        // interpreters of interpreters
	maxLinked   = 256      // libraries
)

// Start fetches what a container of an image reads first, as far as it is known
// before any ran: the program of the image's config, the interpreter if that is
// a script, and the shared libraries that these are linked to; nothing if it is
// known from earlier starts what is read. It comes while
// containerd is still about to set the container up and the link idle. layers
// are the image's, lowest first. Start returns at once.
func (f *FS) Start(layers []*Layer, p Program) {
	if p.Name == "" || known(layers, p.Image) {
		return
	}
	f.fetchAhead(func() {
		s := &starter{image: layers, left: maxStart, seen: map[string]bool{}}
		s.program(p)
	})
}

// known reports whether what containers of the image read is known of all its
// layers: then it is fetched already, and nothing has to be guessed.
func known(layers []*Layer, image digest.Digest) bool {
	return !slices.ContainsFunc(layers, func(l *Layer) bool {
		knows := l.knows.Load()
		return l.rec.Size >= minLazy && !l.complete.Load() && (knows == nil || *knows != image)
	})
}

// starter fetches files of an image.
type starter struct {
	image image
	left  int64 // bytes it may still fetch
	seen  map[string]bool
}

func (s *starter) program(p Program) {
	names := []string{path.Join("/", p.Dir, p.Name)}
	switch {
	case path.IsAbs(p.Name):
		names = []string{p.Name}
	case !strings.Contains(p.Name, "/"):
		names = names[:0]
		for _, dir := range strings.Split(p.Path, ":") {
			names = append(names, path.Join("/", dir, p.Name))
		}
	}
	for range maxScripts {
		file := s.fetch(names)
		if file == nil {
			return
		}
		script := interpreter(file)
		if script == "" {
			s.libraries(file)
			return
		}
		names = []string{script}
	}
}

// interpreter returns the program of a script's first line, "" for none.
func interpreter(r io.ReaderAt) string {
	line := make([]byte, 256) // as long as Linux takes it
	n, _ := r.ReadAt(line, 0)
	text, ok := strings.CutPrefix(string(line[:n]), "#!")
	if !ok {
		return ""
	}
	text, _, _ = strings.Cut(text, "\n")
	name, _, _ := strings.Cut(strings.TrimLeft(text, " \t"), " ")
	return strings.TrimRight(name, "\t\r")
}

// libraries fetches the loader and the shared libraries of a program, and
// theirs.
func (s *starter) libraries(program io.ReaderAt) {
	todo := []io.ReaderAt{program}
	for len(todo) > 0 {
		linked, err := linkedTo(todo[0])
		todo = todo[1:]
		if err != nil {
			continue // no ELF file, or none that can be run: that is not for us to say
		}
		for _, name := range linked.names() {
			if s.seen[name] || len(s.seen) == maxLinked {
				continue
			}
			s.seen[name] = true
			if lib := s.fetch(places(name)); lib != nil {
				todo = append(todo, lib)
			}
		}
	}
}

// places returns where a dynamic loader looks for a library by default.
func places(name string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var all []string
	for _, dir := range []string{"/lib/" + multiarch, "/usr/lib/" + multiarch, "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"} {
		all = append(all, dir+"/"+name)
	}
	return all
}

// fetch brings the first of the named files that the image has, or its
// beginning if it is large. It returns nil if there is none.
func (s *starter) fetch(names []string) io.ReaderAt {
	for _, name := range names {
		l, in, ok := s.image.find(name)
		if !ok || in.Mode&syscall.S_IFMT != syscall.S_IFREG {
			continue
		}
		n := min(in.Size, maxStartOne, s.left)
		if s.left -= n; n == 0 {
			return nil
		}
		file := &lazyFile{l, in}
		if err := file.ensure(0, n); err != nil {
			return nil // a reader reports what matters
		}
		return file
	}
	return nil
}

// lazyFile is a file of a layer that may not be there yet.
type lazyFile struct {
	l  *Layer
	in index.Inode
}

func (c *lazyFile) ensure(off, n int64) error {
	if !c.l.hold() {
		return errRemoved
	}
	defer c.l.release()
	return c.l.ensure(c.l.ctx, c.in.Ino, off, n, fetcher.Prefetch)
}

// ReadAt implements io.ReaderAt.
func (c *lazyFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.in.Size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.in.Size-off)
	if err := c.ensure(off, n); err != nil {
		return 0, err
	}
	file, err := c.l.fs.files.get(c.l, c.in.Ino, false)
	if err != nil {
		return 0, err
	}
	defer file.put()
	got, err := file.ReadAt(p[:n], off)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return got, err
}

// image is the layers of an image, lowest first, looked at as overlayfs shows
// them.
type image []*Layer

// find follows name, symbolic links included.
func (m image) find(name string) (*Layer, index.Inode, bool) {
	at, links := "", 0 // at has no links in it
	rest := strings.Split(name, "/")
	var l *Layer
	var in index.Inode
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		next := path.Join(at, c)
		var ok bool
		if l, in, ok = m.at(next); !ok {
			return nil, in, false
		}
		if in.Mode&syscall.S_IFMT != syscall.S_IFLNK {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, in, false
		}
		to, ok := l.readlink(in.Ino)
		if !ok {
			return nil, in, false
		}
		if path.IsAbs(to) {
			at = ""
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return l, in, l != nil
}

func (l *Layer) readlink(ino uint32) (string, bool) {
	if !l.hold() {
		return "", false
	}
	defer l.release()
	return strings.Clone(l.index.Readlink(ino)), true
}

// at returns what is at a path without links.
func (m image) at(name string) (*Layer, index.Inode, bool) {
	for _, l := range slices.Backward(m) {
		in, found, hides := l.at(name)
		if found {
			return l, in, true
		}
		if hides {
			break
		}
	}
	return nil, index.Inode{}, false
}

// at looks for a path in the layer alone; hides says that it covers what the
// layers below have there.
func (l *Layer) at(name string) (in index.Inode, found, hides bool) {
	if !l.hold() {
		return in, false, false
	}
	defer l.release()
	dir := uint32(rootIno)
	in, _ = l.index.Inode(dir)
	for c := range strings.SplitSeq(name, "/") {
		if v, ok := l.index.Xattr(dir, opaque); ok && string(v) == "y" {
			hides = true
		}
		ino, ok := l.index.Lookup(dir, c)
		if !ok {
			return in, false, hides || !isDir(in)
		}
		in, _ = l.index.Inode(ino)
		if isWhiteout(in) {
			return in, false, true
		}
		dir = ino
	}
	return in, true, hides
}
