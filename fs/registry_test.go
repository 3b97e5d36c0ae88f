package fs

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// trusting lets the registry of the test be believed.
func trusting(c *Config) {
	c.Indexes.Start(c.Fetcher, indexes.Trust{Repos: func(origin.Repo) bool { return true }})
}

// beside puts the index that is at path beside an image, whose layer the result
// describes.
func (e *env) beside(form indextest.Layer, path string) Want {
	e.t.Helper()
	w := e.want(form)
	image := []byte(`{"schemaVersion":2}`)
	w.Manifest = e.registry.AddManifest(repo, ocispec.MediaTypeImageManifest, image)
	x, err := index.Open(path)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	var pack bytes.Buffer
	offer, err := indexes.Write(&pack, x)
	if err != nil {
		e.t.Fatal(err)
	}
	e.registry.AddBlob(repo, pack.Bytes())
	data, err := indexes.Artifact(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: w.Manifest, Size: int64(len(image))}, []p2p.Index{offer})
	if err != nil {
		e.t.Fatal(err)
	}
	d := e.registry.AddManifest(repo, ocispec.MediaTypeImageManifest, data)
	list, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: d, ArtifactType: indexes.ArtifactType}}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.registry.Tag(repo, origin.ReferrersTag(w.Manifest), e.registry.AddManifest(repo, ocispec.MediaTypeImageIndex, list))
	return w
}

// TestRegistryIndex: a gzip layer that nobody has seen is mounted by the index
// beside its image, read while little of it is here, also by the next process,
// and becomes the directory that its tar unpacks to.
func TestRegistryIndex(t *testing.T) {
	e := newEnv(t, trusting)
	form := indextest.Gzip(big(41), indextest.GzipOptions{})
	w := e.beside(form, e.indexOf(form))
	l := e.layer(w)
	if s := l.status(); s.State != Lazy || s.Proven || l.rec.Pack.From() != indexes.FromRegistry {
		t.Fatalf("it is %+v, from %+v", s, l.rec.Pack)
	}
	if sent := e.registry.Sent(form.Digest); sent != 0 {
		t.Errorf("%d bytes of the layer were sent before anybody read", sent)
	}
	e.close()
	e.open()
	var ok bool
	if l, ok = e.fs.Layer(l.ID()); !ok {
		t.Fatal("it is gone")
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

// TestRegistryLie: an index beside an image that shows another tree is found out
// when the layer is full. The layer is refused, and its next pull does not
// believe that index.
func TestRegistryLie(t *testing.T) {
	e := newEnv(t, trusting)
	form := indextest.Gzip(big(42), indextest.GzipOptions{})
	path := e.indexOf(form)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inodes := indextest.Table(file, indextest.Inodes)
	inodes[len(inodes)-64] ^= 0o22 // the mode of the last one
	if err := os.WriteFile(path, indextest.Reseal(file), 0o600); err != nil {
		t.Fatal(err)
	}
	w := e.beside(form, path)
	l := e.layer(w)
	if l.rec.Pack.From() != indexes.FromRegistry {
		t.Fatalf("it is from %+v", l.rec.Pack)
	}
	if err := l.hurry(); err == nil || !strings.Contains(err.Error(), "the tar is not what the index says") {
		t.Fatalf("a false tree became a directory: %v", err)
	}
	if err := l.usable(); err == nil {
		t.Error("new containers get it")
	}
	e.again(l, w, unpacked(t, form.Tar))
}

// again removes a layer and pulls it once more: what is found false, or needed no
// more, is not used.
func (e *env) again(l *Layer, w Want, tree string) {
	e.t.Helper()
	if err := e.fs.Remove(e.t.Context(), l.ID()); err != nil {
		e.t.Fatal(err)
	}
	l = e.layer(w)
	if l.rec.Pack != (indexes.Pack{}) || !l.rec.Proven {
		e.t.Errorf("pulled again it is from %+v, proven %v", l.rec.Pack, l.rec.Proven)
	}
	same(e.t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
}
