package index_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// layout writes an image of one layer as an OCI layout.
func layout(t *testing.T, dir string, l indextest.Layer) {
	t.Helper()
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		p := filepath.Join(dir, "blobs/sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := blob(ocispec.MediaTypeImageConfig, text(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}},
	}))
	manifest := blob(ocispec.MediaTypeImageManifest, text(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{blob(l.MediaType, l.Blob)},
	}))
	for name, data := range map[string][]byte{
		"index.json": text(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest}}),
		"oci-layout": text(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, dir string, d digest.Digest, v any) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", d.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	if v != nil {
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestSkopeoZstdChunked reads what skopeo, and so podman, writes.
func TestSkopeoZstdChunked(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	entries := slices.DeleteFunc(indextest.Nasty(), func(e indextest.Entry) bool {
		return e.Name == "attr/user-xattr" // old ones drop attributes without a value
	})
	src := indextest.Uncompressed(indextest.Tar(entries...))
	from, to := t.TempDir(), t.TempDir()
	layout(t, from, src)
	out, err := exec.CommandContext(t.Context(), skopeo, "copy", "--insecure-policy", "--dest-compress-format", "zstd:chunked", "oci:"+from, "oci:"+to).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var i ocispec.Index
	b, err := os.ReadFile(filepath.Join(to, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &i); err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	read(t, to, i.Manifests[0].Digest, &m)
	d := m.Layers[0]
	l := indextest.Layer{Blob: read(t, to, d.Digest, nil), Digest: d.Digest, DiffID: src.DiffID, MediaType: d.MediaType, Annotations: d.Annotations}
	x := fromTOC(t, l)
	if k := x.Info().Kind; k != index.ZstdChunked {
		t.Errorf("kind is %v", k)
	}
	sameLayer(t, x, l)
}
