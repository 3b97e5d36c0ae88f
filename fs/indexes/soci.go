package indexes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// How SOCI's indexes lie in a registry: manifests of these types, that of the first
// one referring to an image's manifest, and that of the second named by it.
const (
	SociV1 = "application/vnd.amazon.soci.index.v1+json"
	SociV2 = "application/vnd.amazon.soci.index.v2+json"
)

const (
	annotationSociIndex = "com.amazon.soci.index-digest"       // of an image's manifest
	annotationSociLayer = "com.amazon.soci.image-layer-digest" // of a ztoc
	ztocType            = "application/octet-stream"
)

// Ztoc is a table of contents that SOCI has made of a layer.
type Ztoc struct {
	Layer digest.Digest
	Blob  p2p.Blob
}

// ParseSoci returns the ztocs that a SOCI index of the image whose manifest subject
// is has. Those that make no sense are left out.
func ParseSoci(data []byte, subject digest.Digest) (found []Ztoc, err error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("SOCI index: %w", err)
	}
	typ := m.Config.MediaType
	bound := typ == SociV2 || typ == SociV1 && m.Subject != nil && m.Subject.Digest == subject
	if !bound || len(m.Layers) > maxPacks {
		return nil, fmt.Errorf("SOCI index of type %.100q with %d ztocs is not of this image: %w", typ, len(m.Layers), p2p.ErrInvalid)
	}
	for _, l := range m.Layers {
		z := Ztoc{digest.Digest(l.Annotations[annotationSociLayer]), p2p.Blob{Digest: l.Digest, Size: l.Size}}
		sha256 := l.Digest.Validate() == nil && l.Digest.Algorithm() == digest.SHA256
		if l.MediaType == ztocType && sha256 && z.Layer.Validate() == nil && l.Size > 0 && l.Size <= index.MaxZtoc {
			found = append(found, z)
		}
	}
	return found, nil
}

// SociIndex returns the digest of the SOCI index that an image's manifest names; ""
// if it names none.
func SociIndex(manifest []byte) digest.Digest {
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return ""
	}
	d := digest.Digest(m.Annotations[annotationSociIndex])
	if d.Validate() != nil {
		return ""
	}
	return d
}

// named reads the SOCI index that an image's manifest names, which is here: who has
// planned the layers has read it.
func (x *Indexes) named(ctx context.Context, img Image) ([]Ztoc, error) {
	manifest, _, err := x.fetcher.Document(ctx, img.Repo, img.Manifest, true)
	if err != nil {
		return nil, err
	}
	d := SociIndex(manifest)
	if d == "" {
		return nil, nil
	}
	return x.readSoci(ctx, img, d)
}

// referring reads the SOCI indexes that refer to an image.
func (x *Indexes) referring(ctx context.Context, img Image) (found []Ztoc, err error) {
	list, err := x.fetcher.Referrers(ctx, img.Repo, img.Manifest, SociV1)
	for _, d := range list[:min(len(list), maxArtifacts)] {
		more, rerr := x.readSoci(ctx, img, d.Digest)
		found, err = append(found, more...), errors.Join(err, rerr)
	}
	return found, err
}

func (x *Indexes) readSoci(ctx context.Context, img Image, d digest.Digest) ([]Ztoc, error) {
	data, _, err := x.fetcher.Document(ctx, img.Repo, d, true)
	if err != nil {
		return nil, err
	}
	return ParseSoci(data, img.Manifest)
}

// useSoci puts an index made of one of the ztocs that a registry has of a layer at
// path. Those that cannot be used are not tried again.
func (x *Indexes) useSoci(ctx context.Context, q *question, w Wanted, path string) (Pack, bool) {
	for _, z := range x.ztocsOf(q, w.Layer) {
		p := Pack{Digest: z.Blob.Digest, Size: z.Blob.Size, Repo: w.Image.Repo, Ztoc: true}
		err := x.convert(ctx, p, w, path)
		if err == nil {
			return p, true
		}
		if ctx.Err() != nil {
			break
		}
		x.log.Warn("a ztoc of a layer cannot be used; without another index the layer is unpacked", "blob", w.Layer, "ztoc", z.Blob.Digest, "repo", w.Image.Repo.String(), "err", err)
		x.dropZtoc(q, z)
	}
	return Pack{}, false
}

// convert reads a ztoc, all of it, and puts the index of it at path.
func (x *Indexes) convert(ctx context.Context, p Pack, w Wanted, path string) error {
	data, err := x.first(ctx, p, p.Size, max(w.Size, MinLayer))
	if err != nil {
		return err
	}
	if digest.FromBytes(data) != p.Digest {
		return errors.Join(fmt.Errorf("the ztoc is not %s: %w", p.Digest, index.ErrDigest), x.forget(p))
	}
	i, err := index.FromZtoc(path, data, index.ZtocOptions{Blob: w.Layer, Size: w.Size})
	if err != nil {
		return err
	}
	if reason, is := x.IsFalse(i.ID); is {
		return errors.Join(fmt.Errorf("it was found false: %s", reason), os.Remove(path))
	}
	return nil
}

// forget throws a blob away that is not what its digest says.
func (x *Indexes) forget(p Pack) error {
	b, err := x.fetcher.Blob(p.ref())
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	return b.Discard(0, p.Size)
}
