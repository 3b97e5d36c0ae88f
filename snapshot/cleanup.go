package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// asidePrefix begins the names of directories that wait to be deleted.
const asidePrefix = "gone-"

// Remove forgets a snapshot. What it takes on disk is freed by Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	return s.update(ctx, func(ctx context.Context) (func(), error) {
		if _, _, err := storage.Remove(ctx, key); err != nil {
			return nil, fmt.Errorf("remove snapshot %s: %w", key, err)
		}
		return func() { s.releaseOf(s.catalog.remove(key)) }, nil
	})
}

// Cleanup deletes the directories and layers that no snapshot has any more.
// containerd's garbage collector calls it after it has removed snapshots.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	dirs, err := s.garbage()
	if err != nil {
		return edge(err)
	}
	errs := []error{s.sweep(ctx)}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("delete snapshot directory: %w", err))
		}
	}
	return edge(errors.Join(errs...))
}

// garbage returns the directories in s/ that belong to no snapshot, put aside
// so that no later snapshot can get the same ones.
func (s *Snapshotter) garbage() (dirs []string, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	f, err := os.Open(s.snapshotDir())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dir := filepath.Join(s.snapshotDir(), name)
		switch {
		case s.catalog.hasID(name):
			continue
		case !strings.HasPrefix(name, asidePrefix):
			if dir, err = s.setAside(name); err != nil {
				return nil, err
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// setAside renames s/<name>, for Cleanup to delete.
func (s *Snapshotter) setAside(name string) (dir string, err error) {
	dir = filepath.Join(s.snapshotDir(), asidePrefix+rand.Text())
	return dir, os.Rename(filepath.Join(s.snapshotDir(), name), dir)
}

// sweep removes the layers that nobody needs.
func (s *Snapshotter) sweep(ctx context.Context) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	var errs []error
	for _, id := range s.holds.sweep() {
		err := s.layers.Remove(ctx, id)
		s.holds.swept(id, err == nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove layer %d: %w", id, err))
			continue
		}
		s.log.Debug("layer removed", "id", id)
	}
	return errors.Join(errs...)
}

// janitor lets go of images that nobody has finished pulling.
func (s *Snapshotter) janitor(ctx context.Context) {
	start := time.Now()
	t := time.NewTicker(max(s.idle/4, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			expired := s.images.expire(now.Add(-s.idle))
			if now.Sub(start) >= s.idle {
				expired = s.holds.leaveOrphans() || expired
			}
			if !expired {
				continue
			}
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot remove layers", "err", err)
			}
		}
	}
}
