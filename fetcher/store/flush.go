package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// touch notes that the maps are behind. The caller holds b.mu.
func (b *Blob) touch() {
	b.stale = true
	if !b.since.IsZero() {
		return
	}
	b.since = time.Now()
	b.s.dirtyMu.Lock()
	b.s.dirty[b] = struct{}{}
	b.s.dirtyMu.Unlock()
	kick(b.s.flushKick)
}

// flushLoop writes the maps of dirty blobs, once a second while there are any.
func (s *Store) flushLoop() {
	t := time.NewTimer(0)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-s.flushKick:
		case <-s.ctx.Done():
			return
		}
		t.Reset(bootEvery)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
		err := s.flushAll(false)
		if err != nil && !failing { // once, not every second
			s.log.Warn("maps of stored blobs not written", "err", err)
		}
		failing = err != nil
		if s.anyDirty() {
			kick(s.flushKick)
		}
		if s.over() { // eviction passed over blobs that were being written
			kick(s.evictKick)
		}
	}
}

func (s *Store) anyDirty() bool {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	return len(s.dirty) > 0
}

// flushAll writes map.boot of the dirty blobs, or the durable map where it is
// due or where all is set.
func (s *Store) flushAll(all bool) error {
	s.dirtyMu.Lock()
	dirty := make([]*Blob, 0, len(s.dirty))
	for b := range s.dirty {
		dirty = append(dirty, b)
	}
	s.dirtyMu.Unlock()
	var errs error
	for _, b := range dirty {
		b.life.Lock()
		err := b.flush(all || b.due())
		b.life.Unlock()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", b.digest, err))
		}
	}
	return errs
}

func (b *Blob) due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.urgent || time.Since(b.since) >= syncEvery
}

// flush writes one of the two maps. The caller holds b.life.
func (b *Blob) flush(durable bool) error {
	b.mu.Lock()
	m := blobMap{size: b.size, verified: b.verified, have: append(ranges(nil), b.have...)}
	skip := b.gone || !durable && !b.stale
	if !skip {
		b.stale = false
		if durable {
			b.settled()
		}
	}
	b.mu.Unlock()
	switch {
	case skip:
		return nil
	case len(m.have) == 0: // no map says that, too
		return b.unless(errors.Join(removeFile(b.dir, bootMapName), removeFile(b.dir, mapName)))
	case !durable:
		m.boot = b.s.boot
		return b.unless(writeMap(b.dir, bootMapName, m, false))
	}
	// The ranges above were written before this sync, so it covers them.
	if err := syncData(filepath.Join(b.dir, dataName)); err != nil {
		return b.unless(err)
	}
	if err := b.unless(writeMap(b.dir, mapName, m, true)); err != nil {
		return err
	}
	return removeFile(b.dir, bootMapName)
}

// Sync makes what is there durable: a crash of the machine loses none of it.
func (b *Blob) Sync() error {
	b.life.Lock()
	defer b.life.Unlock()
	return b.flush(true)
}

// settled notes that the durable map is up to date. The caller holds b.mu.
func (b *Blob) settled() {
	b.since, b.urgent = time.Time{}, false
	b.s.dirtyMu.Lock()
	delete(b.s.dirty, b)
	b.s.dirtyMu.Unlock()
}

// unless puts the blob back among the dirty if err is not nil.
func (b *Blob) unless(err error) error {
	if err != nil {
		b.mu.Lock()
		b.touch()
		b.mu.Unlock()
	}
	return err
}

func syncData(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fdatasync(int(f.Fd()))
}
