package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	labelRef = "containerd.io/snapshot.ref"

	// labelLayer holds the number of a remote snapshot's layer. Clients can
	// neither set nor remove it.
	labelLayer = "containerd.io/snapshot/dfsnapshotter.layer"
)

// Config says what a Snapshotter works with.
type Config struct {
	Root   string // folder of the metadata and of the snapshots' own directories
	Layers Layers
	Images Images

	// Mode returns the mode of a repository's images; nil: all are Lazy.
	Mode func(origin.Repo) Mode

	// Idle is how long the layers of an image are kept that nobody has
	// finished pulling; 0 means 10 minutes.
	Idle time.Duration

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers nowhere
}

// Snapshotter implements containerd's snapshots.Snapshotter and
// snapshots.Cleaner.
type Snapshotter struct {
	root    string
	layers  Layers
	mode    func(origin.Repo) Mode
	idle    time.Duration
	log     *slog.Logger
	reg     prometheus.Registerer
	metrics *metrics
	options []string // of every overlay mount

	ms      *storage.MetaStore
	placing sync.Mutex // one layer at a time gets its place in a chain
	write   sync.Mutex // held while metadata, catalog and s/ change together
	catalog *catalog
	holds   *holds
	images  *images

	sweeping sync.Mutex // one sweep at a time
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // the janitor
	close    sync.Once
	closeErr error
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New opens the snapshotter of cfg.Root and checks its metadata against what
// there is on disk. Close releases it.
func New(cfg Config) (_ *Snapshotter, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Idle == 0 {
		cfg.Idle = 10 * time.Minute
	}
	s := &Snapshotter{
		root: cfg.Root, layers: cfg.Layers, mode: cfg.Mode, idle: cfg.Idle, log: cfg.Log, reg: cfg.Registerer,
		catalog: newCatalog(), holds: newHolds(),
	}
	if err := s.makeRoot(); err != nil {
		return nil, err
	}
	s.ms, err = storage.NewMetaStore(filepath.Join(cfg.Root, "metadata.db"), func(o *bolt.Options) error {
		o.Timeout = 5 * time.Second // another process that has it open is a mistake, not something to wait for
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.ms.Close())
	}
	if s.metrics, err = newMetrics(cfg.Registerer, s.catalog.count); err != nil {
		return nil, errors.Join(err, s.ms.Close())
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.cancel = cancel
	s.images = &images{
		docs: cfg.Images, layers: cfg.Layers, holds: s.holds, mode: s.modeOf,
		ctx: ctx, open: map[imageKey]*image{},
	}
	s.wg.Go(func() { s.janitor(ctx) })
	return s, nil
}

func (s *Snapshotter) makeRoot() error {
	if strings.ContainsAny(s.root, ",:") {
		return fmt.Errorf("root %s: its name must not contain commas or colons, which separate mount options", s.root)
	}
	if err := os.MkdirAll(s.snapshotDir(), 0o700); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	ok, err := fs.SupportsDType(s.root)
	if err != nil {
		return fmt.Errorf("check %s: %w", s.root, err)
	}
	if !ok {
		return fmt.Errorf("%s does not support d_type, which overlayfs needs: xfs must be made with ftype=1", s.root)
	}
	s.options = overlayOptions(s.root, s.log)
	return nil
}

// Close ends the work under way and waits for it. Mounts stay as they are.
func (s *Snapshotter) Close() error {
	s.close.Do(func() {
		s.cancel(errClosed)
		s.images.close()
		s.wg.Wait()
		s.metrics.unregister(s.reg)
		s.closeErr = s.ms.Close()
	})
	return s.closeErr
}

// update runs fn in a writable transaction. What fn returns is applied to the
// state in memory if the transaction succeeds, before any other update.
func (s *Snapshotter) update(ctx context.Context, fn func(ctx context.Context) (apply func(), err error)) error {
	s.write.Lock()
	defer s.write.Unlock()
	var apply func()
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		apply, err = fn(ctx)
		return err
	})
	if err == nil && apply != nil {
		apply()
	}
	return edge(err)
}

func (s *Snapshotter) info(ctx context.Context, name string) (id string, info snapshots.Info, usage snapshots.Usage, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, info, usage, err = storage.GetInfo(ctx, name)
		return err
	})
	return id, info, usage, edge(err)
}

// Stat returns the info of a snapshot by name or key.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	_, info, _, err := s.info(ctx, key)
	return info, err
}

// Update changes a snapshot's labels, all but the one that names its layer.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.update(ctx, func(ctx context.Context) (func(), error) {
		id, old, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return nil, err
		}
		info.Labels = withLayer(info.Labels, old.Labels[labelLayer])
		if updated, err = storage.UpdateInfo(ctx, info, fieldpaths...); err != nil {
			return nil, err
		}
		return s.adds(id, updated), nil
	})
	return updated, err
}

// Usage returns what a snapshot takes on disk: that of a remote one is its
// layer's whole, also while it is not there yet.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	id, info, usage, err := s.info(ctx, key)
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	return s.diskUsage(ctx, id)
}

func (s *Snapshotter) diskUsage(ctx context.Context, id string) (snapshots.Usage, error) {
	du, err := fs.DiskUsage(ctx, s.upperPath(id))
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of snapshot %s: %w", id, err)
	}
	return snapshots.Usage(du), nil
}

// Prepare makes a snapshot to write to, or, if the labels name a chain ID,
// says that the layer is there already.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	info, err := newInfo(opts)
	if err != nil {
		return nil, err
	}
	start, kind := time.Now(), kindActive
	defer func() { s.metrics.prepared(kind, start, err) }()
	if info.Labels[labelRef] != "" {
		kind = kindRemote
		err := s.prepareRemote(ctx, key, parent, info.Labels)
		if errors.Is(err, errTargetExists) {
			return nil, edge(cmp.Or(s.settle(ctx, parent, info.Labels), err))
		}
		left := leave(err, parent == "")
		if left == nil {
			return nil, edge(err)
		}
		kind = kindOrdinary
		s.leave(parent, info.Labels, left)
	}
	return s.create(ctx, snapshots.KindActive, key, parent, info.Labels)
}

// View makes a snapshot to read.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	info, err := newInfo(opts)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	defer func() { s.metrics.prepared(kindView, start, err) }()
	return s.create(ctx, snapshots.KindView, key, parent, info.Labels)
}

// Commit turns an active snapshot into a committed one. It runs inside
// containerd's own transaction, so the disk is measured before ours.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := newInfo(opts)
	if err != nil {
		return err
	}
	id, _, _, err := s.info(ctx, key)
	if err != nil {
		return err
	}
	usage, err := s.diskUsage(ctx, id)
	if err != nil {
		return edge(err)
	}
	return s.update(ctx, func(ctx context.Context) (func(), error) {
		id, err := storage.CommitActive(ctx, key, name, usage, snapshots.WithLabels(info.Labels), snapshots.WithParent(info.Parent))
		if err != nil {
			return nil, fmt.Errorf("commit snapshot %s: %w", key, err)
		}
		_, info, _, err := storage.GetInfo(ctx, name)
		return s.adds(id, info), err
	})
}

// newInfo returns what opts say, with labels of its own and without ours.
func newInfo(opts []snapshots.Opt) (snapshots.Info, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return snapshots.Info{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	info.Labels = withLayer(info.Labels, "")
	return info, nil
}

func (s *Snapshotter) snapshotDir() string        { return filepath.Join(s.root, "s") }
func (s *Snapshotter) upperPath(id string) string { return filepath.Join(s.root, "s", id, "fs") }
func (s *Snapshotter) workPath(id string) string  { return filepath.Join(s.root, "s", id, "work") }
