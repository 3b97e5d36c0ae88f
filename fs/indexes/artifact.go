package indexes

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// How indexes lie in a registry: one manifest of this type refers to an image's
// manifest. Each of its layers is the pack of the index of one of the image's.
const (
	ArtifactType = "application/vnd.dfsnapshotter.indexes.v1+json"
	PackType     = "application/vnd.dfsnapshotter.index"
)

// What the annotations of a pack say.
const (
	annotationLayer   = "io.dfsnapshotter.index.layer"  // digest of the image's layer
	annotationDiffID  = "io.dfsnapshotter.index.diffid" // and of what it unpacks to
	annotationID      = "io.dfsnapshotter.index.id"
	annotationVersion = "io.dfsnapshotter.index.version" // of the format
	annotationHead    = "io.dfsnapshotter.index.head"    // bytes of the pack that are needed to open it
)

// maxPacks is how many layers an artifact may have: more than an image.
const maxPacks = 512

// Artifact is the manifest that puts indexes beside the image whose manifest
// subject is. The same indexes give the same manifest.
func Artifact(subject ocispec.Descriptor, found []p2p.Index) ([]byte, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	m.Config.Data = nil
	for _, x := range found {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: PackType, Digest: x.Pack.Digest, Size: x.Pack.Size, Annotations: map[string]string{
			annotationLayer: x.Layer.String(), annotationDiffID: x.DiffID.String(), annotationID: x.ID.String(),
			annotationVersion: strconv.Itoa(x.Version), annotationHead: strconv.FormatInt(x.Head, 10),
		}})
	}
	return json.Marshal(m)
}

// ParseArtifact returns the indexes that an artifact offers for the image whose
// manifest subject is. Those that make no sense, of a later version of the
// artifact perhaps, are left out.
func ParseArtifact(data []byte, subject digest.Digest) (found []p2p.Index, err error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("artifact: %w", err)
	}
	if m.ArtifactType != ArtifactType || m.Subject == nil || m.Subject.Digest != subject || len(m.Layers) > maxPacks {
		return nil, fmt.Errorf("artifact of type %.100q with %d layers is not of this image: %w", m.ArtifactType, len(m.Layers), p2p.ErrInvalid)
	}
	for _, l := range m.Layers {
		x := p2p.Index{
			Layer: digest.Digest(l.Annotations[annotationLayer]), DiffID: digest.Digest(l.Annotations[annotationDiffID]),
			ID: digest.Digest(l.Annotations[annotationID]), Pack: p2p.Blob{Digest: l.Digest, Size: l.Size},
		}
		var errs [2]error
		x.Version, errs[0] = strconv.Atoi(l.Annotations[annotationVersion])
		x.Head, errs[1] = strconv.ParseInt(l.Annotations[annotationHead], 10, 64)
		if errs == [2]error{} && l.MediaType == PackType && x.Validate() == nil {
			found = append(found, x)
		}
	}
	return found, nil
}

// Write writes the pack of an index and returns what is said of it to others.
func Write(w io.Writer, i *index.Index) (p2p.Index, error) {
	sum := digest.SHA256.Digester()
	var first prefix
	size, err := i.Pack(io.MultiWriter(w, sum.Hash(), &first))
	if err != nil {
		return p2p.Index{}, err
	}
	head, err := index.ParseHead(first, size)
	if err != nil {
		return p2p.Index{}, err
	}
	info := i.Info()
	return p2p.Index{
		Layer: info.Blob, Version: info.Version, ID: info.ID, DiffID: info.DiffID, Head: index.PackPrefix + head.Size,
		Pack: p2p.Blob{Digest: sum.Digest(), Size: size},
	}, nil
}

// prefix keeps the first bytes that are written to it.
type prefix []byte

func (p *prefix) Write(b []byte) (int, error) {
	*p = append(*p, b[:min(len(b), index.PackPrefix-len(*p))]...)
	return len(b), nil
}
