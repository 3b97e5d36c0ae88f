package indexes

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestParseSoci: of a SOCI index only what makes sense is taken, and nothing if it
// is of another image or type.
func TestParseSoci(t *testing.T) {
	image, layer, toc := digest.FromString("image"), digest.FromString("layer"), digest.FromString("ztoc")
	good := func() ocispec.Manifest {
		return ocispec.Manifest{
			Config: ocispec.Descriptor{MediaType: SociV1}, Subject: &ocispec.Descriptor{Digest: image},
			Layers: []ocispec.Descriptor{
				{MediaType: "application/vnd.amazon.soci.prefetch.v1+json", Digest: toc, Size: 5, Annotations: map[string]string{annotationSociLayer: layer.String()}},
				{MediaType: ztocType, Digest: toc, Size: 7, Annotations: map[string]string{annotationSociLayer: layer.String()}},
			},
		}
	}
	want := []Ztoc{{layer, p2p.Blob{Digest: toc, Size: 7}}}
	for name, c := range map[string]struct {
		change func(m *ocispec.Manifest)
		want   []Ztoc
		err    bool
	}{
		"v1": {func(*ocispec.Manifest) {}, want, false},
		"v2": {func(m *ocispec.Manifest) { m.Config.MediaType, m.Subject = SociV2, nil }, want, false},

		"v1 of another image": {func(m *ocispec.Manifest) { m.Subject.Digest = layer }, nil, true},
		"v1 of none":          {func(m *ocispec.Manifest) { m.Subject = nil }, nil, true},
		"another type":        {func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig }, nil, true},
		"too many":            {func(m *ocispec.Manifest) { m.Layers = make([]ocispec.Descriptor, maxPacks+1) }, nil, true},
		"another digest":      {func(m *ocispec.Manifest) { m.Layers[1].Digest = digest.SHA512.FromString("ztoc") }, nil, false},
		"no digest":           {func(m *ocispec.Manifest) { m.Layers[1].Digest = "sha256:1" }, nil, false},
		"no layer":            {func(m *ocispec.Manifest) { m.Layers[1].Annotations = nil }, nil, false},
		"too large":           {func(m *ocispec.Manifest) { m.Layers[1].Size = index.MaxZtoc + 1 }, nil, false},
		"empty":               {func(m *ocispec.Manifest) { m.Layers[1].Size = 0 }, nil, false},
	} {
		m := good()
		c.change(&m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseSoci(data, image)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != c.err {
			t.Errorf("%s: %v, %s", name, err, diff)
		}
	}
	if _, err := ParseSoci([]byte("{"), image); err == nil {
		t.Error("half a document is taken")
	}
}

// TestSociIndex: an image names its SOCI index by a digest, or none.
func TestSociIndex(t *testing.T) {
	d := digest.FromString("x")
	for text, want := range map[string]digest.Digest{
		`{"annotations":{"com.amazon.soci.index-digest":"` + d.String() + `"}}`: d,
		`{"annotations":{"com.amazon.soci.index-digest":"latest"}}`:             "",
		`{"annotations":{}}`:   "",
		`{"annotations":[]}`:   "",
		strings.Repeat("{", 9): "",
	} {
		if got := SociIndex([]byte(text)); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
