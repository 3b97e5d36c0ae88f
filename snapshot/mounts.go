package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
)

// overlayOptions returns the options that every overlay mount needs here.
func overlayOptions(root string, log *slog.Logger) (options []string) {
	userxattr, err := overlayutils.NeedsUserXAttr(root)
	if err != nil {
		log.Warn("cannot tell whether overlayfs needs userxattr", "assumed", userxattr, "err", err)
	}
	if userxattr {
		options = append(options, "userxattr")
	}
	// A lower directory is shared by many mounts, which the index forbids.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	return options
}

// Mounts returns the mounts of an active snapshot or a view, as they are best
// now: layers that have become complete are plain directories.
func (s *Snapshotter) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	id, info, _, err := s.info(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.Kind != snapshots.KindActive && info.Kind != snapshots.KindView {
		return nil, fmt.Errorf("snapshot %s is neither active nor a view: %w", key, errdefs.ErrFailedPrecondition)
	}
	err = s.above(info.Parent, func(chain []record, below []Below) error {
		ids, err := newIDMap(info.Labels)
		if err != nil {
			return err
		}
		lower, ids, err := s.lowerdirs(ctx, below, ids)
		if err != nil {
			return edge(err)
		}
		s.record(info.Kind, chain, info.Labels)
		mounts = s.mounts(id, info.Kind, lower, ids)
		return nil
	})
	return mounts, err
}

func (s *Snapshotter) mounts(id string, kind snapshots.Kind, lower []string, ids idMap) []mount.Mount {
	options := ids.options()
	mode := "rw"
	if kind == snapshots.KindView {
		mode = "ro"
	}
	switch {
	case len(lower) == 0:
		return []mount.Mount{{Type: "bind", Source: s.upperPath(id), Options: append(options, mode, "rbind")}}
	case len(lower) == 1 && kind == snapshots.KindView:
		return []mount.Mount{{Type: "bind", Source: lower[0], Options: append(options, mode, "rbind")}}
	case kind == snapshots.KindActive:
		options = append(options, "workdir="+s.workPath(id), "upperdir="+s.upperPath(id))
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.options...)}}
}

// below returns what a chain (uppermost first) consists of. What occurs in it
// twice is there once, uppermost: overlayfs refuses to stack a directory on
// itself, and the lower one could not be seen anyway.
func (s *Snapshotter) below(chain []record) ([]Below, error) {
	var bs []Below
	for _, r := range chain {
		b := s.content(r)
		if slices.Contains(bs, b) {
			continue
		}
		if !s.there(b) {
			return nil, fmt.Errorf("snapshot %s: %w", r.name, s.missing(b))
		}
		bs = append(bs, b)
	}
	return bs, nil
}

// content returns what a committed snapshot puts into a chain.
func (s *Snapshotter) content(r record) Below {
	if r.layer != 0 {
		return Below{Layer: r.layer}
	}
	return Below{Dir: s.upperPath(r.id)}
}

// there reports whether the content of a snapshot is there.
func (s *Snapshotter) there(b Below) bool {
	if b.Layer != 0 {
		_, ok := s.layers.Layer(b.Layer)
		return ok
	}
	_, err := os.Lstat(b.Dir)
	return err == nil
}

func (s *Snapshotter) missing(b Below) error {
	what := b.Dir
	if b.Layer != 0 {
		what = fmt.Sprintf("layer %d", b.Layer)
	}
	return fmt.Errorf("%s is gone from %s: remove the image and pull it again: %w", what, s.root, errdefs.ErrFailedPrecondition)
}

// lowerdirs returns the directories to mount, uppermost first, and how to map
// IDs in them.
func (s *Snapshotter) lowerdirs(ctx context.Context, below []Below, ids idMap) ([]string, idMap, error) {
	var layers []uint32
	for _, b := range below {
		if b.Layer != 0 {
			layers = append(layers, b.Layer)
		}
	}
	form := AnyForm
	if ids.set() {
		// containerd maps the common folder of all lower directories. Those
		// that it unpacked itself are plain, so then the others must be, too.
		form = OneForm
		if len(layers) < len(below) {
			form = PlainForm
		}
		if s.shifted(below, ids) {
			form, ids = AnyForm, idMap{}
		}
	}
	chain := len(layers) == len(below)
	paths, err := s.paths(ctx, layers, form, chain)
	if err != nil || chain {
		return paths, ids, err
	}
	lower := make([]string, 0, len(below))
	for _, b := range below {
		if b.Layer == 0 {
			lower = append(lower, b.Dir)
			continue
		}
		lower, paths = append(lower, paths[0]), paths[1:]
	}
	return lower, ids, nil
}

func (s *Snapshotter) paths(ctx context.Context, layers []uint32, form Form, chain bool) ([]string, error) {
	if len(layers) == 0 {
		return nil, nil
	}
	paths, err := s.layers.Paths(ctx, layers, form, chain)
	if err == nil && len(paths) != len(layers) && (!chain || len(paths) != 1) {
		return nil, fmt.Errorf("%d directories for %d layers", len(paths), len(layers))
	}
	return paths, err
}

// shifted reports whether the uppermost directory has the mapped owner
// already. Then containerd, not told that this snapshotter can map IDs, has
// copied and chowned the tree, and mapping would shift it once more.
func (s *Snapshotter) shifted(below []Below, ids idMap) bool {
	if len(below) == 0 || below[0].Layer != 0 {
		return false
	}
	uid, gid, err := dirOwner(below[0].Dir)
	if err != nil {
		return false
	}
	rootUID, rootGID, err := ids.root()
	return err == nil && (rootUID != 0 || rootGID != 0) && uid == rootUID && gid == rootGID
}

func dirOwner(dir string) (uid, gid int, err error) {
	fi, err := os.Lstat(dir)
	if err != nil {
		return 0, 0, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}
