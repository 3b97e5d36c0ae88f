package fs

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// believing lets images of the test be believed about the indexes they name.
func believing(c *Config) { c.Indexes.Start(c.Fetcher, indexes.Trust{Images: true}) }

// soci puts a ztoc of a layer into the registry: beside its image, as the first
// version of SOCI does, or named by that, as the second.
func (e *env) soci(form indextest.Layer, ztoc []byte, version string) Want {
	e.t.Helper()
	w := e.want(form)
	put := func(typ string, v any) digest.Digest {
		data, err := json.Marshal(v)
		if err != nil {
			e.t.Fatal(err)
		}
		return e.registry.AddManifest(repo, typ, data)
	}
	e.registry.AddBlob(repo, ztoc)
	soci := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: version},
		Layers: []ocispec.Descriptor{{
			MediaType: "application/octet-stream", Digest: digest.FromBytes(ztoc), Size: int64(len(ztoc)),
			Annotations: map[string]string{"com.amazon.soci.image-layer-digest": form.Digest.String()},
		}},
	}
	image := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"layer": form.Digest.String()}}
	if version == indexes.SociV2 {
		image.Annotations["com.amazon.soci.index-digest"] = put(ocispec.MediaTypeImageManifest, soci).String()
		w.Manifest = put(ocispec.MediaTypeImageManifest, image)
		return w
	}
	w.Manifest = put(ocispec.MediaTypeImageManifest, image)
	soci.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: w.Manifest}
	list := ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: put(ocispec.MediaTypeImageManifest, soci), ArtifactType: version}}}
	e.registry.Tag(repo, origin.ReferrersTag(w.Manifest), put(ocispec.MediaTypeImageIndex, list))
	return w
}

// sociSpan is the size of a span in these tests, in bytes of the tar.
const sociSpan = 256 << 10

// TestSoci: a layer that nobody has seen is mounted by its ztoc, read while little
// of it is here, also by the next process, becomes the directory that its tar
// unpacks to, and has an index of its own from then on.
func TestSoci(t *testing.T) {
	tarball := big(61)
	for name, form := range map[string]indextest.Layer{
		"v1, gzip": indextest.Gzip(tarball, indextest.GzipOptions{}),
		"v2, gzip": indextest.Gzip(tarball, indextest.GzipOptions{Member: 700_000}),
		"v2, tar":  indextest.Uncompressed(tarball),
	} {
		t.Run(name, func(t *testing.T) {
			config, version := believing, indexes.SociV2
			if name == "v1, gzip" {
				config, version = trusting, indexes.SociV1
			}
			e := newEnv(t, config)
			w := e.soci(form, indextest.NewZtoc(form, sociSpan).Encode(), version)
			l := e.layer(w)
			if s := l.status(); s.State != Lazy || s.Proven || s.Kind != "soci" || l.rec.Pack.From() != indexes.FromSoci {
				t.Fatalf("it is %+v, from %+v", s, l.rec.Pack)
			}
			if sent := e.registry.Sent(form.Digest); sent != 0 {
				t.Errorf("%d bytes of the layer were sent before anybody read", sent)
			}
			tree := unpacked(t, form.Tar)
			e.sameFile(l, tree, "data/text")
			if sent := e.registry.Sent(form.Digest); sent > form.Size()*3/4 {
				t.Errorf("%d bytes of %d were sent for one file", sent, form.Size())
			}
			e.close()
			e.open()
			var ok bool
			if l, ok = e.fs.Layer(l.ID()); !ok {
				t.Fatal("it is gone")
			}
			same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
			if err := l.hurry(); err != nil {
				t.Fatal(err)
			}
			same(t, tree, l.tree, impliedPaths(l))
			if s := l.status(); s.State != Complete || !s.Proven {
				t.Errorf("it ends as %s, proven: %v", s.State, s.Proven)
			}
			e.again(l, w, tree)
			if _, err := os.Stat(indexes.Kept(filepath.Join(e.root, "index"), form.Digest)); err != nil {
				t.Errorf("no index of the layer is kept: %v", err)
			}
		})
	}
}

// sameFile compares one file of a layer, read through the mount.
func (e *env) sameFile(l *Layer, tree, name string) {
	e.t.Helper()
	want, err := os.ReadFile(filepath.Join(tree, name))
	if err != nil {
		e.t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), name))
	if err != nil || !bytes.Equal(got, want) {
		e.t.Errorf("%q: %d bytes, right: %v; %v", name, len(got), bytes.Equal(got, want), err)
	}
}

// TestSociCrash: what is on disk of such a layer after a crash is not taken for
// right, since nothing says whether it is.
func TestSociCrash(t *testing.T) {
	e := newEnv(t, believing)
	form := indextest.Gzip(big(62), indextest.GzipOptions{})
	l := e.layer(e.soci(form, indextest.NewZtoc(form, sociSpan).Encode(), indexes.SociV2))
	tree := unpacked(t, form.Tar)
	e.sameFile(l, tree, "data/text")
	ino, _ := l.walk("data/text")
	f, err := l.openBacking(ino.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	first, last, _ := l.index.Find(ino.Ino, 0, ino.Size)
	l.filled.mu.Lock()
	for c := first; c <= last; c++ { // as the next boot finds them
		l.filled.bits[c>>3] &^= 1 << (c & 7)
		l.filled.suspects[c>>3] |= 1 << (c & 7)
		l.filled.count--
	}
	l.filled.mu.Unlock()
	if err := l.ensure(t.Context(), ino.Ino, 0, ino.Size, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, ino.Size)
	if f, err = l.openBacking(ino.Ino, false); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(tree, "data/text"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("what a crash has damaged is still there; %v", err)
	}
}

// TestSociNotTrusted: ztocs of the first version are used only in repositories that
// are trusted, and those that an image names only where images are believed.
func TestSociNotTrusted(t *testing.T) {
	for version, trust := range map[string]indexes.Trust{
		indexes.SociV1: {Images: true, Repos: func(origin.Repo) bool { return false }},
		indexes.SociV2: {},
	} {
		e := newEnv(t, func(c *Config) { c.Indexes.Start(c.Fetcher, trust) })
		form := indextest.Gzip(big(63), indextest.GzipOptions{})
		l := e.layer(e.soci(form, indextest.NewZtoc(form, sociSpan).Encode(), version))
		if l.rec.Pack != (indexes.Pack{}) || !l.rec.Proven {
			t.Errorf("%s: from %+v, proven %v", version, l.rec.Pack, l.rec.Proven)
		}
	}
}

// TestSociLies: a false ztoc gives no wrong byte. What lies about the blob is found
// when it is read, and the layer is unpacked under its readers; what lies about the
// tree is refused at once or then.
func TestSociLies(t *testing.T) {
	form := indextest.Gzip(big(64), indextest.GzipOptions{})
	tree := unpacked(t, form.Tar)
	for name, lie := range map[string]struct {
		tell   func(z *indextest.Ztoc)
		mended bool // its tree is right
	}{
		"digest": {func(z *indextest.Ztoc) { z.Digests[1] = z.Digests[0] }, true},
		"window": {func(z *indextest.Ztoc) {
			for i := range z.Points {
				clear(z.Points[i].Window)
			}
		}, true},
		"bits":   {func(z *indextest.Ztoc) { z.Points[1].Bits = (z.Points[1].Bits + 1) & 7 }, true},
		"offset": {func(z *indextest.Ztoc) { e := z.EntryOf("data/text"); e.Offset, e.Size = e.Offset+512, e.Size-512 }, false},
		"mode":   {func(z *indextest.Ztoc) { z.EntryOf("data/text").Mode ^= 0o22 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, believing)
			z := indextest.NewZtoc(form, sociSpan)
			lie.tell(z)
			w := e.soci(form, z.Encode(), indexes.SociV2)
			l := e.layer(w)
			if l.rec.Pack.From() != indexes.FromSoci {
				t.Fatalf("it is from %+v", l.rec.Pack)
			}
			if lie.mended {
				e.sameFile(l, tree, "data/text")
				same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
				if err := l.hurry(); err != nil {
					t.Fatal(err)
				}
				same(t, tree, l.tree, impliedPaths(l))
				if s := l.status(); s.State != Complete || !s.Proven {
					t.Errorf("it ends as %+v", s)
				}
			} else {
				if b, err := os.ReadFile(filepath.Join(e.root, "m", l.name(), "data/text")); name == "offset" && err == nil {
					t.Errorf("%d bytes from another place were read", len(b))
				}
				if err := l.hurry(); err == nil {
					t.Error("a false tree became a directory")
				}
				if err := l.usable(); err == nil {
					t.Error("new containers get it")
				}
			}
			e.again(l, w, tree)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		e := newEnv(t, believing)
		data := indextest.NewZtoc(form, sociSpan).Encode()
		l := e.layer(e.soci(form, data[:len(data)*2/3], indexes.SociV2))
		if l.rec.Pack != (indexes.Pack{}) || !l.rec.Proven {
			t.Errorf("it is from %+v, proven %v", l.rec.Pack, l.rec.Proven)
		}
		same(t, tree, filepath.Join(e.root, "m", l.name()), impliedPaths(l))
	})
}
