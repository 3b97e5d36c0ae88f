package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

// Config says where an FS lives and what it reads from.
type Config struct {
	Root     string // 0700; layers, trees and mount points lie below it
	Fetcher  *fetcher.Fetcher
	Indexes  *indexes.Indexes   // kept ones, and the cluster's
	Profiles *profiles.Profiles // of what starts read
	Keeper   *keeper.Client
	Relay    bool          // the keeper stays between kernel and daemon
	Unproven bool          // serve a TOC's tree before the blob was seen to be its diffID
	Startup  time.Duration // that is recorded of a container; 0: a minute
	Quiet    time.Duration // background filling waits until no on-demand read has waited for so long
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// FS keeps the layers of a node and serves them.
type FS struct {
	root     string
	boot     string
	fetcher  *fetcher.Fetcher
	indexes  *indexes.Indexes
	profiles *profiles.Profiles
	startup  time.Duration
	log      *slog.Logger
	metrics  *metrics
	files    *files
	unproven bool
	quiet    time.Duration
	sessions []*session // m, then n
	idmap    bool       // the kernel maps IDs on FUSE

	ctx    context.Context // of everything in the background
	cancel context.CancelCauseFunc
	group  errgroup.Group

	gate   sync.RWMutex // guards closed; nothing else is locked under it
	closed bool

	mu      sync.RWMutex // guards the fields below
	layers  map[uint32]*Layer
	merges  map[uint32]*merged
	remains map[uint32]bool // slots with folders of a layer that could not be loaded or removed
	work    map[layerKey]*resolution

	slots sync.Mutex // guards the two below; nothing else is locked under it
	next  uint32     // the next slot
	limit uint32     // slots below it are on disk as used

	placing sync.Mutex // one Place or merge at a time
	kick    chan struct{}
	// names of those that have been given a layer; nil: nobody knows
	containers atomic.Pointer[func(slot uint32) []string]
	ahead      atomic.Int64 // goroutines that fetch what a container is about to read
	touched    atomic.Int64 // when a container was last about to start, Unix nanoseconds
	noSpace    atomic.Int64 // when the disk was last found full, Unix nanoseconds
}

var errClosed = errors.New("fs: closed")

// Open loads the layers below c.Root and serves them, on the mounts that an
// earlier process left with the keeper or on new ones.
func Open(ctx context.Context, c Config) (f *FS, err error) {
	f = &FS{
		root: c.Root, fetcher: c.Fetcher, indexes: c.Indexes, profiles: c.Profiles, startup: cmp.Or(c.Startup, startupFor), log: c.Log, metrics: newMetrics(c.Metrics), files: newFiles(),
		unproven: c.Unproven, quiet: c.Quiet, layers: map[uint32]*Layer{}, merges: map[uint32]*merged{}, remains: map[uint32]bool{}, work: map[layerKey]*resolution{},
		kick: make(chan struct{}, 1),
	}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	opened := f // f is nil where an error is returned
	defer func() {
		if err != nil {
			_ = opened.Close()
		}
	}()
	if f.boot, err = bootID(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.root, 0o700); err != nil {
		return nil, err
	}
	for _, d := range []string{"layers", "l", "m", "n", "merged"} { // m and n may be mounted, even dead
		if err := os.Mkdir(filepath.Join(f.root, d), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	if err := f.loadSlots(); err != nil {
		return nil, err
	}
	if err := f.loadLayers(); err != nil {
		return nil, err
	}
	if err := f.loadMerged(); err != nil {
		return nil, err
	}
	if err := f.mount(ctx, c); err != nil {
		return nil, err
	}
	f.indexes.OnFalse(f.quarantine)
	f.metrics.observe(f)
	f.start(f.background)
	return f, nil
}

func (f *FS) mount(ctx context.Context, c Config) error {
	for _, name := range []string{"m", "n"} {
		o := sessionOptions{Name: name, Dir: filepath.Join(f.root, name), Relay: c.Relay, ReadAhead: kernelAhead, ACL: name == "m"}
		s, err := openSession(ctx, c.Keeper, o, newRaw(f, name == "m"), f.log)
		if err != nil {
			return fmt.Errorf("mount %s: %w", o.Dir, err)
		}
		f.sessions = append(f.sessions, s)
	}
	f.idmap = kernelAtLeast(6, 12)
	if !slices.ContainsFunc(f.sessions, (*session).Takeover) {
		return f.dropMerged(func(*merged) bool { return false }) // nobody can have them
	}
	return nil
}

// Close stops serving after what is under way, and leaves the mounts to the
// keeper for the next process. New work is refused only after the sessions have
// ended: a reader that is still served must not be failed.
func (f *FS) Close() error {
	err := f.closeSessions()
	f.gate.Lock()
	f.closed = true
	f.gate.Unlock()
	f.cancel(errClosed)
	err = errors.Join(err, f.group.Wait())
	serr := syncFS(f.root)
	for _, l := range f.layers {
		err = errors.Join(err, l.close(serr == nil))
	}
	f.files.forget(0)
	return errors.Join(err, serr)
}

// closeSessions ends all sessions at once: what one waits for delays no other.
func (f *FS) closeSessions() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// By then what is not answered is cut off and comes again: let it go.
	defer time.AfterFunc(defaultDrain+time.Second, func() { f.cancel(errClosed) }).Stop()
	errs := make([]error, len(f.sessions))
	var g sync.WaitGroup
	for i, s := range f.sessions {
		g.Go(func() { errs[i] = s.Close(ctx) })
	}
	g.Wait()
	return errors.Join(errs...)
}

// Unmount ends the mounts. Containers that read from them lose their files.
func (f *FS) Unmount() error {
	var err error
	for _, s := range f.sessions {
		err = errors.Join(err, s.Unmount())
	}
	return err
}

// start runs fn as one of the FS's goroutines, unless that is closed.
func (f *FS) start(fn func()) bool {
	f.gate.RLock()
	defer f.gate.RUnlock()
	if f.closed {
		return false
	}
	f.group.Go(func() error { fn(); return nil })
	return true
}

// Layer returns the layer of a slot.
func (f *FS) Layer(id uint32) (*Layer, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	l, ok := f.layers[id]
	return l, ok
}

// all returns the layers there are.
func (f *FS) all() []*Layer {
	f.mu.RLock()
	defer f.mu.RUnlock()
	ls := make([]*Layer, 0, len(f.layers))
	for _, l := range f.layers {
		ls = append(ls, l)
	}
	return ls
}

func (f *FS) add(l *Layer) {
	f.mu.Lock()
	f.layers[l.id] = l
	f.mu.Unlock()
}

// slotBatch is how many slots are written down as used at a time.
const slotBatch = 64

// slot returns a number that no layer has had.
func (f *FS) slot() (uint32, error) {
	f.slots.Lock()
	defer f.slots.Unlock()
	if f.next >= f.limit {
		limit := f.next + slotBatch
		if err := writeFile(filepath.Join(f.root, "layers", "next"), []byte(strconv.FormatUint(uint64(limit), 10))); err != nil {
			return 0, err
		}
		f.limit = limit
	}
	f.next++
	return f.next - 1, nil
}

func (f *FS) loadSlots() error {
	f.next, f.limit = 1, 1
	b, err := os.ReadFile(filepath.Join(f.root, "layers", "next"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return fmt.Errorf("layers/next: %w", err)
	}
	f.next, f.limit = uint32(n), uint32(n)
	return nil
}

// loadLayers opens what earlier processes left. A folder without a record is of
// a layer that never came to be, and it or a tree without a folder of a removal
// that was cut off: they go. An index of a format that is not known here is an
// error: whoever wrote it can still serve it. Any other fault is reported and left alone.
func (f *FS) loadLayers() error {
	dirs, err := slotsIn(filepath.Join(f.root, "layers"))
	if err != nil {
		return err
	}
	trees, err := slotsIn(filepath.Join(f.root, "l"))
	if err != nil {
		return err
	}
	for _, id := range dirs {
		f.next = max(f.next, id+1) // "next" may be lost with a crash
		l := f.newLayer(id)
		err := l.load()
		if err == nil {
			f.layers[id] = l
			continue
		}
		if err = errors.Join(err, l.close(false)); errors.Is(err, errNoRecord) {
			trees = append(trees, id)
			continue
		}
		if errors.Is(err, index.ErrVersion) { // its readers wait for one who can read it
			return fmt.Errorf("%w; start the version of dfsnapshotter that wrote it", err)
		}
		f.remains[id] = true
		f.log.Error("layer cannot be used; remove its image and pull it again", "slot", id, "err", err)
	}
	f.limit = max(f.limit, f.next)
	for _, id := range trees {
		if f.layers[id] != nil || f.remains[id] {
			continue
		}
		if err := f.Remove(f.ctx, id); err != nil {
			f.log.Warn("cannot remove what is left of a layer", "slot", id, "err", err)
		}
	}
	return nil
}

// slotsIn lists the slots that have a folder in dir.
func slotsIn(dir string) (ids []uint32, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if id, perr := strconv.ParseUint(e.Name(), 10, 32); perr == nil && e.IsDir() {
			ids = append(ids, uint32(id))
		}
	}
	return ids, err
}

// Remove deletes a layer that no snapshot uses any more, or what there is of
// one that could not be loaded. If it fails it can be called again.
func (f *FS) Remove(_ context.Context, id uint32) error {
	f.mu.Lock()
	l := f.layers[id]
	delete(f.layers, id)
	f.remains[id] = true
	f.mu.Unlock()
	if l == nil {
		l = f.newLayer(id)
	}
	for _, s := range f.sessions {
		s.Server().EntryNotify(rootIno, l.name())
	}
	err := f.dropMerged(func(m *merged) bool { return !slices.Contains(m.layers, l) })
	err = errors.Join(err, l.close(false))
	f.files.forget(id)
	// The record goes first: without it the rest is an orphan.
	for _, path := range []string{filepath.Join(l.dir, "layer.json"), l.dir, l.tree} {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.remains, id)
	f.mu.Unlock()
	return nil
}

// bootID names this boot of the machine.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// syncFS writes everything on the file system of path to disk.
func syncFS(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return unix.Syncfs(int(d.Fd()))
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}
