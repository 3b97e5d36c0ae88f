package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// noSpace notes that the disk is full and has cache evicted.
func (s *Store) noSpace() {
	s.full.Store(time.Now().UnixNano())
	s.metrics.full.Inc()
	kick(s.evictKick)
}

// evictLoop keeps the quota, makes room when the disk is full, and empties the
// trash: all of it away from readers and writers.
func (s *Store) evictLoop() {
	var served int64 // the ENOSPC that room was last made for
	for {
		select {
		case <-s.evictKick:
		case <-s.ctx.Done():
			return
		}
		s.evictIdle(s.over)
		if at := s.full.Load(); at != served {
			served = at
			goal := s.used.Load() - freeAtOn
			s.evictIdle(func() bool { return s.used.Load() > goal })
		}
		s.emptyTrash()
	}
}

// over reports whether the store holds more than its quota.
func (s *Store) over() bool { return s.max > 0 && s.used.Load() > s.max }

// evictIdle evicts blobs nobody has open, least recently used first, as long
// as more says so.
func (s *Store) evictIdle(more func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.idle.Front(); e != nil && more(); {
		b := e.Value.(*Blob)
		e = e.Next()
		if b.pinned {
			continue
		}
		if !b.life.TryLock() { // its map is being written: flushLoop comes back to it
			continue
		}
		held := b.held()
		err := s.evict(b)
		b.life.Unlock()
		if err != nil {
			s.log.Warn("blob not evicted", "blob", b.digest, "err", err)
			continue
		}
		s.metrics.evictions.Inc()
		s.log.Debug("blob evicted", "blob", b.digest, "bytes", held)
	}
}

// Remove takes away a blob that nobody has open; ErrInUse: somebody has, ErrPinned: it
// is to stay. That there is none is as good.
func (s *Store) Remove(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[d]
	switch {
	case s.closed:
		return ErrClosed
	case b == nil:
		return nil
	case b.refs > 0:
		return fmt.Errorf("remove %s: %w", d, ErrInUse)
	case b.pinned:
		return fmt.Errorf("remove %s: %w", d, ErrPinned)
	}
	b.life.Lock()
	defer b.life.Unlock()
	if err := s.evict(b); err != nil {
		return fmt.Errorf("remove %s: %w", d, err)
	}
	kick(s.evictKick) // empties the trash
	return nil
}

// evict moves a blob without references into the trash: one rename, however
// large it is. The caller holds s.mu and b.life.
func (s *Store) evict(b *Blob) error {
	if err := s.discardPath(b.dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	if b.elem != nil {
		s.idle.Remove(b.elem)
		b.elem = nil
	}
	delete(s.blobs, b.digest)
	b.mu.Lock()
	b.gone = true
	b.settled()
	lost := b.bytes
	b.mu.Unlock()
	s.used.Add(-lost)
	if lost > 0 {
		s.evicted(b.digest)
	}
	return nil
}

// discardPath moves whatever is at path into the trash.
func (s *Store) discardPath(path string) error {
	for {
		to := filepath.Join(s.dir, trashName, strconv.FormatInt(s.trash.Add(1), 10))
		if _, err := os.Lstat(to); err == nil {
			continue // left by an earlier run
		}
		return os.Rename(path, to)
	}
}

func (s *Store) emptyTrash() {
	dir := filepath.Join(s.dir, trashName)
	names, err := os.ReadDir(dir)
	for _, n := range names {
		if s.ctx.Err() != nil {
			return
		}
		if rerr := os.RemoveAll(filepath.Join(dir, n.Name())); rerr != nil {
			err = rerr
		}
	}
	if err != nil {
		s.log.Warn("trash of the store not emptied", "err", err)
	}
}
