package snapshot

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// load fills the catalog from the metadata and says what of the snapshots'
// content is gone. Directories and layers without a snapshot are left alone
// until they are cleaned up.
func (s *Snapshotter) load() error {
	err := s.ms.WithTransaction(context.Background(), false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err == nil {
				s.adds(id, info)()
			}
			return err
		})
	})
	if err != nil && !errdefs.IsNotFound(err) { // a new database has no bucket yet
		return fmt.Errorf("read metadata: %w", err)
	}
	used := map[uint32]bool{}
	s.catalog.each(func(r record) {
		used[r.layer] = true
		if b := s.content(r); !s.there(b) {
			s.log.Error("content of a snapshot is gone", "snapshot", r.name, "err", s.missing(b))
		}
	})
	for _, id := range s.layers.List() {
		if !used[id] {
			s.holds.orphan(id)
		}
	}
	return nil
}

// adds returns what puts a snapshot into the catalog and holds its layer.
func (s *Snapshotter) adds(id string, info snapshots.Info) func() {
	r := record{
		id: id, name: info.Name, parent: info.Parent, kind: info.Kind,
		ref: info.Labels[labelRef], image: info.Labels[snapshotters.TargetManifestDigestLabel],
	}
	if v := info.Labels[labelLayer]; v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			s.log.Error("layer number of a snapshot cannot be read", "snapshot", info.Name, "err", err)
		}
		r.layer = uint32(n)
	}
	return func() {
		if r.layer != 0 {
			s.holds.take(r.layer)
			s.holds.adopt(r.layer)
		}
		s.releaseOf(s.catalog.put(r))
	}
}

// releaseOf lets go of the layer of a record that has left the catalog.
func (s *Snapshotter) releaseOf(r record) {
	if r.layer != 0 {
		s.holds.release(r.layer)
	}
}
