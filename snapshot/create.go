package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// create makes an active snapshot or a view with a directory of its own.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, labels map[string]string) (mounts []mount.Mount, err error) {
	err = s.above(parent, func(chain []record, below []Below) (err error) {
		mounts, err = s.createAbove(ctx, chain, below, snapshots.Info{Name: key, Parent: parent, Kind: kind, Labels: labels})
		return err
	})
	return mounts, err
}

// above calls fn with the chain whose uppermost snapshot is parent, and what it
// consists of. If that has been removed meanwhile, or pulled again, an error is
// no answer, and fn is called with what there is now.
func (s *Snapshotter) above(parent string, fn func(chain []record, below []Below) error) error {
	for {
		chain, err := s.catalog.chain(parent)
		if err != nil {
			return err
		}
		below, err := s.below(chain)
		if err == nil {
			err = fn(chain, below)
		}
		if err == nil || s.unchanged(parent, chain) {
			return err
		}
	}
}

func (s *Snapshotter) unchanged(parent string, chain []record) bool {
	now, err := s.catalog.chain(parent)
	return err == nil && slices.Equal(now, chain)
}

func (s *Snapshotter) createAbove(ctx context.Context, chain []record, below []Below, info snapshots.Info) ([]mount.Mount, error) {
	ids, err := newIDMap(info.Labels)
	if err != nil {
		return nil, err
	}
	uid, gid, err := s.owner(below, ids)
	if err != nil {
		return nil, err
	}
	// May have to wait for layers, so it comes before there is anything to undo.
	lower, ids, err := s.lowerdirs(ctx, below, ids)
	if err != nil {
		return nil, edge(err)
	}
	var id string
	err = s.update(ctx, func(ctx context.Context) (func(), error) {
		if !s.unchanged(info.Parent, chain) { // from here on it cannot be removed
			return nil, fmt.Errorf("parent snapshot %q has changed: %w", info.Parent, errdefs.ErrUnavailable)
		}
		snap, err := storage.CreateSnapshot(ctx, info.Kind, info.Name, info.Parent, snapshots.WithLabels(info.Labels))
		if err != nil {
			return nil, fmt.Errorf("create snapshot: %w", err)
		}
		id = snap.ID
		if err := s.makeDir(id, info.Kind, uid, gid); err != nil {
			return nil, fmt.Errorf("create snapshot %s: %w", info.Name, err)
		}
		return s.adds(id, info), nil
	})
	if err != nil {
		return nil, err // a directory without metadata is removed by Cleanup
	}
	s.record(info.Kind, chain, info.Labels)
	return s.mounts(id, info.Kind, lower, ids), nil
}

// record says that a container is made or started from a chain, unless the snapshot is for
// unpacking a layer, or some layers are not ours.
func (s *Snapshotter) record(kind snapshots.Kind, chain []record, labels map[string]string) {
	if kind != snapshots.KindActive || labels[labelRef] != "" || len(chain) == 0 || chain[0].ref == "" {
		return
	}
	var ids []uint32
	for _, r := range chain {
		if r.layer == 0 {
			return
		}
		ids = append(ids, r.layer)
	}
	s.layers.Record(ids, digest.Digest(chain[0].ref))
}

// makeDir makes s/<id>. What is there already was left by a transaction that
// did not succeed, and is put aside for Cleanup.
func (s *Snapshotter) makeDir(id string, kind snapshots.Kind, uid, gid int) error {
	dir := filepath.Join(s.snapshotDir(), id)
	if _, err := s.setAside(id); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// The umask must not take from what the container's root directory allows.
	upper := s.upperPath(id)
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Chmod(upper, 0o755), os.Lchown(upper, uid, gid)); err != nil {
		return err
	}
	if kind != snapshots.KindActive {
		return nil
	}
	return os.Mkdir(s.workPath(id), 0o711)
}

// owner returns whom the directory of a snapshot belongs to, as it is seen at
// the top of the container's tree: the container's root user, or the owner of
// the layer below.
func (s *Snapshotter) owner(below []Below, ids idMap) (uid, gid int, err error) {
	if ids.set() {
		return ids.root()
	}
	if len(below) == 0 {
		return os.Geteuid(), os.Getegid(), nil
	}
	return s.ownerOf(below[0])
}

func (s *Snapshotter) ownerOf(b Below) (uid, gid int, err error) {
	if b.Layer != 0 {
		l, ok := s.layers.Layer(b.Layer)
		if !ok {
			return 0, 0, s.missing(b)
		}
		return int(l.UID), int(l.GID), nil
	}
	return dirOwner(b.Dir)
}
