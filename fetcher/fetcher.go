package fetcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

// Config says where bytes come from and where they are kept.
type Config struct {
	Dir       string    // blobs are kept in its folder blobs, documents in documents
	Max       int64     // quota of kept blobs in bytes; 0 = none
	Sources   []Source  // asked in this order
	Documents Documents // nil: Document knows only what is cached
	Slots     int       // requests to one registry at a time; 0 = 16
	Network   *Network  // nil: there are no peers

	Download, Origin peer.Limiter // of what comes from peers and sources, and of the latter alone; nil: no limit

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers nowhere
}

// Fetcher gives bytes of blobs. Its methods may be called concurrently.
type Fetcher struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Store
	docs    *documents
	memory  memory
	quiet   quiet
	metrics *metrics
	network *network // nil: there is none

	ctx    context.Context // the Fetcher's own life, ended by Close
	cancel context.CancelCauseFunc

	closing sync.Once

	life   sync.RWMutex // guards closed, so that wg does not grow once it is waited for
	closed bool
	wg     sync.WaitGroup

	mu    sync.Mutex // guards blobs, hosts
	blobs map[digest.Digest]*content
	hosts map[string]*limiter
}

// New opens the store below c.Dir and returns a Fetcher. Close releases it.
func New(c Config) (*Fetcher, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Slots <= 0 {
		c.Slots = defaultSlots
	}
	f := &Fetcher{cfg: c, log: c.Log, blobs: map[digest.Digest]*content{}, hosts: map[string]*limiter{}}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	var err error
	if f.metrics, err = newMetrics(c.Registerer, f); err != nil {
		return nil, fmt.Errorf("fetcher: %w", err)
	}
	if f.docs, err = openDocuments(filepath.Join(c.Dir, "documents"), f); err != nil {
		return nil, fmt.Errorf("fetcher: %w", err)
	}
	f.store, err = store.Open(filepath.Join(c.Dir, "blobs"), store.Config{Max: c.Max, Evicted: f.evicted, Log: c.Log, Registerer: c.Registerer})
	if err != nil {
		return nil, fmt.Errorf("fetcher: %w", err)
	}
	if c.Network == nil {
		return f, nil
	}
	f.cfg.Sources = append(f.cfg.Sources[:len(f.cfg.Sources):len(f.cfg.Sources)], peers{})
	if err := openNetwork(f, c.Network); err != nil {
		return nil, fmt.Errorf("fetcher: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}

// Close ends all requests and reads and writes down what is kept.
func (f *Fetcher) Close() (err error) {
	f.closing.Do(func() { err = f.close() })
	return err
}

func (f *Fetcher) close() error {
	var err error
	if f.network != nil {
		err = f.network.close()
	}
	f.life.Lock()
	f.closed = true
	f.life.Unlock()
	f.cancel(ErrClosed)
	f.wg.Wait()
	if f.network != nil && f.network.client != nil {
		f.network.client.Close()
	}
	return errors.Join(err, f.store.Close())
}

// evicted hears of blobs that the store took away.
func (f *Fetcher) evicted(d digest.Digest) {
	if f.network != nil {
		f.network.evicted(d)
	}
}

// limit waits until n more bytes of a source may come.
func (f *Fetcher) limit(ctx context.Context, peers bool, n int, p Priority) error {
	if f.cfg.Origin != nil && !peers {
		if err := f.cfg.Origin.Wait(ctx, n, p); err != nil {
			return err
		}
	}
	if f.cfg.Download == nil {
		return nil
	}
	return f.cfg.Download.Wait(ctx, n, p)
}

// standBack lets on-demand reads have the line for themselves, for a moment, if
// there are any.
func (f *Fetcher) standBack(ctx context.Context, kick <-chan struct{}) bool {
	waiting, _, changed := f.quiet.state()
	if !waiting {
		return false
	}
	t := time.NewTimer(yieldStep)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-kick:
	case <-ctx.Done():
	}
	return true
}

// start runs fn in a goroutine that Close waits for, unless it is closed.
func (f *Fetcher) start(fn func()) bool {
	f.life.RLock()
	defer f.life.RUnlock()
	if f.closed {
		return false
	}
	f.wg.Go(fn)
	return true
}

// Blob opens the blob ref.Digest, to be had from ref.Repo as well as from where
// those who have it open said.
func (f *Fetcher) Blob(ref Ref) (*Blob, error) {
	b, err := f.open(ref)
	if err == nil && f.network != nil {
		b.share = f.network.join(b.c, ref)
	}
	return b, err
}

// open opens a blob without telling the network that somebody wants it.
func (f *Fetcher) open(ref Ref) (*Blob, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return nil, ErrClosed
	}
	c := f.blobs[ref.Digest]
	if c != nil {
		joined, err := c.join(ref)
		if err != nil {
			return nil, fmt.Errorf("fetcher: open blob %s: %w", ref.Digest, err)
		}
		if !joined {
			c = nil
		}
	}
	if c == nil {
		stored, err := f.store.Blob(ref.Digest, ref.Size)
		if err != nil {
			return nil, fmt.Errorf("fetcher: %w", err)
		}
		c = newContent(f, ref, stored)
		f.blobs[ref.Digest] = c
	}
	return &Blob{c: c}, nil
}

// opened returns the content of a blob that is open, or nil.
func (f *Fetcher) opened(d digest.Digest) *content {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blobs[d]
}

// forget takes c, which nothing refers to any more, out of the table.
func (f *Fetcher) forget(c *content) {
	f.mu.Lock()
	if f.blobs[c.digest] == c {
		delete(f.blobs, c.digest)
	}
	f.mu.Unlock()
	f.memory.drop(c, 0, c.size)
	if err := c.stored.Close(); err != nil {
		f.log.Warn("stored blob not closed", "blob", c.digest, "err", err)
	}
}

// host returns the limiter of a registry.
func (f *Fetcher) host(name string) *limiter {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.hosts[name]
	if l == nil {
		l = newLimiter(f.cfg.Slots)
		if name == "" { // peers count for themselves how many they serve
			l = newLimiter(peerSlots)
		}
		f.hosts[name] = l
	}
	return l
}

// SetSlots changes how many requests one registry gets at a time; 0: the usual
// number. Requests under way go on.
func (f *Fetcher) SetSlots(n int) {
	if n <= 0 {
		n = defaultSlots
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg.Slots = n
	for name, l := range f.hosts {
		if name != "" {
			l.resize(n)
		}
	}
}

func (f *Fetcher) inFlight() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, l := range f.hosts {
		n += l.inFlight()
	}
	return n
}

// LastOnDemand returns when an on-demand read last began or ended to wait for
// bytes; zero: none did yet.
func (f *Fetcher) LastOnDemand() time.Time {
	_, last, _ := f.quiet.state()
	return last
}

// Waits notes that a process waits for bytes until done is called, or for so long that
// it does not count any more. Reads at [OnDemand] do that by themselves; this is for who
// waits for another one's read.
func (f *Fetcher) Waits() (done func()) { return f.quiet.enter() }

// WaitQuiet returns once no on-demand read has waited for bytes for d, so that
// background work does not get into its way.
func (f *Fetcher) WaitQuiet(ctx context.Context, d time.Duration) error {
	return f.quiet.wait(ctx, d)
}
