package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// prepareRemote makes sure that there is a committed snapshot for the chain ID
// that labels name, above parent, and then returns errTargetExists. Any other
// error may be one to leave the layer to containerd for.
func (s *Snapshotter) prepareRemote(ctx context.Context, key, parent string, labels map[string]string) error {
	start := time.Now()
	if s.exists(labels[labelRef], parent) {
		return errTargetExists
	}
	req, err := newRequest(labels)
	if err != nil {
		return err
	}
	if req.bottom = parent == ""; !req.bottom {
		r, ok := s.catalog.get(parent)
		if !ok {
			return fmt.Errorf("parent snapshot %q: %w", parent, errdefs.ErrNotFound)
		}
		// Once containerd unpacks a layer of an image it fetches all above it.
		if r.layer == 0 && r.image == req.image.manifest.String() {
			return &leaveError{reasonBelow, errBelow}
		}
		req.below = digest.Digest(r.ref)
	}
	id, top, release, err := s.images.layer(ctx, req)
	if err != nil {
		return err
	}
	err = s.commitRemote(ctx, key, parent, id, labels)
	release()
	if !errors.Is(err, errTargetExists) {
		return fmt.Errorf("layer %s: %w", req.layer, err)
	}
	if top != nil {
		s.start(labels[labelRef], parent, top.program)
		s.images.complete(req.image)
		s.metrics.images.WithLabelValues(string(top.mode)).Inc()
	}
	s.log.Info("layer ready", "image", req.image.String(), "layer", req.layer, "took", time.Since(start))
	return err
}

// start says that containers above a chain ID are about to start, unless some
// of its layers are not ours.
func (s *Snapshotter) start(ref, parent string, p Program) {
	targets := s.catalog.targets(ref, parent)
	if len(targets) == 0 {
		return // removed this moment, like what is missing below
	}
	chain, err := s.catalog.chain(targets[0].name)
	if err != nil {
		return
	}
	var ids []uint32
	for _, r := range slices.Backward(chain) {
		if r.layer == 0 {
			return
		}
		ids = append(ids, r.layer)
	}
	s.layers.Start(ids, p)
}

// Containers returns the names of the containers that have a layer, each behind
// its namespace.
func (s *Snapshotter) Containers(layer uint32) (names []string) {
	for _, r := range s.catalog.above(layer) {
		ns, rest, _ := strings.Cut(r.name, "/") // containerd puts a number in between
		if _, key, ok := strings.Cut(rest, "/"); ok {
			names = append(names, ns+"/"+key)
		} else {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return names
}

// exists reports whether there is a committed snapshot of a chain ID above
// parent, with its content.
func (s *Snapshotter) exists(ref, parent string) bool {
	return slices.ContainsFunc(s.catalog.targets(ref, parent), func(r record) bool {
		return s.there(s.content(r))
	})
}

// commitRemote makes layer id a committed snapshot above parent and returns
// errTargetExists.
func (s *Snapshotter) commitRemote(ctx context.Context, key, parent string, id uint32, labels map[string]string) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	ref := labels[labelRef]
	if s.exists(ref, parent) {
		return errTargetExists // simultaneous Prepares of one chain
	}
	if parent == "" && s.layers.Hides(id) {
		// containerd, with no overlay to unpack it to, drops them. Here they would be seen.
		return &leaveError{reasonWhiteout, errWhiteout}
	}
	var layer Layer
	err := s.above(parent, func(_ []record, below []Below) error {
		slices.Reverse(below)
		placed, l, err := s.place(ctx, id, below)
		if err == nil {
			id, layer = placed, l
		}
		return err
	})
	if err != nil {
		return err
	}
	defer s.holds.release(id)
	usage := snapshots.Usage{Size: layer.Size, Inodes: layer.Inodes}
	labels = withLayer(labels, strconv.FormatUint(uint64(id), 10))
	err = s.update(ctx, func(ctx context.Context) (func(), error) {
		if apply, err := s.heal(ctx, ref, parent, labels); apply != nil || err != nil {
			return apply, err
		}
		return s.insert(ctx, key, ref, parent, usage, labels)
	})
	if err != nil {
		return err
	}
	return errTargetExists
}

// place gives layer id its place in a chain. The layer returned is held.
func (s *Snapshotter) place(ctx context.Context, id uint32, below []Below) (uint32, Layer, error) {
	for {
		placed, err := s.layers.Place(ctx, id, below)
		if err != nil {
			return 0, Layer{}, err
		}
		if !s.images.hold(placed) {
			continue // it was removed in the meantime
		}
		layer, _ := s.layers.Layer(placed)
		return placed, layer, nil
	}
}

// heal gives a snapshot whose layer is gone the one that labels name. It
// returns nil if there is no such snapshot.
func (s *Snapshotter) heal(ctx context.Context, ref, parent string, labels map[string]string) (apply func(), err error) {
	for _, r := range s.catalog.targets(ref, parent) {
		if r.layer == 0 {
			continue
		}
		info, err := storage.UpdateInfo(ctx, snapshots.Info{Name: r.name, Labels: labels}, "labels."+labelLayer)
		if err != nil {
			return nil, fmt.Errorf("heal snapshot %s: %w", r.name, err)
		}
		return s.adds(r.id, info), nil
	}
	return nil, nil
}

// insert adds a committed snapshot in one transaction, so that there is never
// half of it. It is named by its chain ID; where the same chain ID stands
// above another parent, with a number behind it.
func (s *Snapshotter) insert(ctx context.Context, key, ref, parent string, usage snapshots.Usage, labels map[string]string) (apply func(), err error) {
	opt := snapshots.WithLabels(labels)
	snap, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, opt)
	if err != nil {
		return nil, fmt.Errorf("create snapshot: %w", err)
	}
	name := ref
	if _, _, _, err := storage.GetInfo(ctx, name); err == nil {
		name += "@" + snap.ID
	} else if !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("look for snapshot %s: %w", name, err)
	}
	if _, err := storage.CommitActive(ctx, key, name, usage, opt); err != nil {
		return nil, fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	return s.adds(snap.ID, snapshots.Info{Name: name, Parent: parent, Kind: snapshots.KindCommitted, Labels: labels}), nil
}

// leave records that a layer is left to containerd: in the log once for each
// image, at the lowest such layer.
func (s *Snapshotter) leave(parent string, labels map[string]string, why *leaveError) {
	s.metrics.left.WithLabelValues(why.reason).Inc()
	if r, ok := s.catalog.get(parent); ok && r.layer == 0 {
		return
	}
	s.log.Warn("image is left to containerd", "image", labels[snapshotters.TargetRefLabel],
		"layer", labels[snapshotters.TargetLayerDigestLabel], "reason", why.reason, "err", why.err)
}

// withLayer returns a copy of labels that names layer id and no other.
func withLayer(labels map[string]string, id string) map[string]string {
	labels = maps.Clone(labels)
	delete(labels, labelLayer)
	if id == "" {
		return labels
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelLayer] = id
	return labels
}
