package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	imagetype "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// maxLayers is the number of layers that overlayfs can stack.
const maxLayers = 500

// layerTypes are the media types of layers that are served here.
var layerTypes = []string{
	ocispec.MediaTypeImageLayer,
	ocispec.MediaTypeImageLayerGzip,
	ocispec.MediaTypeImageLayerZstd,
	imagetype.MediaTypeDockerSchema2Layer,
	imagetype.MediaTypeDockerSchema2LayerGzip,
	imagetype.MediaTypeDockerSchema2LayerZstd,
}

// request is what containerd's labels say about a layer that it prepares.
type request struct {
	target digest.Digest // chain ID
	layer  digest.Digest // of the blob
	image  imageKey
	bottom bool          // it has no parent
	below  digest.Digest // chain ID of its parent, "" if not known
}

type imageKey struct {
	repo     origin.Repo
	manifest digest.Digest
}

func (k imageKey) String() string { return k.repo.String() + "@" + k.manifest.String() }

// newRequest reads the labels of a Prepare. Those of an image come together,
// or not at all when nobody has told containerd to send them.
func newRequest(labels map[string]string) (request, error) {
	ref := labels[snapshotters.TargetRefLabel]
	if ref == "" || labels[snapshotters.TargetManifestDigestLabel] == "" {
		return request{}, &leaveError{reasonLabels, errNoLabels}
	}
	r := request{
		target: digest.Digest(labels[labelRef]),
		layer:  digest.Digest(labels[snapshotters.TargetLayerDigestLabel]),
	}
	r.image.manifest = digest.Digest(labels[snapshotters.TargetManifestDigestLabel])
	for _, d := range []digest.Digest{r.target, r.layer, r.image.manifest} {
		if err := d.Validate(); err != nil {
			return request{}, &leaveError{reasonLabels, fmt.Errorf("digest %q in the labels: %w", d, err)}
		}
	}
	spec, err := reference.Parse(ref)
	if err != nil {
		return request{}, &leaveError{reasonLabels, fmt.Errorf("image name %q: %w", ref, err)}
	}
	host, path, ok := strings.Cut(spec.Locator, "/")
	if !ok {
		return request{}, &leaveError{reasonLabels, fmt.Errorf("image name %q names no repository", ref)}
	}
	r.image.repo = origin.Repo{Host: host, Path: path}
	return r, nil
}

// plan is an image as its manifest and config describe it.
type plan struct {
	wants   []Want
	chains  []digest.Digest // chain ID of each layer
	program Program
	mode    Mode
}

// readPlan reads the manifest and the config of an image.
func readPlan(ctx context.Context, docs Images, key imageKey) (*plan, error) {
	data, mediaType, err := docs.Document(ctx, key.repo, key.manifest, true)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", key.manifest, err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, &leaveError{reasonForeign, fmt.Errorf("manifest %s: %w", key.manifest, err)}
	}
	if m.MediaType != "" {
		mediaType = m.MediaType
	}
	if !imagetype.IsManifestType(mediaType) {
		return nil, &leaveError{reasonForeign, fmt.Errorf("manifest %s is of type %q", key.manifest, mediaType)}
	}
	if len(m.Layers) > maxLayers {
		return nil, &leaveError{reasonForeign, fmt.Errorf("%d layers are more than overlayfs can stack", len(m.Layers))}
	}
	for _, l := range m.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return nil, &leaveError{reasonForeign, fmt.Errorf("layer %s is of type %q", l.Digest, l.MediaType)}
		}
		if err := l.Digest.Validate(); err != nil {
			return nil, &leaveError{reasonForeign, fmt.Errorf("layer %q: %w", l.Digest, err)}
		}
	}
	c, err := readConfig(ctx, docs, key.repo, m.Config.Digest)
	if err != nil {
		return nil, err
	}
	diffIDs := c.RootFS.DiffIDs
	if len(diffIDs) != len(m.Layers) {
		return nil, &leaveError{reasonMismatch, fmt.Errorf("%d layers, but %d diff IDs", len(m.Layers), len(diffIDs))}
	}
	p := &plan{chains: identity.ChainIDs(slices.Clone(diffIDs)), program: program(c.Config)}
	if len(p.chains) > 0 {
		p.program.Image = p.chains[len(p.chains)-1]
	}
	for i, l := range m.Layers {
		p.wants = append(p.wants, Want{Repo: key.repo, Manifest: key.manifest, Desc: l, DiffID: diffIDs[i], Image: p.program.Image})
	}
	return p, nil
}

// imageConfig is what is wanted of an image's config.
type imageConfig struct {
	Config ocispec.ImageConfig `json:"config"`
	RootFS ocispec.RootFS      `json:"rootfs"`
}

func readConfig(ctx context.Context, docs Images, repo origin.Repo, config digest.Digest) (c imageConfig, err error) {
	if err := config.Validate(); err != nil {
		return c, &leaveError{reasonForeign, fmt.Errorf("config %q: %w", config, err)}
	}
	data, _, err := docs.Document(ctx, repo, config, false)
	if err != nil {
		return c, fmt.Errorf("read config %s: %w", config, err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, &leaveError{reasonForeign, fmt.Errorf("config %s: %w", config, err)}
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return c, &leaveError{reasonForeign, fmt.Errorf("config %s: diff ID %q: %w", config, d, err)}
		}
	}
	return c, nil
}

// defaultPath is what containerd gives a container whose image sets no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// program returns what the image runs unless it is told otherwise.
func program(c ocispec.ImageConfig) Program {
	p := Program{Path: defaultPath, Dir: c.WorkingDir}
	if args := append(slices.Clone(c.Entrypoint), c.Cmd...); len(args) > 0 {
		p.Name = args[0]
	}
	for _, e := range c.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			p.Path = v
		}
	}
	return p
}

// find returns which of the image's layers r is about.
func (p *plan) find(r request) (int, error) {
	i := slices.Index(p.chains, r.target)
	if i < 0 {
		return 0, &leaveError{reasonMismatch, fmt.Errorf("the config's diff IDs do not give chain ID %s", r.target)}
	}
	if p.wants[i].Desc.Digest != r.layer {
		return 0, &leaveError{reasonMismatch, fmt.Errorf("layer %d is %s, not %s", i, p.wants[i].Desc.Digest, r.layer)}
	}
	if r.bottom != (i == 0) || r.below != "" && r.below != p.chains[i-1] {
		return 0, &leaveError{reasonMismatch, fmt.Errorf("layer %d does not belong above the snapshot it was asked for", i)}
	}
	return i, nil
}
