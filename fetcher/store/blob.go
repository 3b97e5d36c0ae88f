package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Blob is what is there of one blob's content, shared by all who opened it.
type Blob struct {
	s      *Store
	digest digest.Digest
	size   int64
	dir    string

	refs   int           // guarded by Store.mu
	elem   *list.Element // in Store.idle; guarded by Store.mu
	pinned bool          // guarded by Store.mu

	// file is opened when the blob is, or by the first write: a full disk must
	// not keep anyone from opening a blob. It is set before have lists a byte
	// and closed when no reference is left.
	file *os.File

	life  sync.Mutex   // held while a map is written or the folder goes away
	write sync.Mutex   // held by the one writer; guards file while the blob is open
	io    sync.RWMutex // read-held by readers; held to take bytes away

	mu       sync.Mutex // guards what follows
	have     ranges
	bytes    int64 // in have
	verified bool
	epoch    int       // counts the times bytes were taken away
	gone     bool      // evicted: the folder belongs to nobody, or to another Blob
	stale    bool      // map.boot is behind
	urgent   bool      // the durable map should not wait for syncEvery
	since    time.Time // when the durable map fell behind; zero: it did not
}

// Digest returns the blob's name.
func (b *Blob) Digest() digest.Digest { return b.digest }

// Size returns the length of the whole blob.
func (b *Blob) Size() int64 { return b.size }

// open opens the data file, and makes it if create is set.
func (b *Blob) open(create bool) error {
	if !create {
		f, err := os.OpenFile(filepath.Join(b.dir, dataName), os.O_RDWR, 0)
		b.file = f
		return err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, dataName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	b.file = f
	return nil
}

// Close gives back one reference. The blob stays on disk until the quota needs
// its room.
func (b *Blob) Close() error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.refs--; b.refs < 0 {
		panic("store: blob closed too often")
	}
	if b.refs > 0 || s.closed {
		return nil
	}
	b.elem = s.idle.PushBack(b)
	var err error
	if b.file != nil {
		now := time.Now()
		_ = os.Chtimes(b.file.Name(), now, now) // last use, for the order after a restart; losing it costs nothing
		err = b.file.Close()
		b.file = nil
	}
	if b.held() == 0 && b.life.TryLock() { // not worth a folder
		defer b.life.Unlock()
		kick(s.evictKick) // empties the trash
		return errors.Join(err, s.evict(b))
	}
	if s.over() {
		kick(s.evictKick)
	}
	return err
}

// Prepare makes the files that the first Fill needs, to save it the time. What goes wrong
// then does again in Fill, whose error says so.
func (b *Blob) Prepare() {
	b.write.Lock()
	defer b.write.Unlock()
	if b.file == nil {
		_ = b.open(true)
	}
}

// Fill stores those bytes of p that are missing, leaves the others as they are,
// and returns how many it stored. The error is ErrFull when the disk has no
// room.
func (b *Blob) Fill(p []byte, off int64) (stored int64, err error) {
	if off < 0 || int64(len(p)) > b.size-off {
		return 0, fmt.Errorf("write %s at %d: %d bytes lie outside its %d", b.digest, off, len(p), b.size)
	}
	b.write.Lock()
	defer b.write.Unlock()
	for _, r := range b.Missing(off, int64(len(p))) {
		if b.file == nil {
			if err := b.open(true); err != nil {
				return stored, b.writeError(err)
			}
		}
		if _, err := b.file.WriteAt(p[r.Off-off:r.End()-off], r.Off); err != nil {
			return stored, b.writeError(err)
		}
		stored += r.Len
		b.mu.Lock()
		b.bytes += b.have.add(r.Off, r.End())
		b.touch()
		b.mu.Unlock()
		b.s.grow(r.Len)
	}
	return stored, nil
}

func (b *Blob) writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		b.s.noSpace()
		return fmt.Errorf("write %s: %w: %w", b.digest, ErrFull, err)
	}
	return fmt.Errorf("write %s: %w", b.digest, err)
}

// ReadAt reads len(p) bytes at off, or none: ErrMissing if they are not all
// there.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b.io.RLock()
	defer b.io.RUnlock()
	if b.Present(off, int64(len(p))) < int64(len(p)) {
		return 0, fmt.Errorf("read %s at %d: %w", b.digest, off, ErrMissing)
	}
	n, err := b.file.ReadAt(p, off)
	if err != nil {
		err = fmt.Errorf("read %s at %d: %w", b.digest, off, err)
	}
	return n, err
}

// Present returns how many of the n bytes from off on are there without a gap.
func (b *Blob) Present(off, n int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have.present(off, min(off+n, b.size))
}

// Missing returns which of the n bytes from off on are not there, in order.
func (b *Blob) Missing(off, n int64) []Range {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have.missing(max(off, 0), min(off+n, b.size))
}

// Complete reports whether all bytes are there.
func (b *Blob) Complete() bool { return b.held() == b.size }

// Held returns how many bytes are there.
func (b *Blob) Held() int64 { return b.held() }

func (b *Blob) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// Verified reports whether the whole content has matched the digest.
func (b *Blob) Verified() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.verified
}

// MarkVerified records the caller's word that the whole content, as it is in
// the store, matches the digest. It returns ErrMissing if bytes are missing.
func (b *Blob) MarkVerified() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.markVerified()
}

func (b *Blob) markVerified() error {
	if b.bytes != b.size {
		return fmt.Errorf("verify %s: %w", b.digest, ErrMissing)
	}
	if !b.verified {
		b.verified, b.urgent = true, true
		b.touch()
	}
	return nil
}

// VerifyDigest hashes the content, which must be complete, and marks the blob
// verified. If it does not match, it is dropped and the error is ErrCorrupt.
func (b *Blob) VerifyDigest(ctx context.Context) error {
	v := b.Verifier()
	buf := make([]byte, 256<<10)
	for off := int64(0); off < b.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := b.ReadAt(buf[:min(int64(len(buf)), b.size-off)], off)
		if err != nil {
			return err
		}
		_, _ = v.Write(buf[:n]) // a hash takes everything
		off += int64(n)
	}
	return v.Commit()
}

// Verifier takes a blob's content in order, as its reader saw it.
type Verifier struct {
	b     *Blob
	match digest.Verifier
	epoch int
}

var _ io.Writer = (*Verifier)(nil)

// Verifier starts to hash the blob. What is written to it must be what the
// store holds, from the first byte on.
func (b *Blob) Verifier() *Verifier {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Verifier{b: b, match: p2p.Verifier(b.digest), epoch: b.epoch}
}

func (v *Verifier) Write(p []byte) (int, error) { return v.match.Write(p) }

// Commit compares the digests and marks the blob verified; on a mismatch it
// drops the content and returns ErrCorrupt. ErrMissing: the digest was right,
// but bytes were taken away meanwhile or never kept.
func (v *Verifier) Commit() error {
	b := v.b
	if !v.match.Verified() {
		return errors.Join(fmt.Errorf("verify %s: %w", b.digest, ErrCorrupt), b.Drop())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.epoch != v.epoch {
		return fmt.Errorf("verify %s: %w", b.digest, ErrMissing)
	}
	return b.markVerified()
}

// Drop forgets the whole content.
func (b *Blob) Drop() error { return b.Discard(0, b.size) }

// Discard forgets n bytes from off on, on disk too before it returns, so that
// what is written there next cannot be mistaken for what was there before.
func (b *Blob) Discard(off, n int64) error {
	b.life.Lock()
	defer b.life.Unlock()
	b.write.Lock()
	defer b.write.Unlock()
	b.io.Lock()
	b.mu.Lock()
	lost := b.have.remove(max(off, 0), min(off+n, b.size))
	b.bytes -= lost
	empty := len(b.have) == 0
	if lost > 0 {
		b.verified = false
		b.epoch++
		b.touch()
	}
	b.mu.Unlock()
	b.io.Unlock()
	if lost == 0 {
		return nil
	}
	b.s.grow(-lost)
	err := removeFile(b.dir, bootMapName)
	if err == nil {
		err = b.flush(true)
	}
	if err != nil { // no map is as good: it lists nothing
		err = removeFile(b.dir, mapName)
	}
	if empty && b.file != nil {
		err = errors.Join(err, b.file.Truncate(0))
	}
	return err
}

func removeFile(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
