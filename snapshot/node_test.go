package snapshot_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// node is a containerd of which the content store, the metadata, the unpacker,
// the garbage collector and the socket to the snapshotter are real.
type node struct {
	t      *testing.T
	root   string
	layers *fakeLayers
	images *fakeImages
	log    *lines
	mode   func(origin.Repo) snapshot.Mode
	reg    *prometheus.Registry

	sn   *snapshot.Snapshotter
	stop func() // of the socket
	db   *metadata.DB
	bdb  *bolt.DB

	mu      sync.Mutex
	fetched []digest.Digest // layers that containerd has fetched
	blobs   map[digest.Digest][]byte
}

func newNode(t *testing.T) *node {
	t.Helper()
	needRoot(t)
	n := &node{
		t: t, root: t.TempDir(), log: &lines{},
		images: &fakeImages{docs: map[digest.Digest]document{}}, blobs: map[digest.Digest][]byte{},
	}
	n.layers = newFakeLayersIn(t, filepath.Join(n.root, "sn"))
	n.open()
	t.Cleanup(n.close)
	return n
}

func (n *node) open() {
	n.t.Helper()
	sn, err := snapshot.New(snapshot.Config{
		Root: filepath.Join(n.root, "sn"), Layers: n.layers, Images: n.images, Mode: n.mode, Idle: time.Hour,
		Log: slog.New(slog.NewTextHandler(n.log, nil)), Registerer: n.reset(),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.sn = sn
	client, stop, err := dial(filepath.Join(n.root, "sock"), sn)
	if err != nil {
		n.t.Fatal(err)
	}
	n.stop = stop
	if n.db, n.bdb, err = openMetadata(n.root, client); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) close() {
	n.stop()
	if err := errors.Join(n.sn.Close(), n.bdb.Close()); err != nil {
		n.t.Error(err)
	}
}

func (n *node) reopen() {
	n.t.Helper()
	n.close()
	n.open()
}

// inner returns the snapshotter as clients of containerd see it.
func (n *node) inner() snapshots.Snapshotter { return n.db.Snapshotter("dfsnapshotter") }

func (n *node) ctx(ns string) context.Context {
	return namespaces.WithNamespace(n.t.Context(), ns)
}

// img is an image in the registry.
type img struct {
	ref      string
	manifest ocispec.Descriptor
	layers   []ocispec.Descriptor
	diffIDs  []digest.Digest
	chains   []digest.Digest
}

func (i img) top() string { return i.chains[len(i.chains)-1].String() }

type imgOption func(*ocispec.Manifest, *ocispec.Image)

// image puts an image into the registry.
func (n *node) image(ref string, trees []tree, opts ...imgOption) img {
	n.t.Helper()
	i := img{ref: ref}
	var config ocispec.Image
	config.OS, config.Architecture, config.RootFS.Type = "linux", "amd64", "layers"
	for _, tr := range trees {
		plain := tarOf(n.t, tr.files)
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		if _, err := w.Write(plain); err != nil {
			n.t.Fatal(err)
		}
		w.Close()
		d := n.blob(zipped.Bytes())
		n.layers.set(func() { n.layers.trees[d] = tr })
		i.layers = append(i.layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(zipped.Len())})
		i.diffIDs = append(i.diffIDs, digest.FromBytes(plain))
	}
	config.RootFS.DiffIDs = i.diffIDs
	i.chains = identity.ChainIDs(slices.Clone(i.diffIDs))
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: slices.Clone(i.layers)}
	m.SchemaVersion = 2
	for _, opt := range opts {
		opt(&m, &config)
	}
	m.Config = n.document(config, ocispec.MediaTypeImageConfig)
	i.manifest = n.document(m, ocispec.MediaTypeImageManifest)
	i.layers = m.Layers
	return i
}

func (n *node) blob(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	n.blobs[d] = b
	return d
}

func (n *node) document(v any, mediaType string) ocispec.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		n.t.Fatal(err)
	}
	d := n.blob(b)
	n.images.docs[d] = document{data: b, mediaType: mediaType}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pull pulls an image with containerd's unpacker. With labels, as with the
// transfer service or CRI, it tells the snapshotter about the image.
func (n *node) pull(ns string, i img, labels bool) error {
	ctx := n.ctx(ns)
	cs := n.db.ContentStore()
	var h images.Handler = images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		n.mu.Lock()
		b := n.blobs[desc.Digest]
		if images.IsLayerType(desc.MediaType) {
			n.fetched = append(n.fetched, desc.Digest)
		}
		n.mu.Unlock()
		if err := content.WriteBlob(ctx, cs, desc.Digest.String(), bytes.NewReader(b), desc); err != nil {
			return nil, err
		}
		return images.Children(ctx, cs, desc)
	})
	if labels {
		h = snapshotters.AppendInfoHandlerWrapper(i.ref)(h)
	}
	u, err := unpack.NewUnpacker(ctx, cs, unpack.WithUnpackPlatform(unpack.Platform{
		Snapshotter: n.inner(), SnapshotterKey: "dfsnapshotter", Applier: apply.NewFileSystemApplier(cs),
	}))
	if err != nil {
		return err
	}
	if err := images.Dispatch(ctx, u.Unpack(h), nil, i.manifest); err != nil {
		return err
	}
	if _, err := u.Wait(); err != nil {
		return err
	}
	store := metadata.NewImageStore(n.db)
	_, err = store.Create(ctx, images.Image{Name: i.ref, Target: i.manifest, Labels: map[string]string{
		"containerd.io/gc.ref.snapshot.dfsnapshotter": i.top(),
	}})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (n *node) mustPull(ns string, i img, labels bool) {
	n.t.Helper()
	if err := n.pull(ns, i, labels); err != nil {
		n.t.Fatal(err)
	}
}

// remove removes an image and collects the garbage.
func (n *node) remove(ns string, i img) {
	n.t.Helper()
	if err := metadata.NewImageStore(n.db).Delete(n.ctx(ns), i.ref); err != nil {
		n.t.Fatal(err)
	}
	n.collect()
}

func (n *node) collect() {
	n.t.Helper()
	if _, err := n.db.GarbageCollect(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

// fetchedLayers returns which of the image's layers containerd has fetched.
func (n *node) fetchedLayers(i img) (at []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for j, l := range i.layers {
		if slices.Contains(n.fetched, l.Digest) {
			at = append(at, j)
		}
	}
	return at
}

// run mounts a container of an image, as often as containerd would, and
// returns the files in it.
func (n *node) run(ns string, i img, opts ...snapshots.Opt) map[string]string {
	n.t.Helper()
	ctx := n.ctx(ns)
	opts = append(opts, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	if _, err := n.inner().Prepare(ctx, "container", i.top(), opts...); err != nil {
		n.t.Fatal(err)
	}
	mounts, err := n.inner().Mounts(ctx, "container")
	if err != nil {
		n.t.Fatal(err)
	}
	got := n.files(mounts)
	if err := n.inner().Remove(ctx, "container"); err != nil {
		n.t.Fatal(err)
	}
	return got
}

// files returns the files below a mount.
func (n *node) files(mounts []mount.Mount) map[string]string {
	n.t.Helper()
	dir := n.t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		n.t.Fatalf("mount %v: %v", mounts, err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			n.t.Error(err)
		}
	}()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

// left returns the names in the folder of the snapshots' directories.
func (n *node) left() (names []string) {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.root, "sn", "s"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// reset makes metric read from a new registry, which it returns.
func (n *node) reset() *prometheus.Registry {
	n.reg = prometheus.NewRegistry()
	return n.reg
}

// metric returns the sum of a metric over the series with a label value.
func (n *node) metric(name, value string) (sum float64) {
	n.t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == value {
					sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	return sum
}

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
