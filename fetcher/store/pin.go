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
	return s.pin(d, true, func(b *Blob) error {
		f, err := os.OpenFile(filepath.Join(b.dir, pinName), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close(), b.flush(true), syncDir(b.dir))
	})
}

// Unpin takes that back. ErrMissing: nothing of the blob is there.
func (s *Store) Unpin(d digest.Digest) error {
	return s.pin(d, false, func(b *Blob) error { return removeFile(b.dir, pinName) })
}

// pin changes whether a blob stays, first on disk. It has the blob open meanwhile, and
// nobody else waits for the disk.
func (s *Store) pin(d digest.Digest, pinned bool, change func(b *Blob) error) error {
	b, err := s.there(d)
	if err == nil {
		b.life.Lock()
		err = change(b)
		b.life.Unlock()
		if err == nil {
			s.mu.Lock()
			b.pinned = pinned
			s.mu.Unlock()
		}
		err = errors.Join(err, b.Close())
	}
	if err != nil {
		return fmt.Errorf("pin %s: %w", d, err)
	}
	kick(s.evictKick) // there may be room to make
	return nil
}

// there opens a blob of which something is there.
func (s *Store) there(d digest.Digest) (*Blob, error) {
	s.mu.Lock()
	b := s.blobs[d]
	s.mu.Unlock()
	if b == nil {
		return nil, ErrMissing
	}
	b, err := s.Blob(d, b.size)
	if err == nil && b.held() == 0 {
		err = errors.Join(ErrMissing, b.Close())
	}
	return b, err
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
	list := make([]Info, 0, len(s.blobs))
	for _, b := range s.blobs {
		i := Info{Digest: b.digest, Size: b.size, Held: b.held(), Verified: b.Verified(), Pinned: b.pinned, InUse: b.refs > 0}
		if i.Held > 0 || i.Size == 0 {
			list = append(list, i)
		}
	}
	s.mu.Unlock()
	for k := range list {
		if fi, err := os.Stat(filepath.Join(s.blobDir(list[k].Digest), dataName)); err == nil {
			list[k].Used = fi.ModTime()
		}
	}
	return list
}
