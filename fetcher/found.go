package fetcher

import (
	"crypto/sha256"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// inspect has the pieces between off and end that are whole by now hashed, so
// that they can be given to others. The caller may hold c.mu.
func (n *network) inspect(c *content, off, end int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[c.digest]
	if s == nil || s.keep.Full() || s.blob.Size != c.size {
		return
	}
	size := p2p.PieceSize(s.blob.Size)
	for i := int(off / size); int64(i)*size < end; i++ {
		at, length := s.blob.Piece(i)
		if s.keep.Has(i) || s.adding[i] || s.landed[i] != nil || c.stored.Present(at, length) < length {
			continue
		}
		s.adding[i] = true
		s.found = append(s.found, i)
	}
	if len(s.found) > 0 && !s.hashing {
		s.hashing = n.f.start(s.hashFound)
	}
}

// hashFound hashes pieces that reads have put together, one at a time, and tells
// the host.
func (s *share) hashFound() {
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err == nil {
		defer b.Close()
	}
	for {
		s.n.mu.Lock()
		if len(s.found) == 0 || s.n.f.ctx.Err() != nil {
			s.hashing = false
			s.n.mu.Unlock()
			return
		}
		i := s.found[0]
		s.found = s.found[1:]
		s.n.mu.Unlock()
		s.hashOne(b, i, err)
	}
}

// hashOne hashes a piece, unless opening the blob failed.
func (s *share) hashOne(b *Blob, i int, err error) {
	var sum p2p.Sum
	var own bool
	if err == nil {
		sum, own, err = s.sum(b, i)
	}
	s.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		delete(s.adding, i)
		if err != nil { // taken away meanwhile
			return nil
		}
		return h.Filled(now, s.blob.Digest, i, sum, own)
	})
}

// sum returns the hash of a piece in the store, and whether all of it came from
// the origin. Of a blob without a digest nothing else is stored but pieces that
// were judged.
func (s *share) sum(b *Blob, i int) (sum p2p.Sum, own bool, err error) {
	off, size := s.blob.Piece(i)
	data := getBuffer(size)
	defer putBuffer(data)
	if _, err := b.c.stored.ReadAt(data, off); err != nil {
		return sum, false, err
	}
	return sha256.Sum256(data), p2p.IsName(s.blob.Digest) || len(b.c.foreign(off, size)) == 0, nil
}
