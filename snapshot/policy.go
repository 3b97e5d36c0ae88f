package snapshot

import (
	"context"
	"fmt"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Mode says when an image counts as there.
type Mode string

// The modes.
const (
	Lazy  Mode = "lazy"  // as soon as its layers can be read
	Fill  Mode = "fill"  // mounted lazily, but there when all layers are ordinary directories
	Eager Mode = "eager" // downloaded whole and unpacked, all layers at once
)

// Modes are all there are.
var Modes = []Mode{Lazy, Fill, Eager}

// modeOf returns the mode of the images of a repository.
func (s *Snapshotter) modeOf(repo origin.Repo) Mode {
	if s.mode == nil {
		return Lazy
	}
	return s.mode(repo)
}

// settle waits until the layer that labels ask for, of which there is a snapshot
// above parent, is as its image's mode wants it before containerd is answered.
// Those below it may be known to containerd already, from a lazy image.
func (s *Snapshotter) settle(ctx context.Context, parent string, labels map[string]string) error {
	if req, err := newRequest(labels); err != nil || s.modeOf(req.image.repo) != Fill {
		return nil //nolint:nilerr // without labels of an image it has no mode, but its layer is there
	}
	targets := s.catalog.targets(labels[labelRef], parent)
	if len(targets) == 0 {
		return nil // removed this moment
	}
	chain, err := s.catalog.chain(targets[0].name)
	if err != nil {
		return err
	}
	for _, r := range chain {
		if r.layer == 0 {
			continue
		}
		if err := s.layers.Complete(ctx, r.layer); err != nil {
			return fmt.Errorf("fill layer %d: %w", r.layer, err)
		}
	}
	return nil
}
