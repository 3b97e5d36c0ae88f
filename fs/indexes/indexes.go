package indexes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// MinLayer is the size in bytes below which a layer is not worth an index: its
// blob is here in one round trip.
const MinLayer = 4 << 20

const (
	builders  = 2    // at a time
	followers = 4    // of blobs that are on their way
	maxJobs   = 4096 // that wait
)

// Indexes is this host's. Its methods may be called concurrently.
type Indexes struct {
	dir     string
	log     *slog.Logger
	fetcher *fetcher.Fetcher // once Start was called
	ctx     context.Context  // of the builders, ended by Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	offered prometheus.Counter
	asked   *prometheus.CounterVec // registries, by result
	trust   Trust
	jobs    chan job      // nil: there is nobody to share with
	follows chan struct{} // a token of each follower

	mu        sync.Mutex // guards what follows
	false     map[digest.Digest]string
	hears     func(id digest.Digest, reason string)
	questions map[Image]*question
}

// job is an index to offer, made first if ref is not nil; or one to be made while
// its blob is coming.
type job struct {
	layer  digest.Digest
	ref    *fetcher.Ref
	coming bool
}

// New returns the indexes kept in dir, which it makes if need be. If this host
// shares them with others, Start must follow.
func New(dir string, shares bool, log *slog.Logger, reg prometheus.Registerer) (*Indexes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("indexes: %w", err)
	}
	x := &Indexes{
		dir: dir, log: log, false: map[digest.Digest]string{}, follows: make(chan struct{}, followers), questions: map[Image]*question{},
	}
	x.offered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "dfsnapshotter_indexes_offered_total", Help: "Indexes of layers that were made here and offered to other hosts.",
	})
	x.asked = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_registry_index_questions_total", Help: "Questions to registries for indexes beside images of trusted repositories, by what came of them.",
	}, []string{"result"})
	if reg != nil {
		if err := errors.Join(reg.Register(x.offered), reg.Register(x.asked)); err != nil {
			return nil, fmt.Errorf("indexes: %w", err)
		}
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	if err := errors.Join(x.sweep(), x.loadFalse()); err != nil {
		return nil, fmt.Errorf("indexes: %w", err)
	}
	if shares {
		x.jobs = make(chan job, maxJobs)
	}
	x.trim(maxKept)
	return x, nil
}

// Trust says who is believed about the indexes in a registry until a layer was
// compared with them.
type Trust struct {
	Repos  func(origin.Repo) bool // all who may push to such a repository; nil: none
	Images bool                   // who has made an image, about the indexes that its manifest names
}

// Start begins to share, and to look for indexes that others have: in registries
// those that it trusts. It comes before all other calls but Whole and Distrusted.
// The fetcher must outlive Close.
func (x *Indexes) Start(f *fetcher.Fetcher, trust Trust) {
	x.fetcher, x.trust = f, trust
	if x.jobs == nil {
		return
	}
	x.wg.Go(x.offerAgain)
	for range builders {
		x.wg.Go(x.work)
	}
}

// Close ends all that Start began.
func (x *Indexes) Close() {
	x.mu.Lock()
	x.hears = nil
	x.mu.Unlock()
	x.cancel()
	x.wg.Wait()
}

var _ fetcher.Indexer = (*Indexes)(nil)

// Coming hears that this seed fetches all of a blob, and makes its index on the
// way if it is a layer: then that is there as soon as the last byte is.
func (x *Indexes) Coming(r fetcher.Ref) {
	if r.Size >= MinLayer {
		x.do(job{r.Digest, &r, true})
	}
}

// Whole hears that this seed has all of a blob, and makes its index if it is a
// layer.
func (x *Indexes) Whole(r fetcher.Ref) {
	if r.Size >= MinLayer {
		x.do(job{r.Digest, &r, false})
	}
}

// Distrusted hears that an index is false.
func (x *Indexes) Distrusted(m p2p.Distrust) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.distrust(m.ID, m.Reason)
	if x.hears != nil {
		x.wg.Go(func() { x.hears(m.ID, m.Reason) })
	}
}

// distrust notes that an index is false. The caller holds mu.
func (x *Indexes) distrust(id digest.Digest, reason string) {
	if len(x.false) >= maxJobs {
		clear(x.false)
	}
	x.false[id] = reason
}

// OnFalse has f called, once for each, with indexes that are found false from
// now on.
func (x *Indexes) OnFalse(f func(id digest.Digest, reason string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hears = f
}

// False notes that an index is not that of its layer, and tells the cluster, and
// which containers of this host have been given that.
func (x *Indexes) False(layer, id digest.Digest, reason string, containers []string) {
	m := p2p.Distrust{Layer: layer, ID: id, Reason: printable(reason, maxReason)}
	x.mu.Lock()
	x.distrust(id, m.Reason)
	x.mu.Unlock()
	if err := x.keepFalse(id, m.Reason); err != nil {
		x.log.Warn("that an index is false will be forgotten", "index", id, "err", err)
	}
	if x.fetcher == nil {
		return
	}
	for _, name := range containers[:min(len(containers), p2p.MaxContainers)] {
		m.Containers = append(m.Containers, printable(name, p2p.MaxContainerName))
	}
	x.fetcher.DistrustIndex(m)
}

const maxReason = 200 // bytes

// printable is what of a text goes into a message, n bytes at most.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), n)]
}

func (x *Indexes) do(j job) {
	if x.jobs == nil {
		return
	}
	select {
	case x.jobs <- j:
	default:
		x.log.Warn("too many indexes wait to be offered; this one is not", "blob", j.layer)
	}
}

func (x *Indexes) work() {
	for {
		select {
		case j := <-x.jobs:
			if j.coming {
				x.follow(*j.ref)
				continue
			}
			began := time.Now()
			err := x.run(j)
			switch {
			case x.ctx.Err() != nil:
				return
			case errors.Is(err, errNoLayer):
				x.log.Debug("no index of a blob", "blob", j.layer, "err", err)
			case err != nil:
				x.log.Warn("index not offered to others", "blob", j.layer, "err", err)
			default:
				x.log.Debug("index offered to others", "blob", j.layer, "took", time.Since(began))
			}
		case <-x.ctx.Done():
			return
		}
	}
}

// follow makes the index of a blob that is coming, in the background. If there
// are too many, or it fails, that is done when all of the blob is here.
func (x *Indexes) follow(r fetcher.Ref) {
	if x.made(r) {
		return
	}
	select {
	case x.follows <- struct{}{}:
	default:
		return
	}
	x.wg.Go(func() {
		defer func() { <-x.follows }()
		began := time.Now()
		err := x.fetcher.Follow(x.ctx, r, func(blob io.Reader) error { return x.make(r, blob) })
		x.log.Debug("index made while its blob came", "blob", r.Digest, "took", time.Since(began), "err", err)
	})
}

func (x *Indexes) run(j job) error {
	if j.ref != nil {
		if err := x.build(*j.ref); err != nil {
			return err
		}
	}
	if known, err := x.known(j.layer); err != nil || known && j.ref == nil {
		return err
	}
	offer, err := x.pack(j.layer)
	if err != nil {
		return err
	}
	if err := x.fetcher.PublishIndex(offer); err != nil {
		return err
	}
	x.offered.Inc()
	return nil
}

// known reports whether the cluster has the index that is kept of a layer.
func (x *Indexes) known(layer digest.Digest) (bool, error) {
	i, err := info(x.path(layer))
	if err != nil {
		return false, err
	}
	found, ok := x.fetcher.FindIndex(x.ctx, layer, i.Version)
	return ok && found.ID == i.ID, nil
}

var errNoLayer = errors.New("not a layer that can be read at random")

// made reports whether the index of a blob is kept.
func (x *Indexes) made(r fetcher.Ref) bool {
	i, err := info(x.path(r.Digest))
	return err == nil && i.Blob == r.Digest && i.Seekable
}

// build makes the index of a blob that is here, unless it is kept already.
func (x *Indexes) build(r fetcher.Ref) error {
	if x.made(r) {
		return nil
	}
	b, err := x.fetcher.Blob(r)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	body, err := b.Range(x.ctx, 0, r.Size, fetcher.Background)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return x.make(r, body)
}

// make keeps the index of a blob, which it reads to its end.
func (x *Indexes) make(r fetcher.Ref, blob io.Reader) error {
	path := x.path(r.Digest)
	i, err := index.Build(x.ctx, path, blob, index.Options{Blob: r.Digest, Size: r.Size})
	if errors.Is(err, index.ErrInvalid) || errors.Is(err, index.ErrCorrupt) {
		return fmt.Errorf("%w: %w", errNoLayer, err)
	}
	if err == nil && !i.Seekable {
		return errors.Join(errNoLayer, os.Remove(path))
	}
	x.trim(maxKept)
	return err
}

// pack puts the pack of a kept index into the store.
func (x *Indexes) pack(layer digest.Digest) (p2p.Index, error) {
	i, err := index.Open(x.path(layer))
	if err != nil {
		return p2p.Index{}, err
	}
	defer func() { _ = i.Close() }()
	f, err := os.CreateTemp(x.dir, ".pack.*")
	if err != nil {
		return p2p.Index{}, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	offer, err := Write(f, i)
	if err != nil {
		return p2p.Index{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return p2p.Index{}, err
	}
	if err := x.fetcher.Keep(offer.Pack.Digest, offer.Pack.Size, f); err != nil {
		return p2p.Index{}, err
	}
	return offer, x.note(offer)
}

// note writes down what is offered, for after a restart.
func (x *Indexes) note(offer p2p.Index) error {
	b, err := json.Marshal(offer)
	if err != nil {
		return err
	}
	return os.WriteFile(x.path(offer.Layer)+offerSuffix, b, 0o600)
}

// offerAgain offers what was offered before the start and is still here.
func (x *Indexes) offerAgain() {
	names, err := filepath.Glob(filepath.Join(x.dir, "*"+offerSuffix))
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, name := range names {
		var offer p2p.Index
		b, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(b, &offer)
		}
		if err == nil {
			err = offer.Validate()
		}
		if err != nil {
			x.log.Warn("an index is not offered again", "file", name, "err", err)
			_ = os.Remove(name) // it is made again with the index
			continue
		}
		if _, err := os.Stat(strings.TrimSuffix(name, offerSuffix)); err != nil || !x.has(offer.Pack) {
			_ = os.Remove(name)
			continue
		}
		if err := x.fetcher.PublishIndex(offer); err != nil {
			x.log.Warn("an index is not offered again", "blob", offer.Layer, "err", err)
		}
	}
}

func (x *Indexes) has(b p2p.Blob) bool { return x.fetcher.Has(b.Digest, b.Size) }
