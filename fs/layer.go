package fs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// record is what is kept of a layer beside its index: layers/N/layer.json.
type record struct {
	Blob    digest.Digest `json:"blob"`
	Size    int64         `json:"size"`
	DiffID  digest.Digest `json:"diffID"` // what the image's config says, proven or not
	Ref     fetcher.Ref   `json:"ref"`
	Pack    indexes.Pack  `json:"pack,omitzero"`     // where the index came from, if it was not made here
	Proven  bool          `json:"proven"`            // the blob was seen to unpack to DiffID
	Placed  bool          `json:"placed"`            // Implied is final
	Implied []implied     `json:"implied,omitempty"` // folders the tar has no entry for
	Refused string        `json:"refused,omitempty"` // why no new container may use it
}

// Layer is one slot: a blob's tree with its implied folders settled.
type Layer struct {
	id   uint32
	fs   *FS
	dir  string // root/layers/N
	tree string // root/l/N, an ordinary directory once complete

	index  *index.Index
	filled *bitmap
	data   int // descriptor of dir/data, -1 when complete

	// use is read-locked while the index or the bitmap is read, so that remove
	// does not unmap them under a reader.
	use     sync.RWMutex
	removed bool // guarded by use

	ctx    context.Context // ends when the layer is closed or removed
	cancel context.CancelCauseFunc

	complete  atomic.Bool                   // tree is the layer; data is gone
	untouched atomic.Bool                   // made by this process, and no container was started from it
	recorder  atomic.Pointer[recorder]      // of what is read first, for as long as that is of interest
	boot      atomic.Pointer[boot]          // the first boot pack that was fetched, nil if none was
	knows     atomic.Pointer[digest.Digest] // the image whose profile was used last
	refused   atomic.Bool                   // rec.Refused is set

	placed atomic.Pointer[map[uint32]implied] // rec.Implied by inode

	finalizing sync.Mutex // held while the tree is built, before mu

	mu         sync.Mutex // guards the fields below
	rec        record
	blob       *fetcher.Blob   // nil until first needed
	stats      fetcher.Stats   // of the blob, once it is closed
	flights    map[int]*flight // by the first chunk of each extent
	streams    streams
	walker     walker
	neighbours neighbours
	failure    error // why filling stopped, until the next try
}

// ErrRefused is returned for a layer that was found not to be what its image
// says. No new container is given it.
var ErrRefused = errors.New("layer refused")

// errRemoved answers readers of a layer that containerd has removed.
var errRemoved = errors.New("layer removed")

// ID returns the layer's slot, by which l/N, m/N and n/N are named.
func (l *Layer) ID() uint32 { return l.id }

// Blob returns the digest of the layer's blob.
func (l *Layer) Blob() digest.Digest { return l.rec.Blob }

// Usage returns the bytes and inodes the layer takes once unpacked.
func (l *Layer) Usage() (size, inodes int64) {
	i := l.index.Info()
	return i.Usage, int64(i.Inodes)
}

// hold keeps the layer's index and bitmap mapped until release; it reports
// false for a layer that has been removed.
func (l *Layer) hold() bool {
	l.use.RLock()
	if l.removed {
		l.use.RUnlock()
		return false
	}
	return true
}

// Hides reports whether the layer has whiteouts or opaque folders.
func (l *Layer) Hides() bool {
	if !l.hold() {
		return false
	}
	defer l.release()
	return l.index.Hides()
}

func (l *Layer) release() { l.use.RUnlock() }

func (l *Layer) name() string { return strconv.FormatUint(uint64(l.id), 10) }

func (l *Layer) log() *slog.Logger {
	return l.fs.log.With("layer", l.rec.Blob, "slot", l.id)
}

// save puts r on disk as the layer's record. The caller holds mu or is the only
// user, and takes over into rec what r changes once it is there.
func (l *Layer) save(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.dir, "layer.json"), b); err != nil {
		return fmt.Errorf("save layer %d: %w", l.id, err)
	}
	return nil
}

// writeFile replaces path by a file of content b, on disk when it returns.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}

// newLayer returns an unopened layer of slot id.
func (f *FS) newLayer(id uint32) *Layer {
	n := strconv.FormatUint(uint64(id), 10)
	ctx, cancel := context.WithCancelCause(f.ctx)
	return &Layer{
		id: id, fs: f, data: -1, ctx: ctx, cancel: cancel,
		dir:     filepath.Join(f.root, "layers", n),
		tree:    filepath.Join(f.root, "l", n),
		flights: map[int]*flight{}, neighbours: neighbours{},
	}
}

// open maps the index and the bitmap and settles how far the layer has come:
// the tree in l/N appears by one rename, after everything in it was synced.
func (l *Layer) open() (err error) {
	if l.index, err = index.Open(filepath.Join(l.dir, "index")); err != nil {
		return fmt.Errorf("layer %d: %w", l.id, err)
	}
	l.fs.indexes.Windows(l.ctx, l.index, l.rec.Pack)
	l.filled, err = openBitmap(filepath.Join(l.dir, "filled"), l.index.Info().Chunks, l.fs.boot)
	if err != nil {
		_ = l.index.Close()
		return fmt.Errorf("layer %d: bitmap: %w", l.id, err)
	}
	l.placed.Store(byInode(l.rec.Implied))
	if _, err := os.Lstat(l.tree); err == nil {
		return l.finish()
	}
	return l.openData()
}

// openData opens the folder of the backing files.
func (l *Layer) openData() (err error) {
	if l.data >= 0 {
		return nil
	}
	dir := filepath.Join(l.dir, "data")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if l.data, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return nil
}

// extent is the smallest part of the blob that brings chunk: all of it where
// it cannot be read at random.
func (l *Layer) extent(chunk int) index.Extent {
	if i := l.index.Info(); !i.Seekable {
		return index.Extent{First: 0, Last: i.Chunks - 1, Off: 0, Len: i.BlobSize}
	}
	return l.index.Extent(chunk)
}

// errNoRecord says that a folder is of a layer that never came to be, or is
// being removed.
var errNoRecord = errors.New("no layer.json")

// load reads the layer that an earlier process left in its folder.
func (l *Layer) load() error {
	b, err := os.ReadFile(filepath.Join(l.dir, "layer.json"))
	if errors.Is(err, os.ErrNotExist) {
		return errNoRecord
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &l.rec); err != nil {
		return fmt.Errorf("layer %d: layer.json: %w", l.id, err)
	}
	l.refused.Store(l.rec.Refused != "")
	return l.open()
}

// close stops using the layer; clean says that its chunks are synced. Readers
// that wait are let go first.
func (l *Layer) close(clean bool) error {
	l.cancel(errRemoved)
	l.use.Lock()
	defer l.use.Unlock()
	if l.removed {
		return nil
	}
	l.removed = true
	var err error
	if l.filled != nil { // nil when it never came to be open
		err = errors.Join(l.filled.close(clean), l.index.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.data >= 0 {
		err = errors.Join(err, unix.Close(l.data))
		l.data = -1
	}
	if l.blob != nil {
		err = errors.Join(err, l.blob.Close())
		l.blob = nil
	}
	return err
}

// source returns the layer's blob, which stays referenced until the layer is
// complete or closed.
func (l *Layer) source() (*fetcher.Blob, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blob == nil {
		b, err := l.fs.fetcher.Blob(l.rec.Ref)
		if err != nil {
			return nil, err
		}
		l.blob = b
	}
	return l.blob, nil
}

// alsoFrom notes another repository that an image has the blob in; the first
// may be gone by the time more of it is wanted.
func (l *Layer) alsoFrom(ref fetcher.Ref) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.complete.Load() || l.rec.Ref.Repo == ref.Repo {
		return nil
	}
	l.rec.Ref = ref
	if l.blob == nil {
		return nil
	}
	b, err := l.fs.fetcher.Blob(ref) // the open one reads from there too from now on
	if err != nil {
		return err
	}
	return b.Close()
}

// usable says why no new container may have the layer, if so.
func (l *Layer) usable() error {
	if !l.refused.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("%w: %s: %s", ErrRefused, l.rec.Blob, l.rec.Refused)
}

// refuse marks a layer as not what its image says; its containers keep what
// they have.
func (l *Layer) refuse(reason error) error {
	l.mu.Lock()
	l.rec.Refused = reason.Error()
	l.refused.Store(true)
	err := l.save(l.rec)
	l.mu.Unlock()
	l.log().Error("layer is not what its image says; no new container gets it", "containers", l.fs.containersOf(l.id), "err", reason)
	return errors.Join(err, l.letGo())
}
