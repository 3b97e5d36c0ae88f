package fs

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// TestRefill brings the first chunk of a layer that cannot be read at random,
// while the others are in use.
func TestRefill(t *testing.T) {
	e := newEnv(t, nil)
	form := indextest.Zstd(big(40))
	l := e.layer(e.want(form))
	lost := l.index.Chunk(0)
	l.filled.mu.Lock()
	l.filled.bits[0] &^= 1
	l.filled.count--
	l.filled.mu.Unlock()
	if err := unix.Unlinkat(l.data, hex(lost.Ino), 0); err != nil {
		t.Fatal(err)
	}
	e.fs.files.forget(l.id)

	w := &chunkWriter{l: l}
	defer w.close()
	if err := (&verifier{l.index, w.fill}).WriteChunk(lost.Ino, lost.Off, make([]byte, lost.Len)); !errors.Is(err, index.ErrCorrupt) {
		t.Errorf("wrong bytes give %v", err)
	}
	blob, err := l.source()
	if err != nil {
		t.Fatal(err)
	}
	if err := blob.Discard(0, form.Size()); err != nil {
		t.Fatal(err)
	}
	e.registry.Fail(form.Digest, origintest.Fault{Corrupt: true})
	if err := l.ensureChunks(t.Context(), 0, 0, fetcher.OnDemand); err == nil || l.filled.has(0) {
		t.Errorf("a chunk of a wrong blob is taken: %v", err)
	}
	e.registry.Heal()
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, unpacked(t, form.Tar), l.tree, impliedPaths(l))
	if n := len(e.fs.files.m); n != 0 {
		t.Errorf("%d files of a complete layer are open for writing", n)
	}
}

// TestReadDirectWhole reads a layer that cannot be read at random on a full disk.
func TestReadDirectWhole(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.Zstd(big(41))))
	in, _ := l.walk("data/text")
	if err := l.readDirect(t.Context(), in.Ino, 0, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
}
