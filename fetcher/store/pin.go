package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// pinName is a file beside a blob's content that says that it stays.
const pinName = "pin"

// ErrPinned reports that a blob stays until Unpin.
var ErrPinned = errors.New("it is pinned")

// Pin has a blob stay, whatever the quota, until Unpin; across restarts, too.
// ErrMissing: nothing of it is there.
func (s *Store) Pin(d digest.Digest) error {
	return s.pin(d, func(b *Blob) error {
		f, err := os.OpenFile(filepath.Join(b.dir, pinName), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close(), b.flush(true), syncDir(b.dir)); err != nil {
			return err
		}
		b.pinned = true
		return nil
	})
}

// Unpin takes that back. ErrMissing: nothing of the blob is there.
func (s *Store) Unpin(d digest.Digest) error {
	return s.pin(d, func(b *Blob) error {
		if err := removeFile(b.dir, pinName); err != nil {
			return err
		}
		b.pinned = false
		kick(s.evictKick)
		return nil
	})
}

func (s *Store) pin(d digest.Digest, change func(b *Blob) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[d]
	if s.closed {
		return ErrClosed
	}
	if b == nil || b.held() == 0 {
		return fmt.Errorf("pin %s: %w", d, ErrMissing)
	}
	b.life.Lock()
	defer b.life.Unlock()
	if err := change(b); err != nil {
		return fmt.Errorf("pin %s: %w", d, err)
	}
	return nil
}

// Pinned reports whether a blob stays until Unpin.
func (s *Store) Pinned(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[d]
	return b != nil && b.pinned
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Info says what is there of a blob.
type Info struct {
	Digest   digest.Digest
	Size     int64 // of the whole blob
	Held     int64 // bytes that are there
	Verified bool  // all are, and have matched the digest
	Pinned   bool
	InUse    bool      // somebody has it open
	Used     time.Time // when it was last given back, or written to
}

// List says what is there of each blob, in no order.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.blobs))
	for _, b := range s.blobs {
		i := Info{Digest: b.digest, Size: b.size, Held: b.held(), Verified: b.Verified(), Pinned: b.pinned, InUse: b.refs > 0}
		if i.Held == 0 && i.Size > 0 {
			continue
		}
		if fi, err := os.Stat(filepath.Join(b.dir, dataName)); err == nil {
			i.Used = fi.ModTime()
		}
		list = append(list, i)
	}
	return list
}
