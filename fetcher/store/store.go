package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	dataName    = "data"
	mapName     = "map"
	bootMapName = "map.boot"
	trashName   = "trash"

	bootEvery = time.Second      // how old map.boot may get
	syncEvery = 10 * time.Second // how old map may get
	fullFor   = 10 * time.Second // how long after ENOSPC the store counts as full
	freeAtOn  = 256 << 20        // bytes evicted when the disk is full
)

var (
	// ErrMissing reports a read of bytes that are not there: fetch them.
	ErrMissing = errors.New("bytes are not in the store")
	// ErrFull reports that the disk has no room: the bytes were not kept, and
	// whatever is not urgent should stop. The store evicts meanwhile.
	ErrFull = errors.New("no space left in the store")
	// ErrCorrupt reports content that does not match the blob's digest. It
	// has been dropped: fetch it again, elsewhere.
	ErrCorrupt = errors.New("content does not match its digest")
	// ErrSize reports a blob that is open, or verified, with another size.
	ErrSize = errors.New("blob is known with another size")
	// ErrInUse reports that somebody has the blob open, so that it stays.
	ErrInUse = errors.New("it is in use")
	// ErrClosed reports the use of a closed store.
	ErrClosed = errors.New("store is closed")
)

// Config says how a store behaves. The zero value works.
type Config struct {
	Max int64 // quota in bytes over all blobs; 0 = none. Open blobs may exceed it
	// Evicted hears of each blob that was taken away to make room; nil: nobody
	// does. It must not call the store.
	Evicted func(d digest.Digest)

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Store is the blobs below one folder. Only one Store may use a folder at a
// time; its owner sees to that.
type Store struct {
	dir     string
	max     int64
	evicted func(d digest.Digest)
	log     *slog.Logger
	metrics *metrics
	boot    boot

	used  atomic.Int64 // bytes over all blobs
	full  atomic.Int64 // Unix nanoseconds of the last ENOSPC
	trash atomic.Int64 // names in the trash folder

	mu     sync.Mutex // guards blobs, idle and closed
	blobs  map[digest.Digest]*Blob
	idle   *list.List // *Blob without references, least recently used first
	closed bool

	dirtyMu sync.Mutex
	dirty   map[*Blob]struct{} // blobs whose durable map is behind

	flushKick, evictKick chan struct{}
	ctx                  context.Context // the store's own life, ended by Close
	cancel               context.CancelFunc
	wg                   sync.WaitGroup
}

// Open opens the store in dir, which it makes if need be. What it does not
// recognise there is removed.
func Open(dir string, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Evicted == nil {
		c.Evicted = func(digest.Digest) {}
	}
	s := &Store{
		dir: dir, max: c.Max, evicted: c.Evicted, log: c.Log, boot: bootID(),
		blobs: map[digest.Digest]*Blob{}, idle: list.New(), dirty: map[*Blob]struct{}{},
		flushKick: make(chan struct{}, 1), evictKick: make(chan struct{}, 1),
	}
	var err error
	if s.metrics, err = newMetrics(c.Registerer, s); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, trashName), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.flushLoop)
	s.wg.Go(s.evictLoop)
	kick(s.evictKick) // what an earlier run left in the trash, or a smaller quota
	return s, nil
}

// Close makes the maps durable and ends the background work. Blobs that are
// still open can no longer be used.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	err := s.flushAll(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blobs {
		b.write.Lock()
		if b.file != nil {
			err = errors.Join(err, b.file.Close())
		}
		b.write.Unlock()
	}
	return err
}

// Blob opens the blob d of size bytes, known or new. It stays pinned, safe
// from eviction, until its Close.
func (s *Store) Blob(d digest.Digest, size int64) (*Blob, error) {
	if err := p2p.ValidateDigest(d); err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	if size < 0 {
		return nil, fmt.Errorf("open blob %s: size %d", d, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	b, err := s.reopen(d, size)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	if b == nil {
		b = &Blob{s: s, digest: d, size: size, dir: s.blobDir(d)}
		s.blobs[d] = b
	}
	if b.elem != nil {
		s.idle.Remove(b.elem)
		b.elem = nil
	}
	b.refs++
	return b, nil
}

// File opens the content of d for reading, whether or not somebody has the blob
// open, and counts as its use. Bytes that are not there read as anything. The
// file stays readable if the blob is evicted meanwhile. ErrMissing: nothing is
// there.
func (s *Store) File(d digest.Digest) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[d]
	if b == nil {
		return nil, fmt.Errorf("open %s: %w", d, ErrMissing)
	}
	if b.elem != nil {
		s.idle.MoveToBack(b.elem)
	}
	f, err := os.Open(filepath.Join(b.dir, dataName))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("open %s: %w", d, ErrMissing)
	}
	return f, err
}

// Kept returns the sizes of the blobs that are whole and matched their digest.
func (s *Store) Kept() map[digest.Digest]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[digest.Digest]int64{}
	for d, b := range s.blobs {
		if b.Verified() {
			kept[d] = b.size
		}
	}
	return kept
}

// reopen returns the blob d as it is known, nil if it is not or what was known
// is no good. The caller holds s.mu.
func (s *Store) reopen(d digest.Digest, size int64) (*Blob, error) {
	b := s.blobs[d]
	if b == nil {
		return nil, nil
	}
	if b.size == size {
		if b.refs > 0 || b.held() == 0 {
			return b, nil
		}
		err := b.open(false)
		if err == nil {
			return b, nil
		}
		s.log.Warn("stored blob lost", "blob", d, "err", err)
	} else if b.refs > 0 || b.Verified() {
		return nil, fmt.Errorf("%w: %d, not %d", ErrSize, b.size, size)
	}
	// A blob of another size: nobody has matched its content yet, so the newer
	// word counts.
	b.life.Lock()
	defer b.life.Unlock()
	return nil, s.evict(b)
}

// Full reports whether the disk had no room for a write a moment ago: what is
// not urgent should wait.
func (s *Store) Full() bool {
	at := s.full.Load()
	return at != 0 && time.Now().UnixNano()-at < int64(fullFor)
}

// Used returns the bytes kept, over all blobs.
func (s *Store) Used() int64 { return s.used.Load() }

func (s *Store) blobDir(d digest.Digest) string {
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded())
}

// grow accounts for n more bytes (fewer, if negative).
func (s *Store) grow(n int64) {
	if s.used.Add(n); n > 0 && s.over() {
		kick(s.evictKick)
	}
}

// kick wakes the loop that listens on c, now or as soon as it listens.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
