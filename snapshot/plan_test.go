package snapshot_test

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// Documents that make no sense leave the image to containerd, which says what
// it thinks of them.
func TestOddDocuments(t *testing.T) {
	n := newNode(t)
	good := n.image("example.org/app:1", three)
	for name, tt := range map[string]struct {
		opts   []imgOption
		edit   func(document) document
		reason string
	}{
		"no JSON":     {edit: func(d document) document { d.data = []byte("<html>"); return d }, reason: "foreign"},
		"empty":       {edit: func(d document) document { d.data = nil; return d }, reason: "foreign"},
		"an index":    {edit: func(document) document { return document{[]byte(`{}`), ocispec.MediaTypeImageIndex} }, reason: "foreign"},
		"no config":   {edit: func(document) document { return document{[]byte(`{}`), ocispec.MediaTypeImageManifest} }, reason: "foreign"},
		"null layers": {edit: func(document) document { return document{[]byte(`{"layers":[null]}`), ocispec.MediaTypeImageManifest} }, reason: "foreign"},
		"a diff ID too few": {opts: []imgOption{func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs = c.RootFS.DiffIDs[1:]
		}}, reason: "mismatch"},
		"a diff ID that is none": {opts: []imgOption{func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = "sha256:../../etc"
		}}, reason: "foreign"},
		"a layer digest that is none": {opts: []imgOption{func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[2].Digest = "../x"
		}}, reason: "foreign"},
		"too many layers": {opts: []imgOption{func(m *ocispec.Manifest, _ *ocispec.Image) {
			for len(m.Layers) <= 500 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}}, reason: "foreign"},
	} {
		t.Run(name, func(t *testing.T) {
			i := n.image("example.org/app:1", three, tt.opts...)
			i.chains = good.chains
			if tt.edit != nil {
				n.images.docs[i.manifest.Digest] = tt.edit(n.images.docs[i.manifest.Digest])
			}
			sn := mustNew(t, snapshot.Config{Root: t.TempDir(), Layers: n.layers, Images: n.images, Registerer: n.reset()})
			if _, err := sn.Prepare(t.Context(), "k", "", snapshots.WithLabels(prepareLabels(i, 0))); err != nil {
				t.Fatalf("Prepare: %v; want mounts", err)
			}
			if got := n.metric("dfsnapshotter_left_to_containerd_total", tt.reason); got != 1 {
				t.Errorf("%v layers counted as left for reason %q, want 1", got, tt.reason)
			}
		})
	}
}
