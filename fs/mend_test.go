package fs

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

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
