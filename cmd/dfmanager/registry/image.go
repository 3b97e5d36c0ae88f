package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"

	maxManifests = 100
	maxBlobs     = 10_000
)

var accepted = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerIndex}

// The kinds of blobs.
const (
	KindLayer  = "layer"
	KindConfig = "config"
)

// Blob is one of an image's.
type Blob struct {
	p2p.Blob
	Kind string
}

// Image is what a name stands for now.
type Image struct {
	Digest digest.Digest // of the manifest or index
	Blobs  []Blob        // each once
}

// document is a manifest or an index.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}

// Resolve reads which blobs the image consists of. Of an index those of these
// platforms, such as linux/arm64, count; with none given, those of all that
// are somewhere to run.
func (r *Repo) Resolve(ctx context.Context, platforms []string) (Image, error) {
	doc, d, err := r.document(ctx, r.ref.Reference)
	if err != nil {
		return Image{}, err
	}
	image := Image{Digest: d}
	if doc.Manifests == nil {
		return image, image.add(doc)
	}
	chosen, err := choose(doc.Manifests, platforms)
	if err != nil {
		return Image{}, err
	}
	for _, m := range chosen {
		child, _, err := r.document(ctx, m.Digest.String())
		if err != nil {
			return Image{}, err
		}
		if child.Manifests != nil {
			return Image{}, fmt.Errorf("%w: an index in an index", ErrInvalid)
		}
		if err := image.add(child); err != nil {
			return Image{}, err
		}
	}
	return image, nil
}

func (r *Repo) document(ctx context.Context, reference string) (doc document, d digest.Digest, err error) {
	data, kind, d, err := r.manifest(ctx, reference)
	if err != nil {
		return doc, "", err
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, "", fmt.Errorf("%w: %s sends no manifest for %s", ErrInvalid, r.ref.Host, r.ref.named(reference))
	}
	if doc.MediaType == "" {
		doc.MediaType, _, _ = mime.ParseMediaType(kind)
	}
	index := doc.MediaType == ocispec.MediaTypeImageIndex || doc.MediaType == dockerIndex
	if doc.SchemaVersion != 2 || !slices.Contains(accepted, doc.MediaType) || index != (doc.Manifests != nil) || index == (doc.Config != nil) {
		return doc, "", fmt.Errorf("%w: %s is of type %.100q", ErrInvalid, r.ref.named(reference), doc.MediaType)
	}
	return doc, d, nil
}

// choose returns the manifests of an index that are wanted.
func choose(all []ocispec.Descriptor, platforms []string) (chosen []ocispec.Descriptor, err error) {
	var there []string
	for _, m := range all {
		if m.Platform == nil {
			m.Platform = &ocispec.Platform{}
		}
		name := strings.TrimSuffix(m.Platform.OS+"/"+m.Platform.Architecture+"/"+m.Platform.Variant, "/")
		there = append(there, name)
		switch {
		case m.Platform.OS == "unknown", m.ArtifactType != "": // says something of another one
		case len(platforms) == 0, slices.ContainsFunc(platforms, func(p string) bool { return p == name || strings.HasPrefix(name, p+"/") }):
			if err := p2p.ValidateDigest(m.Digest); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			chosen = append(chosen, m)
		}
	}
	switch {
	case len(chosen) > maxManifests:
		return nil, fmt.Errorf("%w: an index of %d manifests", ErrInvalid, len(chosen))
	case len(chosen) == 0:
		return nil, fmt.Errorf("%w: it is for %.200s, and not for %s", ErrNotFound, strings.Join(there, ", "), strings.Join(platforms, ", "))
	}
	return chosen, nil
}

// add adds the blobs of a manifest.
func (i *Image) add(doc document) error {
	for k, d := range append([]ocispec.Descriptor{*doc.Config}, doc.Layers...) {
		b := Blob{p2p.Blob{Digest: d.Digest, Size: d.Size}, KindLayer}
		if k == 0 {
			b.Kind = KindConfig
		}
		if err := b.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if len(d.URLs) > 0 || slices.ContainsFunc(i.Blobs, func(o Blob) bool { return o.Digest == b.Digest }) {
			continue // it is elsewhere, or known
		}
		if len(i.Blobs) >= maxBlobs {
			return fmt.Errorf("%w: more than %d blobs", ErrInvalid, maxBlobs)
		}
		i.Blobs = append(i.Blobs, b)
	}
	return nil
}
