package fs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// cutOff is a sink that fails after a number of chunks.
type cutOff struct {
	to   index.Sink
	left int
}

var errCutOff = errors.New("cut off")

func (c *cutOff) WriteChunk(ino uint32, off int64, data []byte) error {
	if c.left--; c.left < 0 {
		return errCutOff
	}
	return c.to.WriteChunk(ino, off, data)
}

// TestChange: a layer that was unpacked in part is read by an index that comes
// then. Chunks that were written are used if they are right, the others are
// fetched.
func TestChange(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Gzip(big(31), indextest.GzipOptions{})
	made := e.indexOf(form)
	l := e.unmade(form)
	const part = 20 // chunks
	w := &chunkWriter{l: l}
	path := filepath.Join(l.dir, "index")
	if _, err := l.download(t.Context(), path, &cutOff{w, part}, 0); !errors.Is(err, errCutOff) {
		t.Fatal(err)
	}
	w.close()
	spoil(t, l)
	if err := l.change(made, path, indexes.Pack{Digest: digest.FromString("pack"), Size: 1}, w); err != nil {
		t.Fatal(err)
	}
	e.serve(l)
	if n, _ := l.filled.filled(); n != 0 || !l.filled.suspect(0) || !l.filled.suspect(part-1) || l.filled.suspect(part) {
		t.Errorf("%d chunks count unseen; suspects: first %v, last %v, one more %v", n, l.filled.suspect(0), l.filled.suspect(part-1), l.filled.suspect(part))
	}
	right := 0
	for c := range part {
		if l.intact(c) {
			right++
		}
	}
	if right == 0 || right == part {
		t.Errorf("%d of %d chunks are right: one was spoiled", right, part)
	}
	tree := unpacked(t, form.Tar)
	same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, tree, l.tree, impliedPaths(l))
	if s := l.status(); s.State != Complete || !s.Proven {
		t.Errorf("it ends as %s, proven: %v", s.State, s.Proven)
	}
}

// TestWindowsGone: where those who had the windows of a layer's index are gone, the
// layer is unpacked, and readers notice nothing.
func TestWindowsGone(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Gzip(big(31), indextest.GzipOptions{Level: gzip.BestSpeed})
	tree := unpacked(t, form.Tar)
	l := e.unmade(form)
	headOf(t, e.indexOf(form), filepath.Join(l.dir, "index"))
	fromCluster(l)
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	l.index.Lazy(l.rec.Pack.Size, func(int64, int64) ([]byte, error) { return nil, errors.New("nobody has it") })
	e.serve(l)
	same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
	if s := l.status(); s.State != Filled || s.Proven {
		t.Errorf("it is %s, proven: %v", s.State, s.Proven)
	}
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, tree, l.tree, impliedPaths(l))
}

// headOf puts an index without its windows at path.
func headOf(t *testing.T, made, path string) {
	t.Helper()
	x, err := index.Open(made)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }() // nothing was written
	var pack bytes.Buffer
	if _, err := x.Pack(&pack); err != nil {
		t.Fatal(err)
	}
	head, err := index.ParseHead(pack.Bytes(), int64(pack.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if err := index.Unpack(path, head, bytes.NewReader(pack.Bytes()[index.PackPrefix:][:head.Size])); err != nil {
		t.Fatal(err)
	}
}

// indexOf makes the index of a layer.
func (e *env) indexOf(form indextest.Layer) (path string) {
	e.t.Helper()
	path = filepath.Join(e.t.TempDir(), "made")
	o := index.Options{Blob: form.Digest, Size: form.Size(), DiffID: form.DiffID}
	if _, err := index.Build(e.t.Context(), path, bytes.NewReader(form.Blob), o); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// unmade is a layer of which there is nothing yet.
func (e *env) unmade(form indextest.Layer) *Layer {
	e.t.Helper()
	w := e.want(form)
	id, err := e.fs.slot()
	if err != nil {
		e.t.Fatal(err)
	}
	l := e.fs.newLayer(id)
	l.rec = record{Blob: w.Desc.Digest, Size: w.Desc.Size, DiffID: w.DiffID, Ref: w.Ref}
	if err := errors.Join(os.MkdirAll(l.dir, 0o700), l.openData()); err != nil {
		e.t.Fatal(err)
	}
	return l
}

// serve makes a layer that is open one that containers get.
func (e *env) serve(l *Layer) {
	e.t.Helper()
	if err := l.save(l.rec); err != nil {
		e.t.Fatal(err)
	}
	e.fs.add(l)
	if placed, err := e.fs.Place(e.t.Context(), l, nil); err != nil || placed != l {
		e.t.Fatal(placed, err)
	}
}

// spoil turns a byte of one backing file.
func spoil(t *testing.T, l *Layer) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.dir, "data", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("nothing was written", err)
	}
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
			b[0] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}
