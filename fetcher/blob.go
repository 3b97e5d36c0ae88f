package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// Blob is an open blob. Its methods may be called concurrently.
type Blob struct {
	c      *content
	closed atomic.Bool
	share  *share // of the network that was told that somebody wants it; nil: none
}

// Digest returns the blob's name.
func (b *Blob) Digest() digest.Digest { return b.c.digest }

// Size returns the length of the blob in bytes.
func (b *Blob) Size() int64 { return b.c.size }

// Range reads n bytes from off on, as they arrive; fewer where the blob ends.
// They are fetched from now on: all at once, or a window ahead of the reader
// where n is large. The reader ends with ctx, and its Close must be called. Its
// bytes are not verified.
func (b *Blob) Range(ctx context.Context, off, n int64, p Priority) (*Reader, error) {
	return b.reader(ctx, off, n, p, only{})
}

// From says where a read may ask for what is not in the store.
type From int

// Where a read may ask.
const (
	Anywhere   From = iota
	OriginOnly      // not peers
	PeersOnly       // not the origin, so that the read fails where no peer has the bytes
)

// RangeFrom is Range of some sources only.
func (b *Blob) RangeFrom(ctx context.Context, off, n int64, p Priority, from From) (io.ReadCloser, error) {
	r, err := b.reader(ctx, off, n, p, only{origin: from == OriginOnly, peers: from == PeersOnly})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// only says what is particular about a read.
type only struct {
	origin  bool // no bytes of peers
	peers   bool // no bytes of the origin, unless they come anyway
	hops    int  // it serves another host's read, which was passed on so often
	follows bool // it waits for what others want, and wants nothing itself
}

func (b *Blob) reader(ctx context.Context, off, n int64, p Priority, o only) (*Reader, error) {
	c := b.c
	if off < 0 || n < 0 || off > c.size || p < OnDemand || p >= priorities {
		return nil, fmt.Errorf("fetcher: read %s: no range of %d bytes at %d", c.digest, n, off)
	}
	r := &Reader{c: c, ctx: ctx, only: o, over: make(chan struct{}), pos: off, end: off + min(n, c.size-off)}
	r.prio.Store(int32(p))
	r.long = r.end-r.pos > c.span()
	r.all = r.end-r.pos == c.size
	stored := r.end - r.pos
	for _, gap := range c.stored.Missing(r.pos, stored) {
		stored -= gap.Len
	}
	c.f.metrics.bytes.WithLabelValues("store").Add(float64(stored))
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.closed.Load() {
		return nil, ErrClosed
	}
	c.refs++
	c.stats.Stored += stored
	if stored < r.end-r.pos && (p != Background || !c.f.store.Full()) {
		r.planned = true
		c.plan(r)
	}
	return r, nil
}

// ReadAt reads len(p) bytes at off, or fewer with io.EOF where the blob ends.
func (b *Blob) ReadAt(ctx context.Context, p []byte, off int64, prio Priority) (int, error) {
	r, err := b.reader(ctx, off, int64(len(p)), prio, only{})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := io.ReadFull(r, p[:r.end-off])
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Lazily says that who read all of the blob does so no more: from now on it is
// fetched as it is read.
func (b *Blob) Lazily() {
	if n := b.c.f.network; n != nil {
		n.lazily(b.c)
	}
}

// Missing returns which of the n bytes from off on are not in the store.
func (b *Blob) Missing(off, n int64) []store.Range { return b.c.stored.Missing(off, n) }

// Verified reports whether the whole blob is in the store and has matched its
// digest.
func (b *Blob) Verified() bool { return b.c.stored.Verified() }

// MarkVerified records that the caller has read the whole blob and matched its
// digest.
func (b *Blob) MarkVerified() error { return b.c.stored.MarkVerified() }

// Verify fetches what is missing of the blob and compares its digest. If that
// does not match, the whole content is dropped and the error is ErrDigest.
// ErrFull: the digest is right, but the disk has no room for all of the blob.
func (b *Blob) Verify(ctx context.Context, p Priority) error {
	c := b.c
	if b.Verified() {
		return nil
	}
	v := c.stored.Verifier()
	r, err := b.Range(ctx, 0, c.size, p)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	if _, err := io.CopyBuffer(struct{ io.Writer }{v}, struct{ io.Reader }{r}, buf[:]); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	err = v.Commit()
	switch {
	case errors.Is(err, store.ErrCorrupt):
		return errors.Join(fmt.Errorf("verify %s: %w", c.digest, ErrDigest), c.discard(0, c.size))
	case errors.Is(err, store.ErrMissing):
		return fmt.Errorf("verify %s: %w", c.digest, ErrFull)
	}
	return err
}

// Discard forgets n bytes from off on, which the caller found to be wrong: the
// next read asks for them again, elsewhere if there is another place.
func (b *Blob) Discard(off, n int64) error {
	if err := b.c.discard(off, n); err != nil {
		return fmt.Errorf("discard of %s: %w", b.c.digest, err)
	}
	return nil
}

// Stats returns where the blob's bytes came from.
func (b *Blob) Stats() Stats {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	s := b.c.stats
	s.Fetched = maps.Clone(s.Fetched)
	return s
}

// Close gives the blob back. Readers of it that are open go on.
func (b *Blob) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		if b.share != nil {
			b.share.leave(b.c)
		}
		b.c.leave()
	}
	return nil
}
