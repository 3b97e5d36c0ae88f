package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

// serving is what this host gives to others: pieces that were judged, and for
// who asks it to, bytes it fetches for them.
type serving struct{ n *network }

var _ peer.Blobs = serving{}

// orderWithin is how much later than a child that was told of it a seed may hear
// that it owns a blob.
const orderWithin = time.Second

// find returns the share of a blob. A seed waits a moment for the order: its
// children hear from the scheduler on other streams, and may be here first. The
// caller holds n.mu, which find gives up meanwhile.
func (v serving) find(d digest.Digest) (*share, error) {
	t := time.NewTimer(orderWithin)
	defer t.Stop()
	for wait := v.n.seed; ; {
		if s := v.n.shares[d]; s != nil {
			return s, nil
		}
		if !wait {
			return nil, fmt.Errorf("blob %s: %w", d, peer.ErrNotFound)
		}
		more := v.n.more
		v.n.mu.Unlock()
		select {
		case <-more:
		case <-t.C:
			wait = false
		case <-v.n.f.ctx.Done():
			wait = false
		}
		v.n.mu.Lock()
	}
}

func (v serving) Stat(d digest.Digest) (int64, error) {
	v.n.mu.Lock()
	defer v.n.mu.Unlock()
	s, err := v.find(d)
	if err != nil {
		return 0, err
	}
	return s.blob.Size, nil
}

func (v serving) Have(d digest.Digest) (*p2p.Have, <-chan struct{}, error) {
	v.n.mu.Lock()
	defer v.n.mu.Unlock()
	s, err := v.find(d)
	if err != nil {
		return nil, nil, err
	}
	return s.have.Clone(), s.changed, nil
}

func (v serving) Open(ctx context.Context, d digest.Digest, off, n int64, ask peer.Ask) (io.ReadCloser, int64, error) {
	v.n.mu.Lock()
	s, err := v.find(d)
	var here int64
	if err == nil {
		here = s.run(off, n)
	}
	v.n.mu.Unlock()
	switch {
	case err != nil:
		return nil, 0, err
	case here > 0 && (here == n || !ask.Through):
		return v.file(s, off, here)
	case !ask.Through || ask.Hops >= peer.MaxHops:
		return nil, 0, fmt.Errorf("bytes %d-%d of %s: %w", off, off+n-1, d, peer.ErrNotFound)
	}
	return v.through(ctx, s, off, n, ask)
}

// run returns how many of the n bytes from off on may be given. The caller
// holds n.mu.
func (s *share) run(off, n int64) int64 {
	size := p2p.PieceSize(s.blob.Size)
	pos, end := off, off+n
	for i := int(off / size); pos < end && s.have.Has(i); i++ {
		at, length := s.blob.Piece(i)
		pos = min(at+length, end)
	}
	return pos - off
}

// judged returns how many of the n bytes from off on are in pieces that were
// judged. The caller may hold content.mu.
func (n *network) judged(c *content, off, size int64) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.shares[c.digest]; s != nil {
		return s.run(off, min(size, c.size-off))
	}
	return 0
}

// file gives bytes that are in the store. They are looked for once more when the
// file is open, or it might be one of the same blob that was made after this one
// was evicted, and have holes there.
func (v serving) file(s *share, off, n int64) (io.ReadCloser, int64, error) {
	f, err := v.n.f.store.File(s.blob.Digest)
	if errors.Is(err, store.ErrMissing) {
		return nil, 0, errors.Join(err, peer.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	v.n.mu.Lock()
	here := s.run(off, n)
	v.n.mu.Unlock()
	if here < n {
		return nil, 0, errors.Join(fmt.Errorf("bytes %d-%d of %s went: %w", off, off+n-1, s.blob.Digest, peer.ErrNotFound), f.Close())
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, n, nil
}

// through reads bytes for another host: from the store, this host's own parents
// or the origin.
func (v serving) through(ctx context.Context, s *share, off, n int64, ask peer.Ask) (io.ReadCloser, int64, error) {
	b, err := v.n.open(s.blob, v.n.repoOf(s))
	if err != nil {
		return nil, 0, err
	}
	r, err := b.reader(ctx, off, n, ask.Priority, only{hops: ask.Hops + 1})
	if err != nil {
		return nil, 0, errors.Join(err, b.Close())
	}
	return passing{r, b}, n, nil
}

// passing is a read for another host.
type passing struct {
	io.ReadCloser
	blob *Blob
}

func (p passing) Close() error { return errors.Join(p.ReadCloser.Close(), p.blob.Close()) }
