package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// Pulled is an image on this host.
type Pulled struct {
	Layers []uint32 // those served here of what is there of it, lowest first
	Whole  bool     // its uppermost layer is there, so all are
}

// Pulled returns the image that containerd has pulled most recently under a name,
// as containerd writes it. errdefs.ErrNotFound: no snapshot was made for such a
// one; all layers may have been there already, of an image with another name.
func (s *Snapshotter) Pulled(ctx context.Context, name string) (Pulled, error) {
	key, err := s.named(ctx, name)
	if err != nil {
		return Pulled{}, err
	}
	plan, err := readPlan(ctx, s.images.docs, key)
	if err != nil {
		return Pulled{}, edge(err)
	}
	p := Pulled{Whole: true}
	for i := len(plan.chains) - 1; i >= 0; i-- {
		for _, at := range s.catalog.refs(plan.chains[i].String()) {
			chain, err := s.catalog.chain(at)
			if err != nil || len(chain) != i+1 {
				continue // removed this moment, or of another image
			}
			for _, r := range slices.Backward(chain) {
				if r.layer != 0 {
					p.Layers = append(p.Layers, r.layer)
				}
			}
			return p, nil
		}
		p.Whole = false
	}
	return p, nil
}

// named returns what the newest snapshot that was made for an image says of it.
func (s *Snapshotter) named(ctx context.Context, name string) (key imageKey, err error) {
	var newest time.Time
	note := func(_ context.Context, i snapshots.Info) error {
		if r, err := newRequest(i.Labels); err == nil && i.Created.After(newest) {
			newest, key = i.Created, r.image
		}
		return nil
	}
	if err := s.Walk(ctx, note, fmt.Sprintf("labels.%q==%s", snapshotters.TargetRefLabel, strconv.Quote(name))); err != nil {
		return key, err
	}
	if newest.IsZero() {
		return key, fmt.Errorf("no layer was pulled for an image called %q: %w", name, errdefs.ErrNotFound)
	}
	return key, nil
}
