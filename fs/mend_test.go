package fs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// forgedLayer is a layer of which something in the table of contents is a lie,
// and that is the diffID its image says.
func forgedLayer(t *testing.T, seed uint64, lie func(e *estargz.TOCEntry)) indextest.Layer {
	t.Helper()
	form := indextest.Forge(indextest.EStargz(big(seed), indextest.EStargzOptions{}), func(toc *estargz.JTOC) {
		for _, e := range toc.Entries {
			lie(e)
		}
	})
	z, err := gzip.NewReader(bytes.NewReader(form.Blob))
	if err != nil {
		t.Fatal(err)
	}
	if form.Tar, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	form.DiffID = digest.FromBytes(form.Tar)
	return form
}

// fromCluster makes it another host that said how the layer is to be read.
func fromCluster(l *Layer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rec.Pack = indexes.Pack{Digest: digest.FromString("pack"), Size: 1}
}

// TestMend: where another host's index is false about content, the layer is
// unpacked, and readers notice nothing.
func TestMend(t *testing.T) {
	e := newEnv(t, nil)
	form := forgedLayer(t, 11, func(e *estargz.TOCEntry) {
		if e.Name == "data/text" {
			e.ChunkDigest = digest.FromString("a lie").String()
		}
	})
	l := e.layer(e.want(form))
	fromCluster(l)
	tree := unpacked(t, form.Tar)
	want, err := os.ReadFile(filepath.Join(tree, "data/text"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), "data/text"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, right: %v; %v", len(got), bytes.Equal(got, want), err)
	}
	if s := l.status(); s.State != Filled || !s.Proven {
		t.Errorf("a mended layer is %s, proven: %v", s.State, s.Proven)
	}
	same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	same(t, tree, l.tree, impliedPaths(l))
}

// TestLyingIndex: an index of another host that names a wrong digest, place or
// checkpoint, and in which nothing else is wrong, gives no wrong byte: the layer
// is unpacked.
func TestLyingIndex(t *testing.T) {
	e := newEnv(t, nil)
	seed := uint64(15)
	for name, lie := range map[string]func(file []byte){
		"digest of a chunk": func(file []byte) { inText(file, indextest.Chunks, 64)[32] ^= 1 },
		"place in a span":   func(file []byte) { inText(file, indextest.Chunks, 64)[16] ^= 1 },
		"place of a span":   func(file []byte) { inText(file, indextest.Spans, 48)[0] ^= 1 },
		"bit of a span":     func(file []byte) { s := inText(file, indextest.Spans, 48); s[45] = (s[45] + 1) % 8 },
		"window":            func(file []byte) { inText(file, indextest.Windows, 32)[0] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			seed++ // layers of one blob would give each other chunks
			form := indextest.Gzip(big(seed), indextest.GzipOptions{Level: gzip.BestSpeed})
			tree := unpacked(t, form.Tar)
			file, err := os.ReadFile(e.indexOf(form))
			if err != nil {
				t.Fatal(err)
			}
			lie(file)
			l := e.unmade(form)
			if err := os.WriteFile(filepath.Join(l.dir, "index"), indextest.Reseal(file), 0o600); err != nil {
				t.Fatal(err)
			}
			fromCluster(l)
			if err := l.open(); errors.Is(err, index.ErrCorrupt) {
				return // such an index is not taken
			} else if err != nil {
				t.Fatal(err)
			}
			e.serve(l)
			backwards(t, filepath.Join(e.root, "m", l.name(), "data/text"))
			same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
			if s := l.status(); s.State != Filled || !s.Proven {
				t.Errorf("it is %s, proven: %v: nobody has noticed the lie", s.State, s.Proven)
			}
		})
	}
}

// backwards reads a file from its end, so that each span of it is begun at its
// own checkpoint. Who reads forwards passes many spans from the first of them.
func backwards(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		t.Fatal(err)
	}
	for off := s.Size() - 4096; off >= 0; off -= 16 << 10 {
		if _, err := f.ReadAt(make([]byte, 4096), off); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
}

// inText returns a record of a table that is about data/text, which fills the
// last part of the layer: of what cannot be compressed, a span is a copy, whose
// window does not matter.
func inText(file []byte, section, size int) []byte {
	table := indextest.Table(file, section)
	return table[len(table)/size*3/4*size:][:size]
}

// TestFalseTree: where it is false about the tree as well, nothing helps, and no
// new container gets it.
func TestFalseTree(t *testing.T) {
	e := newEnv(t, nil)
	form := forgedLayer(t, 12, func(e *estargz.TOCEntry) {
		if e.Name == "data/text" {
			e.ChunkDigest = digest.FromString("a lie").String()
		}
		if e.Name == "data/random" {
			e.Mode ^= 0o111
		}
	})
	l := e.layer(e.want(form))
	fromCluster(l)
	if _, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), "data/text")); err == nil {
		t.Error("bytes that nobody vouches for were read")
	}
	if err := l.usable(); err == nil || !strings.Contains(err.Error(), "data/random") {
		t.Errorf("the error does not name what is false: %v", err)
	}
}

// TestQuarantine: an index that another host has found false is taken from no
// running container, and given to no new one.
func TestQuarantine(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.EStargz(big(13), indextest.EStargzOptions{})))
	own := e.layer(e.want(indextest.EStargz(big(14), indextest.EStargzOptions{})))
	fromCluster(l)
	e.fs.NameContainers(func(slot uint32) []string { return []string{"default/web"} })
	e.fs.quarantine(l.index.Info().ID, "another tree")
	e.fs.quarantine(own.index.Info().ID, "another tree")
	if err := l.usable(); err == nil || !strings.Contains(err.Error(), "another tree") {
		t.Errorf("it may still be used: %v", err)
	}
	if err := own.usable(); err != nil {
		t.Errorf("a layer that nobody else has vouched for is refused: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), "data/text")); err != nil || len(b) != 6<<20 {
		t.Errorf("a container that has it already reads %d bytes: %v", len(b), err)
	}
}
