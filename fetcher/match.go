package fetcher

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// match compares the digest of the whole blob, some of which may be held.
func (s *share) match() {
	ok, err := s.hash()
	for tries := 0; err != nil && tries < 3; tries++ { // a piece was taken away meanwhile
		s.n.log.Debug("blob not hashed", "blob", s.blob.Digest, "err", err)
		ok, err = s.hash()
	}
	s.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Matched(now, s.blob.Digest, ok) })
	if !ok {
		return
	}
	s.rest()
	s.n.mu.Lock()
	s.unpin()
	s.n.mu.Unlock()
	if b, err := s.n.open(s.blob, s.n.repoOf(s)); err == nil {
		defer b.Close()
		if err := b.MarkVerified(); err != nil && !errors.Is(err, store.ErrMissing) {
			s.n.log.Warn("blob not marked as verified", "blob", s.blob.Digest, "err", err)
		}
	}
	s.indexed()
}

// rehash tells the sums of a blob that is on disk since before the start. What a
// disk has spoiled meanwhile must not become a sum, so the whole is compared
// once more, and thrown away if it is wrong.
func (s *share) rehash() {
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err != nil {
		s.n.log.Warn("kept blob cannot be read", "blob", s.blob.Digest, "err", err)
		return
	}
	defer b.Close()
	v := p2p.Verifier(s.blob.Digest)
	sums := make([]p2p.Sum, s.blob.Pieces())
	for i := range sums {
		data, err := s.read(b.c, i)
		if err != nil {
			s.n.log.Debug("kept blob not hashed", "blob", s.blob.Digest, "err", err)
			return // it was taken away, and that was told
		}
		sums[i] = sha256.Sum256(data)
		_, _ = v.Write(data) // a hash takes everything
		putBuffer(data)
	}
	if !v.Verified() {
		s.n.log.Warn("the disk has spoiled a kept blob; it is thrown away", "blob", s.blob.Digest)
		if err := b.c.discard(0, s.blob.Size); err != nil {
			s.n.log.Warn("kept blob not thrown away", "blob", s.blob.Digest, "err", err)
		}
		return
	}
	s.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Hashed(now, s.blob.Digest, sums) })
}

// hash reports whether the blob matches its digest.
func (s *share) hash() (bool, error) {
	s.rest()
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err != nil {
		return false, err
	}
	defer b.Close()
	s.n.mu.Lock()
	held := len(s.landed) > 0
	s.n.mu.Unlock()
	if !held { // or a reader may wait for them
		if err := b.c.readOut(); err != nil {
			return false, err
		}
	}
	v := p2p.Verifier(s.blob.Digest)
	for i := range s.blob.Pieces() {
		if b.Verified() {
			return true, nil
		}
		data, err := s.read(b.c, i)
		if err != nil {
			return false, err
		}
		_, _ = v.Write(data) // a hash takes everything
		putBuffer(data)
	}
	return v.Verified(), nil
}

// read returns a piece, kept or held.
func (s *share) read(c *content, i int) ([]byte, error) {
	if err := c.f.ctx.Err(); err != nil {
		return nil, context.Cause(c.f.ctx)
	}
	off, size := s.blob.Piece(i)
	buf := getBuffer(size)
	s.n.mu.Lock()
	l, held := s.landed[i], s.held
	if l != nil && l.data != nil {
		copy(buf, l.data)
		s.n.mu.Unlock()
		return buf, nil
	}
	s.n.mu.Unlock()
	if l != nil {
		_, err := held.ReadAt(buf, off)
		return buf, err
	}
	_, err := c.stored.ReadAt(buf, off)
	if err != nil && !errors.Is(err, store.ErrMissing) { // the disk does not give back what it took
		err = errors.Join(err, c.stored.Discard(off, size))
		s.n.lost(c, off, size)
	}
	return buf, err
}

// readOut returns when nobody reads the whole blob any more: whoever does hashes
// it, and will say what came of that.
func (c *content) readOut() error {
	for {
		c.mu.Lock()
		var all *Reader
		for r := range c.readers {
			if r.all {
				all = r
			}
		}
		c.mu.Unlock()
		if all == nil {
			return nil
		}
		select {
		case <-all.over:
		case <-c.f.ctx.Done():
			return context.Cause(c.f.ctx)
		}
	}
}
